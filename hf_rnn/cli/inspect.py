"""`hf-rnn inspect`: what a model does to one text, stage by stage: tokens, ids, shapes, pooling weights, scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from ..data.text_checks import check_text
from ..evaluation.classification import check_finite_logits
from ..hub import loading as model_loading
from ..inference import reference as plain_inference
from ..inference.attribution import words_read
from ..models.modeling_rnn import RnnForSequenceClassification
from ..training.arguments.parser import SettingsParser
from ..utils.errors import UserError
from .console import without_controls
from .model_flags import ModelFlags

_BAR = 40  # characters of a weight of 1


def run(argv: Sequence[str]) -> None:
    """Print the stages that each text goes through.

    Raises:
        UserError: For a mistake in flags or model.
    """
    parser = SettingsParser(ModelFlags, prog="hf-rnn inspect")
    parser.add_argument("--text", action="append", help="the text to look at; may be given several times")
    arguments, namespace = parser.parse(argv)
    name = arguments.model_name()
    if namespace.text is None:
        raise UserError("--text is missing: give the text to look at")
    for text in namespace.text:
        check_text(text)
    model_loading.quiet()
    model, tokenizer = model_loading.load_model(name, arguments.revision)
    several = len(namespace.text) > 1
    for number, text in enumerate(namespace.text):
        parts = [without_controls(text)] * several + _tell(model, tokenizer, text)
        print("\n" * (2 * (number > 0)) + "\n\n".join(parts))


def _tell(model: RnnForSequenceClassification, tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """The parts of the output."""
    encoded = tokenizer(text, truncation=True)
    ids = encoded["input_ids"]
    input_ids = torch.tensor([ids], dtype=torch.long, device=model.device)  # (1, T)
    pooled: list[torch.Tensor] = []
    hook = model.pooler.register_forward_hook(lambda pooler, inputs, output: pooled.append(output[0]))
    with torch.inference_mode():
        outputs = model(input_ids, torch.ones_like(input_ids), output_hidden_states=True, return_dict=True)
    hook.remove()
    check_finite_logits(outputs.logits.float())
    tokens = tokenizer.convert_ids_to_tokens(ids)
    words = words_read(tokenizer, text, encoded) or tokens
    rows = [[token, str(number), word] for token, number, word in zip(tokens, ids, words, strict=True)]
    parts = [_table(["token", "id", "word"], rows) if rows else "the text has no tokens"]

    embedding, *layers = outputs.hidden_states
    stages = [("token ids", "batch, time", input_ids), ("embedding", "batch, time, embedding", embedding)]
    name = f"{model.config.cell_type}, {'both directions' if model.config.bidirectional else 'one direction'}"
    stages += [
        (f"layer {number} ({name})", "batch, time, directions x hidden", states)
        for number, states in enumerate(layers, 1)
    ]
    stages += [
        (f"pooling ({model.config.pooling})", "batch, pooled", pooled[0]),
        ("logits", "batch, classes", outputs.logits),
    ]
    parts.append(
        _table(["stage", "shape", "of"], [[stage, str(tuple(value.shape)), of] for stage, of, value in stages])
    )

    if outputs.pooling_weights is not None and rows:
        shares = outputs.pooling_weights[0].tolist()
        bars = [[token, f"{share:.3f}", _bar(share)] for token, share in zip(tokens, shares, strict=True)]
        parts.append(_table(["token", "weight", ""], bars))
    scores = plain_inference.compute_scores(model, outputs.logits.float())[0].tolist()
    classes = [[model.config.id2label[index], f"{score:.3f}", _bar(score)] for index, score in enumerate(scores)]
    parts.append(_table(["label", "score", ""], classes))
    return parts


def _bar(share: float) -> str:
    return "█" * round(_BAR * min(max(share, 0), 1))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, each as wide as its widest cell."""
    lines = [[without_controls(cell) for cell in line] for line in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
