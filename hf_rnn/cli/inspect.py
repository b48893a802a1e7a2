"""`hf-rnn inspect`: print each stage of a model for a text: tokens, ids, shapes, pooling weights, scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..training.settings import SettingsParser, expand_home, setting
from ..utils.errors import UserError
from ..utils.text_checks import check_text
from .console import ModelFlags, format_columns

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BAR = 40  # characters for a weight of 1


@dataclass
class InspectArguments(ModelFlags):
    """Flags of this verb."""

    text: str | None = setting(None, "a text", word=True)
    figure: str | None = setting(None, "PNG file for a picture of gates and states over the text")


def run(argv: Sequence[str]) -> None:
    """Print the stages of a text."""
    (arguments,) = SettingsParser(
        InspectArguments,
        prog="hf-rnn inspect",
        description="Show each stage of a model for a text: tokens, ids, shapes, weights of the pooling, scores.",
        example="my-model 'so good' --figure gates.png",
    ).parse(argv)
    expand_home(arguments, "figure")
    name, text = arguments.model, arguments.text
    if text is None:
        raise UserError(f"--text is missing: type hf-rnn inspect {name} 'so good'")
    check_text(text)
    arguments.check_model()
    from ..hub import loading as model_loading
    from ..tasks import check_verb

    model_loading.quiet()
    model, tokenizer = model_loading.load_model(name, arguments.revision)
    if model.config.sep_token_id is not None:
        raise UserError(f"{name} reads pairs of texts: hf-rnn inspect shows single ones; use hf-rnn predict")
    check_verb(model.config, "predict")
    print("\n\n".join(_describe_stages(model, tokenizer, text, arguments.figure)))


def _describe_stages(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, figure: str | None
) -> list[str]:
    """Return the tables of the output, and draw the figure."""
    import torch

    from ..evaluation.figures import plot_states
    from ..evaluation.scores import check_finite_logits
    from ..inference.attribution import words_read
    from ..inference.reference import read_gates
    from ..tasks.answers import compute_scores, score_kind

    config: Any = model.config
    encoded = tokenizer(text, truncation=True)
    ids = encoded["input_ids"]
    input_ids = torch.tensor([ids], dtype=torch.long, device=model.device)  # (1, T)
    with torch.inference_mode():
        outputs = model(input_ids, torch.ones_like(input_ids), output_hidden_states=True, return_dict=True)
    logits = outputs.logits.float()
    check_finite_logits(logits)
    tokens = tokenizer.convert_ids_to_tokens(ids)
    if figure is not None:
        spans = encoded[0].offsets if tokenizer.is_fast else [(0, 0)] * len(tokens)
        pieces = [text[start:end].strip() or token for (start, end), token in zip(spans, tokens, strict=True)]
        plot_states(read_gates(model, outputs.hidden_states), pieces, figure)
    words = words_read(tokenizer, text, encoded) or tokens
    rows = [[token, str(number), word] for token, number, word in zip(tokens, ids, words, strict=True)]
    tables = [format_columns([["token", "id", "word"], *rows]) if rows else "the text has no tokens"]

    pooler = getattr(model, "pooler", None)  # missing in a head that answers for each token
    embedding, *layers = (str(tuple(states.shape)) for states in outputs.hidden_states)
    about = f"{config.cell_type}, {'both directions' if config.bidirectional else 'one direction'}"
    kind, axes = "layer", "batch, time, directions x hidden"
    if config.block_type == "residual":
        kind, axes = "block", "batch, time, residual stream"
    stages = [
        ["stage", "shape", "axes"],
        ["token ids", str(tuple(input_ids.shape)), "batch, time"],
        ["embedding", embedding, "batch, time, embedding"],
        *([f"{kind} {number} ({about})", shape, axes] for number, shape in enumerate(layers, 1)),
        *([[f"pooling ({config.pooling})", str((1, pooler.output_size)), "batch, pooled"]] if pooler else []),
        ["logits", str(tuple(logits.shape)), "batch, classes" if pooler else "batch, time, tags"],
    ]
    tables.append(format_columns(stages))
    if pooler is None:
        best = logits[0].softmax(dim=-1).max(dim=-1)
        tags = [f"{token}  {config.id2label[tag]}" for token, tag in zip(tokens, best.indices.tolist(), strict=True)]
        return [*tables, _draw_bars("token  tag", "score", tags, best.values.tolist())]
    if outputs.pooling_weights is not None and rows:
        tables.append(_draw_bars("token", "weight", tokens, outputs.pooling_weights[0].tolist()))
    scores = compute_scores(logits.numpy(), config)[0].tolist()
    labels = [config.id2label[index] for index in range(len(scores))]
    return [*tables, _draw_bars("label", "score", labels, scores, width=0 if score_kind(config) == "values" else _BAR)]


def _draw_bars(title: str, quantity: str, names: Sequence[str], values: Sequence[float], width: int = _BAR) -> str:
    """Return a table with a bar for each value from 0 to 1."""
    bars = [[name, f"{value:.3f}", "█" * round(width * value)] for name, value in zip(names, values, strict=True)]
    return format_columns([[title, quantity, ""], *bars])
