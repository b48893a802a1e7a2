"""A trained model and what is known of it → the files of a finished folder. No pickle, no path of this machine."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..evaluation.figures import plot_confusion_matrix, plot_learning_curve, plot_reliability
from ..hub.card import CardFacts
from ..hub.card.files import write_card
from ..hub.model_folder import FinishedFolder
from ..models.modeling_rnn import RnnForSequenceClassification
from ..tokenizers.word_level import save_tokenizer
from ..utils.errors import UserError

# A list of integers over several lines, such as a row of a confusion matrix; no text holds a line break in JSON.
_NUMBERS = re.compile(r"\[\n\s*-?\d+(?:,\n\s*-?\d+)*\n\s*\]")

logger = logging.getLogger(__name__)


def write_files(
    folder: FinishedFolder,
    model: RnnForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    settings: Mapping[str, Any],
    metrics: Mapping[str, Any],
    log_history: list[dict[str, Any]],
    facts: CardFacts,
) -> CardFacts:
    """Write all that a finished folder holds at its root.

    Args:
        folder: An empty folder.
        model: The trained model.
        tokenizer: Its tokenizer.
        settings: That repeat the run, by name.
        metrics: Numbers by split, and those of the training itself under `training`.
        log_history: The Trainer's log.
        facts: For the card.

    Returns:
        The facts, with the figures that could be drawn and the size of the weights.
    """
    model.save_pretrained(folder.root)
    shutil.copymode(folder.config, folder.weights)  # some versions of safetensors let nobody else read them
    save_tokenizer(tokenizer, folder.root)
    _write_json(folder.metrics, metrics)
    _write_json(folder.training_args, settings)
    figures = {}
    if _draw(plot_learning_curve, log_history, folder.learning_curve):
        figures["Loss and scores over epochs"] = folder.learning_curve.name
    for split in list(facts.results)[:1]:
        matrix = metrics[split].get("confusion_matrix")  # None of so many classes that no figure of them could be read
        if matrix and _draw(plot_confusion_matrix, matrix, list(facts.class_counts), folder.confusion_matrix):
            figures[f"True and predicted classes on the {split} split"] = folder.confusion_matrix.name
    if facts.calibration is not None:
        split = facts.calibration["fitted_on"]
        scores = facts.calibration["splits"][split]
        tables = {f"{when} calibration": scores[when]["reliability"] for when in ("before", "after")}
        if _draw(plot_reliability, tables, folder.reliability):
            figures[f"Accuracy by confidence on the {split} split"] = folder.reliability.name
    card = dataclasses.replace(facts, figures=figures, size_in_bytes=folder.weights.stat().st_size)
    write_card(folder, card)
    return card


def _draw(plot: Callable[..., None], *args: Any) -> bool:
    """Draw a figure, or say in one line why there is none."""
    try:
        plot(*args)
    except UserError as error:
        logger.warning("no %s: %s", Path(args[-1]).name, error)
        return False
    return True


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    text = _NUMBERS.sub(lambda found: " ".join(found[0].split()).replace("[ ", "[").replace(" ]", "]"), text)
    path.write_text(text + "\n", encoding="utf-8")
