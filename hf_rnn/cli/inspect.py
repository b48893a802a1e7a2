"""`hf-rnn inspect`: print each stage of a model for a text: tokens, ids, shapes, pooling weights, scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..data import Location
from ..models.settings_rnn import setting
from ..settings.flags import Flags
from ..utils.errors import UserError, check_text
from .console import ModelFlags, format_columns

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

    from ..models.modeling_rnn import RnnSequenceClassifierOutput

_BAR = 40  # characters for a weight of 1


@dataclass
class InspectArguments(ModelFlags):
    """Flags of this verb."""

    text: str | None = setting(None, "a text")
    figure: Location | None = setting(None, "PNG file for a picture of gates and states over the text")


FLAGS = Flags(
    "inspect",
    (InspectArguments,),
    "Show each stage of a model for a text: tokens, ids, shapes, weights of the pooling, scores.",
    "my-model 'so good' --figure gates.png",
    words=("model", "text"),
)


def run(argv: Sequence[str]) -> None:
    """Print the stages of a text, and draw the figure."""
    arguments: InspectArguments = FLAGS.build(argv)
    name, text = arguments.model, arguments.text
    if text is None:
        raise UserError(f"--text is missing: type hf-rnn inspect {name} 'so good'")
    check_text(text)
    arguments.check_model()
    import torch

    from ..evaluation.figures import plot_states
    from ..evaluation.scores import check_finite_logits
    from ..hub import model_folder
    from ..inference.engines.torch import read_gates
    from ..tasks import check_verb

    model_folder.quiet()
    model, tokenizer = model_folder.load_model(name, arguments.revision)
    if model.config.sep_token_id is not None:
        raise UserError(f"{name} reads pairs of texts: hf-rnn inspect shows single ones; use hf-rnn predict")
    check_verb(model.config, "predict")
    encoded = tokenizer(text, truncation=True)
    input_ids = torch.tensor([encoded["input_ids"]], dtype=torch.long)  # (1, T)
    with torch.inference_mode():
        outputs = model(input_ids, torch.ones_like(input_ids), output_hidden_states=True, return_dict=True)
    check_finite_logits(outputs.logits)
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    if arguments.figure is not None:
        plot_states(read_gates(model, outputs.hidden_states), tokens, arguments.figure)
    print("\n\n".join(_describe(model, tokenizer, text, encoded, tokens, outputs)))


def _describe(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    encoded: BatchEncoding,
    tokens: list[str],
    outputs: RnnSequenceClassifierOutput,
) -> Iterator[str]:
    """Yield the tables of the output."""
    from ..inference.attribution import words_read
    from ..tasks import compute_scores, score_kind

    config, pooler = model.config, getattr(model, "pooler", None)  # a tagger has no pooler
    words = words_read(tokenizer, text, encoded) or tokens
    ids = list(map(str, encoded["input_ids"]))
    yield format_columns([["token", "id", "word"], *zip(tokens, ids, words, strict=True)])
    kind, axes = "layer", "batch, time, directions x hidden"
    if config.block_type == "residual":
        kind, axes = "block", "batch, time, residual stream"
    kind = f"{kind} {{}} ({config.cell_type}, {'both directions' if config.bidirectional else 'one direction'})"
    embedding, *layers = (str(tuple(states.shape)) for states in outputs.hidden_states or ())
    stages = [["stage", "shape", "axes"], ["token ids", f"(1, {len(tokens)})", "batch, time"]]
    stages += [["embedding", embedding, "batch, time, embedding"]]
    stages += [[kind.format(number), shape, axes] for number, shape in enumerate(layers, 1)]
    stages += [[f"pooling ({config.pooling})", f"(1, {pooler.output_size})", "batch, pooled"]] if pooler else []
    logits = outputs.logits.float()
    yield format_columns(
        [*stages, ["logits", str(tuple(logits.shape)), "batch, classes" if pooler else "batch, time, tags"]]
    )
    if pooler is None:
        best = logits[0].softmax(dim=-1).max(dim=-1)
        tags = [f"{token}  {config.id2label[tag]}" for token, tag in zip(tokens, best.indices.tolist(), strict=True)]
        yield _draw_bars("token  tag", "score", tags, best.values.tolist())
        return
    if outputs.pooling_weights is not None and tokens:
        yield _draw_bars("token", "weight", tokens, outputs.pooling_weights[0].tolist())
    scores, width = compute_scores(logits.numpy(), config)[0].tolist(), 0 if score_kind(config) == "values" else _BAR
    yield _draw_bars("label", "score", list(config.id2label.values()), scores, width)


def _draw_bars(title: str, quantity: str, names: Sequence[str], values: Sequence[float], width: int = _BAR) -> str:
    """Return a table with a bar for each value from 0 to 1."""
    bars = [[name, f"{value:.3f}", "█" * round(width * value)] for name, value in zip(names, values, strict=True)]
    return format_columns([[title, quantity, ""], *bars])
