"""Render a card from its facts: metadata for the Hub and Markdown for people. Pure: no network, no clock."""

from __future__ import annotations

import json
import math
import re
import shlex
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .facts import CardFacts

# The name of each cell, and the paper that describes it.
_CELLS = {
    "rnn_tanh": ("RNN (tanh)", "J. L. Elman: Finding Structure in Time. Cognitive Science 14(2), 1990."),
    "rnn_relu": (
        "RNN (ReLU)",
        "Q. V. Le, N. Jaitly, G. E. Hinton: A Simple Way to Initialize Recurrent Networks of Rectified Linear Units. "
        "arXiv:1504.00941, 2015.",
    ),
    "gru": (
        "GRU",
        "K. Cho et al.: Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine "
        "Translation. EMNLP 2014.",
    ),
    "lstm": ("LSTM", "S. Hochreiter, J. Schmidhuber: Long Short-Term Memory. Neural Computation 9(8), 1997."),
    "min_gru": ("minimal GRU", "L. Feng et al.: Were RNNs All We Needed? arXiv:2410.01201, 2024."),
}
_HUB_METRICS = {"macro_f1": "f1", "macro_recall": "recall"}  # where the Hub's name differs


def render(facts: CardFacts) -> str:
    """Return the content of `README.md`: a YAML block for the Hub and Markdown for people."""
    cell, paper = _CELLS.get(facts.cell_type, (facts.cell_type, ""))
    # a task without a template of its own gets the base template
    template = _ENVIRONMENT.select_template([f"{facts.task.replace('-', '_')}.md", "model_card.md"])
    metadata, reference = _metadata(facts).to_yaml(), facts.repo_id or facts.name
    card = ModelCard(template.render(card_data=metadata, facts=facts, reference=reference, cell=cell, paper=paper))
    card.text = re.sub(r"\n{3,}", "\n\n", card.text).rstrip() + "\n"
    return str(card)


def _metadata(facts: CardFacts) -> ModelCardData:
    results = [
        EvalResult(
            task_type=facts.pipeline_tag,
            task_name=facts.pipeline_tag.replace("-", " ").title(),
            dataset_type=facts.dataset_id or "text",  # required by the Hub; local data has no id
            dataset_name=facts.dataset_name,
            dataset_split=split,
            metric_type=_HUB_METRICS.get(name, name),
            metric_name=name,
            metric_value=round(float(value), 4),
        )
        for split, metrics in facts.results.items()
        for name, value in metrics.items()
        if isinstance(value, float) and math.isfinite(value)
    ]
    return ModelCardData(
        pipeline_tag=facts.pipeline_tag,
        library_name="transformers",
        license=facts.license,
        language=list(facts.language) or None,
        datasets=[facts.dataset_id] if facts.dataset_id else None,
        base_model=facts.start["id"] if facts.start else None,
        tags=["hf_rnn", "rnn" if facts.cell_type.startswith("rnn_") else facts.cell_type, *facts.tags],
        model_name=facts.name,
        eval_results=results or None,
    )


def plain(text: str) -> str:
    """Return text on one line, escaped so that Markdown shows it unchanged."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Return text as inline Markdown code, in more backticks than it contains."""
    marks = _backticks(text, 1)
    pad = " " if "`" in text else ""
    return f"{marks}{pad}{' '.join(text.split())}{pad}{marks}"


def fence(content: str, language: str) -> str:
    """Return a block of code, in more backticks than it contains."""
    marks = _backticks(content, 3)
    return f"{marks}{language}\n{content.strip()}\n{marks}\n"


def _backticks(text: str, least: int) -> str:
    return "`" * max(least, max(map(len, re.findall("`+", text)), default=0) + 1)


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=StrictUndefined,
)
# `fmt` is Python's format function: `{{ 1234 | fmt(",") }}`
_ENVIRONMENT.filters.update(plain=plain, code=code, fence=fence, fmt=format, shell=shlex.quote)
_ENVIRONMENT.filters["quoted"] = lambda text: json.dumps(text, ensure_ascii=False)
