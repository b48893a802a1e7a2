"""Facts about a trained model to its card: metadata that the Hub reads and a short text that people read.

Pure: no files but the template, no network, no clock, and no word that the facts do not carry. A line of the template
whose fact is None is left out. Gathering the facts is training's work.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from .facts import CardFacts
from .markdown import block, code, plain, table

_CELLS = {
    "rnn_tanh": "RNN (tanh)",
    "rnn_relu": "RNN (ReLU)",
    "gru": "GRU",
    "lstm": "LSTM",
    "min_gru": "minimal GRU",
}
# Where each cell was described.
_PAPERS = {
    "rnn_tanh": "J. L. Elman: Finding Structure in Time. Cognitive Science 14(2), 1990.",
    "rnn_relu": "Q. V. Le, N. Jaitly, G. E. Hinton: A Simple Way to Initialize Recurrent Networks of Rectified Linear "
    "Units. arXiv:1504.00941, 2015.",
    "gru": "K. Cho et al.: Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine "
    "Translation. EMNLP 2014.",
    "lstm": "S. Hochreiter, J. Schmidhuber: Long Short-Term Memory. Neural Computation 9(8), 1997.",
    "min_gru": "L. Feng et al.: Were RNNs All We Needed? arXiv:2410.01201, 2024.",
}
_SCORES = {"accuracy": "accuracy", "macro_f1": "macro F1", "macro_recall": "macro recall"}
_HUB_METRICS = {"macro_f1": "f1", "macro_recall": "recall"}  # the Hub's name, where it is another


def render(facts: CardFacts) -> str:
    """Return the card: a YAML block for the Hub and Markdown for people.

    Args:
        facts: What is known.

    Returns:
        The content of `README.md`.
    """
    reference = facts.repo_id or facts.name
    quoted = json.dumps(reference, ensure_ascii=False)
    values: dict[str, str | None] = {
        "metadata": _metadata(facts),
        "title": plain(facts.name),
        "summary": _summary(facts),
        "languages": ", ".join(map(plain, facts.language)) or None,
        "label_table": _label_table(facts.class_counts),
        "examples": _examples(facts.examples or {}),
        "results": "\n\n".join(_result(split, facts) for split in facts.results) or None,
        "figures": _figures(facts.figures or {}),
        "stands_for": f"{code(reference)} stands for the folder of this card." if facts.repo_id is None else None,
        "predict_command": block("bash", f'hf-rnn predict --model {shlex.quote(reference)} --text "Your text"'),
        "with_package": block(
            "python",
            "import hf_rnn  # makes transformers know the model\n"
            "from transformers import pipeline\n\n"
            f'classifier = pipeline("text-classification", model={quoted})\n'
            'classifier("Your text", truncation=True)',
        ),
        "without_package": block(
            "python",
            "from transformers import pipeline\n\n"
            f'classifier = pipeline("text-classification", model={quoted}, trust_remote_code=True)\n'
            'classifier("Your text", truncation=True)',
        ),
        "auto_model": block(
            "python",
            "from transformers import AutoModelForSequenceClassification, AutoTokenizer\n\n"
            f"tokenizer = AutoTokenizer.from_pretrained({quoted}, trust_remote_code=False)\n"
            f"model = AutoModelForSequenceClassification.from_pretrained({quoted}, trust_remote_code=True)\n"
            'inputs = tokenizer(["Your text"], truncation=True, return_tensors="pt")\n'
            "logits = model(**inputs).logits",
        ),
        "train_rows": f"{sum(facts.class_counts.values()):,}",
        "dataset": plain(facts.dataset_name),
        "effort": _effort(facts.training) if facts.training else "",
        "calibration": _calibration(facts.calibration),
        "vectors": _vectors(facts.vectors) if facts.vectors else None,
        "start": _start(facts.start) if facts.start else None,
        "teacher": _teacher(facts.teacher) if facts.teacher else None,
        "settings": _settings(facts.settings or {}),
        "audit": _audit(facts.audit) if facts.audit else None,
        "citation": _citation(facts),
        "command": f"This command repeats the run:\n\n{block('bash', facts.command)}" if facts.command else None,
        "best_metric": code(facts.best_metric) if facts.best_metric else None,
        "num_parameters": f"{facts.num_parameters:,}",
        "size_in_bytes": _counted(facts.size_in_bytes),
        "onnx_files": _onnx_files(facts.onnx or {}),
        "onnx_usage": _onnx_usage(facts.onnx, reference) if facts.onnx else None,
        "vocab_size": f"{facts.vocab_size:,}",
        "max_length": _counted(facts.max_length),
        "unknown_token_share": None if facts.unknown_token_share is None else f"{facts.unknown_token_share:.1%}",
        "versions": ", ".join(f"{plain(package)} {plain(version)}" for package, version in facts.versions.items()),
    }
    return _fill((resources.files(__package__) / "model_card.md").read_text(encoding="utf-8"), values)


def _fill(template: str, values: Mapping[str, str | None]) -> str:
    """Fill a template in, without the lines that name a missing value and the headings that are left with nothing."""
    kept: list[str] = []
    for line in reversed(template.splitlines()):
        below = next(filter(None, reversed(kept)), "## ")
        missing = any(values[name] is None for name in Template(line).get_identifiers())
        if not missing and not (line.startswith("## ") and below.startswith("## ")):
            kept.append(line)
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(reversed(kept)))
    return Template(text).substitute(values).rstrip() + "\n"


def _metadata(facts: CardFacts) -> str:
    """Return the YAML that `huggingface_hub.ModelCard` reads back."""
    results = [
        EvalResult(
            task_type="text-classification",
            task_name="Text Classification",
            dataset_type=facts.dataset_id or "text",  # the Hub wants one; local data has none of its own
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
        pipeline_tag="text-classification",
        library_name="transformers",
        license=facts.license,
        language=list(facts.language) or None,
        datasets=[facts.dataset_id] if facts.dataset_id else None,
        base_model=facts.start["id"] if facts.start else None,
        tags=["hf_rnn", "rnn" if facts.cell_type.startswith("rnn_") else facts.cell_type, *facts.tags],
        model_name=facts.name,
        eval_results=results or None,
    ).to_yaml()


def _summary(facts: CardFacts) -> str:
    names = ", ".join(map(code, facts.class_counts))
    direction = "bidirectional" if facts.bidirectional else "one-directional"
    layers = f"{facts.num_hidden_layers} layer{'s' if facts.num_hidden_layers > 1 else ''}"
    cell = _CELLS.get(facts.cell_type, facts.cell_type)
    return (
        f"This model sorts a text into one of {len(facts.class_counts)} classes: {names}. It is a {direction} {cell} "
        f"({layers} of {facts.hidden_size} units per direction, token vectors of {facts.embedding_size} numbers, "
        f"pooling `{facts.pooling}`)."
    )


def _label_table(class_counts: Mapping[str, int]) -> str:
    total = max(sum(class_counts.values()), 1)
    rows = [
        [str(index), plain(name), f"{count:,}", f"{count / total:.1%}"]
        for index, (name, count) in enumerate(class_counts.items())
    ]
    return table(["id", "label", "rows in train", "share"], rows)


def _examples(examples: Mapping[str, Sequence[str]]) -> str | None:
    rows = [[plain(name), plain(text)] for name, texts in examples.items() for text in texts]
    return table(["label", "text"], rows) if rows else None


def _result(split: str, facts: CardFacts) -> str:
    """Return the part on one split: scores beside those of simpler models, then each class."""
    metrics = facts.results[split]
    majority = max(facts.class_counts, key=facts.class_counts.__getitem__)
    compared: dict[str, Mapping[str, float]] = {"this model": metrics}
    compared |= {plain(name): scores[split] for name, scores in (facts.baselines or {}).items() if split in scores}
    supports = {name: row["support"] for name, row in metrics["per_class"].items()}
    compared[f"always {plain(majority)}"] = _constant_answer(majority, supports)
    scores = [[who, *(f"{numbers[score]:.3f}" for score in _SCORES)] for who, numbers in compared.items()]
    classes = [
        [plain(name), *(f"{row[score]:.3f}" for score in ("precision", "recall", "f1")), f"{row['support']:,}"]
        for name, row in metrics["per_class"].items()
    ]
    return "\n\n".join(
        [
            f"On the {plain(split)} split ({sum(supports.values()):,} rows), beside simpler models of the same rows:",
            table(["", *_SCORES.values()], scores),
            table(["label", "precision", "recall", "F1", "rows"], classes),
        ]
    )


def _constant_answer(answer: str, support: Mapping[str, int]) -> dict[str, float]:
    """Return the scores of always giving one answer: its precision is its share, its recall 1, all others' are 0."""
    share = support[answer] / max(sum(support.values()), 1)
    found = 1.0 if support[answer] else 0.0
    return {
        "accuracy": share,
        "macro_f1": 2 * share / (share + 1) / len(support),
        "macro_recall": found / len(support),
    }


