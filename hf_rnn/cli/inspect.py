"""`hf-rnn inspect`: print each stage of a model for a text: tokens, ids, shapes, pooling weights, scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..training.arguments.parser import SettingsParser, expand_home, setting
from ..utils.errors import UserError
from ..utils.text_checks import check_text
from .console import ModelFlags, escape_controls, format_columns

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BAR = 40  # characters for a weight of 1


@dataclass
class InspectArguments(ModelFlags):
    """Flags of this verb."""

    text: list[str] | None = setting(None, "a text; may be given several times", word=True)
    figure: str | None = setting(None, "PNG file for a picture of gates and states over the text")


def run(argv: Sequence[str]) -> None:
    """Print the stages of each text."""
    (arguments,) = SettingsParser(
        InspectArguments,
        prog="hf-rnn inspect",
        description="Show each stage of a model for a text: tokens, ids, shapes, weights of the pooling, scores.",
        example="my-model 'so good' --figure gates.png",
    ).parse(argv)
    expand_home(arguments, "figure")
    name, texts = arguments.model, arguments.text or []
    if not texts:
        raise UserError(f"--text is missing: type hf-rnn inspect {name} 'so good'")
    if arguments.figure is not None and len(texts) > 1:
        raise UserError(f"--figure draws one text: found {len(texts)}; give --text once")
    for text in texts:
        check_text(text)
    arguments.check_model()
    from ..hub import loading as model_loading
    from ..tasks import check_verb

    model_loading.quiet()
    model, tokenizer = model_loading.load_model(name, arguments.revision)
    if model.config.sep_token_id is not None:
        raise UserError(f"{name} reads pairs of texts: hf-rnn inspect shows single ones; use hf-rnn predict")
    check_verb(model.config, "predict")
    for number, text in enumerate(texts):
        title = [escape_controls(text)] * (len(texts) > 1)
        print(
            "\n" * (2 * (number > 0))
            + "\n\n".join([*title, *_describe_stages(model, tokenizer, text, arguments.figure)])
        )


def _describe_stages(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, figure: str | None
) -> list[str]:
    """Return the tables of the output, and draw the figure."""
    import torch

    from ..evaluation.figures import plot_states
    from ..evaluation.scores import check_finite_logits
    from ..inference import reference as plain_inference
    from ..inference.attribution import words_read
    from ..tasks.answers import score_kind

    encoded = tokenizer(text, truncation=True)
    ids = encoded["input_ids"]
    input_ids = torch.tensor([ids], dtype=torch.long, device=model.device)  # (1, T)
    pooled: list[torch.Tensor] = []  # empty for a head that answers for each token
    poolers = (part for name, part in model.named_children() if name == "pooler")
    hooks = [part.register_forward_hook(lambda part, inputs, output: pooled.append(output[0])) for part in poolers]
    with torch.inference_mode():
        outputs = model(input_ids, torch.ones_like(input_ids), output_hidden_states=True, return_dict=True)
    for hook in hooks:
        hook.remove()
    check_finite_logits(outputs.logits.float())
    tokens = tokenizer.convert_ids_to_tokens(ids)
    if figure is not None:
        spans = encoded[0].offsets if tokenizer.is_fast else [(0, 0)] * len(tokens)
        pieces = [text[start:end].strip() or token for (start, end), token in zip(spans, tokens, strict=True)]
        plot_states(plain_inference.read_gates(model, outputs.hidden_states), pieces, figure)
    words = words_read(tokenizer, text, encoded) or tokens
    rows = [[token, str(number), word] for token, number, word in zip(tokens, ids, words, strict=True)]
    tables = [format_columns([["token", "id", "word"], *rows]) if rows else "the text has no tokens"]

    embedding, *layers = outputs.hidden_states
    layer = f"{model.config.cell_type}, {'both directions' if model.config.bidirectional else 'one direction'}"
    kind, axes = "layer", "batch, time, directions x hidden"
    if model.config.block_type == "residual":
        kind, axes = "block", "batch, time, residual stream"
    stages = [
        ("token ids", "batch, time", input_ids),
        ("embedding", "batch, time, embedding", embedding),
        *((f"{kind} {number} ({layer})", axes, states) for number, states in enumerate(layers, 1)),
        *((f"pooling ({model.config.pooling})", "batch, pooled", vector) for vector in pooled),
        ("logits", "batch, classes" if pooled else "batch, time, tags", outputs.logits),
    ]
    shapes = [[stage, str(tuple(value.shape)), axes] for stage, axes, value in stages]
    tables.append(format_columns([["stage", "shape", "axes"], *shapes]))

    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    if not pooled:
        best = outputs.logits[0].float().softmax(dim=-1).max(dim=-1)
        found = [f"{token}  {labels[tag]}" for token, tag in zip(tokens, best.indices.tolist(), strict=True)]
        tables.append(format_columns([["token  tag", "score", ""], *_draw_bars(found, best.values.tolist())]))
        return tables
    if outputs.pooling_weights is not None and rows:
        bars = _draw_bars(tokens, outputs.pooling_weights[0].tolist())
        tables.append(format_columns([["token", "weight", ""], *bars]))
    scores = plain_inference.compute_scores(model, outputs.logits.float())[0].tolist()
    labels = [model.config.id2label[index] for index in range(len(scores))]
    bars = _draw_bars(labels, scores)
    if score_kind(model.config) == "values":
        bars = [[name, number, ""] for name, number, _ in bars]
    tables.append(format_columns([["label", "score", ""], *bars]))
    return tables


def _draw_bars(names: Sequence[str], shares: Sequence[float]) -> list[list[str]]:
    return [
        [name, f"{share:.3f}", "█" * round(_BAR * min(max(share, 0), 1))]
        for name, share in zip(names, shares, strict=True)
    ]
