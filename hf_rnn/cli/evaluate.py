"""`hf-rnn evaluate`: measure a trained model on one split; print one JSON object."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from ..training.settings import SettingsParser, TableArguments, setting
from ..utils.errors import UserError
from .console import ModelFlags


@dataclass
class EvaluateArguments(TableArguments, ModelFlags):
    """Flags of `evaluate` beside those of the texts and their files."""

    split: str = setting("test", "train, validation or test; dev is validation")
    label_map: list[str] | None = setting(
        None, "labels of the data with other names in the model, each as DATA=MODEL: 0=neutral 1=bad"
    )
    batch_size: int = setting(256, "texts per batch", least=1)
    device: str | None = setting(None, "device of torch: cpu, cuda, mps ... (default: an accelerator if there is one)")

    def read_label_map(self) -> dict[str, str]:
        """Return `label_map` as the model's names by label of the data, or raise a [`UserError`]."""
        pairs = [pair.rpartition("=")[::2] for pair in self.label_map or ()]
        names = dict(pairs)
        if len(names) < len(pairs) or not all(names):
            raise UserError(
                f"label_map is {' '.join(self.label_map or ())}: give each label of the data once, as "
                "--label_map 0=negative 1=neutral"
            )
        return names


def run(argv: Sequence[str]) -> None:
    """Measure, and print `model`, `split` and the scores of its task."""
    (arguments,) = SettingsParser(
        EvaluateArguments,
        prog="hf-rnn evaluate",
        description="Measure a model on a split of labelled texts.",
        example="my-model data/tweets --split validation",
    ).parse(argv)
    name = arguments.model
    arguments.check_model()
    arguments.check_source()
    import datasets

    from ..data.row_errors import DataReport
    from ..evaluation.language_model import sum_losses
    from ..hub import loading as model_loading
    from ..inference import reference as plain_inference
    from ..tasks import task_of

    model_loading.quiet()
    datasets.disable_progress_bars()
    model, tokenizer = model_loading.load_model(name, arguments.revision, arguments.device)
    task = task_of(model.config)
    class_names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    label_map = arguments.read_label_map()
    if not label_map and class_names == [f"LABEL_{index}" for index in range(len(class_names))]:
        label_map = {str(index): name for index, name in enumerate(class_names)}  # as transformers numbers integers
    options = {"class_names": class_names, "label_map": label_map, "splits": [arguments.split]}
    texts = task.read(arguments, report=DataReport(), **options)
    rows = next(iter(task.encode(texts, tokenizer, None).values()))
    if task.verb == "generate":
        sums = sum_losses(model, rows)
        metrics = task.evaluate(sums, None, model.config)
    else:
        logits = plain_inference.compute_logits(model, tokenizer, rows["input_ids"][:], arguments.batch_size)
        metrics = task.evaluate(logits, rows["labels"][:], model.config)
    print(json.dumps({"model": name, "split": arguments.split, **metrics}, ensure_ascii=False))