def _figures(figures: Mapping[str, str]) -> str | None:
    return "\n\n".join(f"![{plain(caption)}](<{file}>)" for caption, file in figures.items()) or None


def _effort(training: Mapping[str, float]) -> str:
    """Return how long the training took; the epochs of a stream are not known."""
    epochs = training.get("epochs")
    seconds = training["seconds"]
    steps = f"{training['steps']:,.0f} steps in {seconds:,.{0 if seconds >= 10 else 1}f} seconds"
    return f": {epochs:.4g} epochs, {steps}" if epochs else f": {steps}"


def _calibration(calibration: Mapping[str, Any] | None) -> str:
    """Return whether scores are probabilities, by what was measured before and after."""
    if calibration is None:
        return "Its scores are not calibrated: 0.9 need not mean right nine times in ten."
    measured = "; ".join(
        f"on the {plain(split)} split the expected calibration error went from {scores['before']['ece']:.3f} to "
        f"{scores['after']['ece']:.3f}, the Brier score from {scores['before']['brier']:.3f} to "
        f"{scores['after']['brier']:.3f}"
        for split, scores in calibration["splits"].items()
    )
    text = (
        f"Its scores were calibrated on the {plain(calibration['fitted_on'])} split (temperature "
        f"{calibration['temperature']:.3f}, part of the weights): {measured}. Texts of another kind need a "
        "calibration of their own."
    )
    if (target := calibration["target_prior"]) is None:
        return text
    shares = ", ".join(f"{code(name)} {share:.1%}" for name, share in target.items())
    return f"{text} Its answers are made for texts of which these shares are: {shares}; the errors are for such a mix."


