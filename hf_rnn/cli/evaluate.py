"""`hf-rnn evaluate`: a trained model on one split of labelled texts; prints one JSON object."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import datasets

from .. import model_loading, plain_inference
from ..arguments.parsing import SettingsParser
from ..arguments.text_arguments import TableArguments
from ..data import DataError, load_tsv
from ..errors import UserError
from ..metrics.evaluation import evaluate_logits
from ..run.text_loading import load_texts
from .model_flags import ModelFlags


@dataclass
class EvaluateArguments(ModelFlags, TableArguments):
    """Flags of this verb, besides those that say how the texts stand in their files."""

    split: str = field(default="test", metadata={"help": "train, validation (or dev) or test"})
    batch_size: int = field(default=256, metadata={"help": "texts run at once"})
    device: str | None = field(
        default=None, metadata={"help": "where torch runs: cpu, cuda, mps ...; unset, an accelerator if there is one"}
    )


def run(argv: Sequence[str]) -> None:
    """Measure, and print `model`, `split` and all that [`evaluate_logits`] returns.

    Raises:
        UserError: For a mistake in flags, model or data, and for data with other labels than the model's.
    """
    (arguments,) = SettingsParser(EvaluateArguments, prog="hf-rnn evaluate").parse(argv)
    name = arguments.model_name()
    arguments.check_source()  # before the model is loaded
    if arguments.batch_size < 1:
        raise UserError(f"--batch_size must be at least 1, found {arguments.batch_size}")
    model_loading.quiet()
    datasets.disable_progress_bars()
    model, tokenizer = model_loading.load_model(name, arguments.revision, arguments.device)
    model_loading.check_sorts(name, model.config)
    class_names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    texts = _load(arguments, class_names)
    logits = plain_inference.compute_logits(
        model, tokenizer, plain_inference.tokenize(tokenizer, texts["text"]), arguments.batch_size
    )
    metrics = evaluate_logits(logits, texts["label"], class_names)
    print(json.dumps({"model": name, "split": arguments.split, **metrics}, ensure_ascii=False))


def _load(arguments: EvaluateArguments, class_names: list[str]) -> datasets.Dataset:
    """Read the split under the model's labels."""
    try:
        texts = load_texts(arguments, class_names=class_names, splits=[arguments.split])
    except DataError as error:
        if not error.is_of_a_name:
            raise
        told = f"{error}. Labels of the model: {', '.join(map(repr, class_names))}"
        found = _labels_in(error.path, arguments)
        raise UserError(f"{told}. Labels of the data: {', '.join(map(repr, found))}" if found else told) from error
    return next(iter(texts.values()))


def _labels_in(path: str, arguments: EvaluateArguments) -> list[str]:
    """The labels that a file holds, as if it were train, or those of a data set's own train; none if unreadable."""
    try:
        if arguments.dataset_name is None:
            texts = load_tsv({"train": path}, **arguments.layout(), splits=["train"])
        else:
            texts = load_texts(arguments, validation_share=0)
    except UserError:  # it holds more than one mistake
        return []
    return texts["train"].features["label"].names