def _start(start: Mapping[str, Any]) -> str:
    """Return what all its weights started from."""
    layer = "" if start["keeps_classifier"] else ", but for the last layer, whose classes are others"
    return f"It went on from the weights of {plain(start['name'])}, with the same tokenizer{layer}."


def _vectors(vectors: Mapping[str, Any]) -> str:
    """Return what the token vectors started from, and how much of the words it covers."""
    tokens = vectors["coverage_tokens"]
    of_tokens = "" if tokens is None else f" and {tokens:.1%} of the tokens it was trained on"
    return (
        f"Its token vectors started from {plain(vectors['name'])}, which has vectors for "
        f"{vectors['coverage_types']:.1%} of its vocabulary{of_tokens}."
    )


def _teacher(teacher: Mapping[str, Any]) -> str:
    """Return who taught it, from what, and what the teacher itself reaches."""
    rows = teacher["rows"]
    read = {"training": rows["train"], "changed copies of these": rows["copies"], "unlabelled": rows["unlabeled"]}
    listed = ", ".join(f"{count:,} {what}" for what, count in read.items() if count)
    measured = "".join(
        f" On the {plain(split)} split the teacher has accuracy {found['accuracy']:.3f}, macro F1 "
        f"{found['macro_f1']:.3f} and macro recall {found['macro_recall']:.3f}, and the two give the same answer to "
        f"{found['agreement']:.1%} of the rows."
        for split, found in teacher["results"].items()
    )
    folds = teacher.get("folds")
    parts = f", {folds} models that each answered for training texts that it had not seen itself," if folds else ""
    return (
        f"It was distilled: it learned the answers of {plain(teacher['name'])}{parts} to texts ({listed}), at "
        f"temperature {teacher['temperature']:g}, which counted {teacher['soft_label_weight']:g} beside the true "
        f"labels' {1 - teacher['soft_label_weight']:.3g}.{measured}"
    )


def _settings(settings: Mapping[str, Any]) -> str | None:
    if not settings:
        return None
    listed = ", ".join(code(f"{name}={value}") for name, value in settings.items())
    return f"Its settings: {listed}. All of them are in `training_args.json`."


def _audit(audit: Mapping[str, Any]) -> str:
    """Return what the audit counted: by split what repeats, then the conflicts of labels."""
    rows = []
    for split, count in audit["rows"].items():
        own, leak = audit["duplicates"][split], audit["leaks"].get(split, {}).get("train")
        unknown = audit["unknown_token_share"].get(split)
        rows.append(
            [
                plain(split),
                f"{count:,}",
                f"{own['exact'] + own['near']:,}",
                "" if leak is None else f"{leak['exact'] + leak['near']:,}",
                "" if leak is None else f"{leak['exact_other_label'] + leak['near_other_label']:,}",
                "" if unknown is None else f"{unknown:.1%}",
            ]
        )
    header = ["split", "rows", "repeat an earlier row", "repeat a row of train", "of these, other label", "unknown"]
    conflicts = audit["conflicts"]
    return "\n\n".join(
        [
            "What `hf-rnn audit` found: rows that repeat another one exactly (but for case and white space) or nearly "
            "(word 3-grams with a Jaccard similarity of at least 0.8), and the share of unknown tokens.",
            table(header, rows),
            f"In train {conflicts['texts']:,} texts stand under several labels ({conflicts['rows']:,} rows)."
            if conflicts["texts"]
            else "No text stands in train under several labels.",
        ]
    )


def _citation(facts: CardFacts) -> str:
    """Return what to cite: the package that made the model, and where its cell was described."""
    made_by = "@software{hf_rnn,\n  title = {hf-rnn: recurrent text classifiers as Hugging Face models}"
    if package := facts.versions.get("hf-rnn"):
        made_by += f",\n  version = {{{package}}}"
    parts = [block("bibtex", made_by + "\n}")]
    if paper := _PAPERS.get(facts.cell_type):
        parts.append(f"Its cell: {paper}")
    return "\n\n".join(parts)


def _onnx_files(files: Mapping[str, Mapping[str, float]]) -> str | None:
    """Return an item a file for ONNX Runtime: its size, and how well it agrees with the model."""
    items = [
        f"- {code(name)} for ONNX Runtime: {found['bytes']:,} bytes. On {found['texts']:,} texts its logits differ "
        f"from the model's by at most {found['max_difference']:.1e}, and {found['agreement']:.1%} of the answers are "
        "the same."
        for name, found in files.items()
    ]
    return "\n".join(items) or None


def _onnx_usage(files: Mapping[str, Any], reference: str) -> str:
    backend = "onnx_int8" if all(name.endswith("_int8.onnx") for name in files) else "onnx"
    command = f'hf-rnn predict --model {shlex.quote(reference)} --backend {backend} --text "Your text"'
    return f"The same by ONNX Runtime, with `hf-rnn[onnx]` installed:\n\n{block('bash', command)}"


def _counted(number: int | None) -> str | None:
    return None if number is None else f"{number:,}"
