"""Distillation: `distill`, and its hook, loss and Trainer in a training run.

The hook adds texts that only the teacher labels, and the teacher's logits of every training row. The Trainer learns
from labels and logits. At the end the agreement of teacher and student is measured.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import torch
from torch.nn import functional
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import PredictionOutput

from ...data.audit import normalize_text
from ...data.encoding import encode
from ...hub.model_folder import read_mapping
from ...tasks import get_task
from ...utils.errors import UserError
from ...utils.process_state import one_at_a_time
from ..checkpoints import TEACHER_CACHE, check_apart
from ..run import Extension, Run
from ..settings import Arguments
from ..teacher_settings import DistillationArguments, parse_distillation
from ..train import TrainingResult, check_early, read_call, run_training
from ..trainer import weigh_classes
from .teacher import Answers, Teachers
from .unlabeled import augment, read_unlabeled, write_masks

logger = logging.getLogger(__name__)

TEACHER_LOGITS = "teacher_logits"  # column of the training rows: C floats
NO_LABEL = -100  # label of a row that has only the teacher's logits


class Distillation(Extension):
    """Learn from the logits of a teacher besides the labels; refuse a teacher that cannot be used."""

    def __init__(self, arguments: Arguments, settings: DistillationArguments) -> None:
        self.settings = settings
        self._arguments = arguments
        self._teachers = Teachers.open(
            str(settings.teacher),
            max_length=settings.teacher_max_length,
            batch_size=settings.teacher_batch_size,
            device=arguments.training.device,
            bf16=arguments.training.bf16,
        )
        weighed = {"temperature": settings.temperature, "soft_label_weight": settings.soft_label_weight}
        self.loss, self.loss_columns = partial(distillation_loss, **weighed), (TEACHER_LOGITS,)
        self._copies: list[tuple[int, str]] = []  # number of the text, and the copy
        self._unlabeled: list[str] = []
        self._unlabeled_record: dict[str, Any] | None = None
        self._logits: dict[str, np.ndarray] = {}  # the teacher's, by measured split

    def read_texts(self, run: Run) -> Sequence[str]:
        """Match the labels to the teacher's, copy the training texts, and return the unlabelled texts.

        With `soft_label_weight` 0 there are neither copies nor unlabelled texts. Raises a [`UserError`] for labels
        that the teacher does not have, and for unlabelled texts that cannot be used.
        """
        texts, settings = run.texts, self.settings
        names = list(texts["train"].features["label"].names)
        self._ids = self._teachers.members[0].align(names, settings.teacher_labels)  # ids of the classes
        if settings.soft_label_weight == 0:
            return ()
        if settings.unlabeled is not None:
            normalized = {split: set(map(normalize_text, rows["text"])) for split, rows in texts.items()}
            labeled = normalized.pop("train")
            data = self._arguments.data
            self._unlabeled, self._unlabeled_record = read_unlabeled(
                Path(settings.unlabeled), set().union(*normalized.values()), labeled, data.text_column, data.encoding
            )
        self._copies = list(augment(list(texts["train"]["text"]), settings.augmentations))
        return self._unlabeled  # copies would make rare words frequent

    def add_rows(
        self, run: Run, tokenizer: PreTrainedTokenizerBase, examples: datasets.DatasetDict
    ) -> tuple[datasets.DatasetDict, dict[str, Any]]:
        """Add the column `teacher_logits` and the rows without a label to `train`; return what weighs them too.

        The column has C floats in the order of the classes; rows without a label have label -100.
        """
        training, texts, members = self._arguments.training, run.texts, self._teachers.members
        cache = Path(self.settings.teacher_cache or Path(str(training.output_dir)) / TEACHER_CACHE)
        labeled, measured = list(texts["train"]["text"]), [split for split in texts if split != "train"]
        self._rows = {"train": len(labeled), "copies": len(self._copies), "unlabeled": len(self._unlabeled)}
        for_all = len(self._unlabeled) + sum(len(texts[split]) for split in measured)
        total = len(labeled) + len(self._copies) + for_all * len(members)
        shown = sys.stderr.isatty() and training.process_index == 0
        # the first of several processes computes the logits, the others read the cache
        with (
            training.main_process_first(desc="teacher"),
            tqdm(desc="teacher", total=total, unit=" texts", dynamic_ncols=True, disable=not shown) as bar,
        ):
            answers = Answers(self._teachers, cache, bar.update)
            counts = ", ".join(f"{count:,} {origin}" for origin, count in self._rows.items())
            logger.info("teacher %s labels these training rows: %s", self._teachers.name, counts)
            parts = [(examples["train"], answers.for_training(labeled, labeled))]
            if self._copies:
                numbers, copies = zip(*self._copies, strict=True)
                read = write_masks(copies, members[0].tokenizer)
                logits = answers.for_training(read, [labeled[number] for number in numbers])
                parts.append((self._encode("copies", write_masks(copies, tokenizer), tokenizer), logits))
            if self._unlabeled:
                logits = answers.for_others(self._unlabeled)
                parts.append((self._encode("unlabeled", self._unlabeled, tokenizer), logits))
            for split in measured:
                self._logits[split] = answers.for_others(list(texts[split]["text"]))[:, self._ids]
            logger.info("%s logits computed, %s found in %s", f"{answers.computed:,}", f"{answers.cached:,}", cache)
        rows, weights = [], self._read_class_weights(run)
        for encoded, logits in parts:
            ordered = np.ascontiguousarray(logits[:, self._ids] - weights, dtype=np.float32)
            rows.append(_make_rows(encoded, ordered))
        weighed = {name: getattr(self.settings, name) for name in ("temperature", "soft_label_weight")}
        return datasets.DatasetDict({**examples, "train": datasets.concatenate_datasets(rows)}), weighed

    def _read_class_weights(self, run: Run) -> np.ndarray:
        """Return the logarithms of the class weights `(C,)` that a teacher of this package learned with, else zeros.

        Its logits have them in, and the loss adds those of the student.
        """
        path = Path(str(self.settings.teacher), "training_args.json")
        stored = read_mapping(path, path.read_bytes()) if path.is_file() else {}
        power = stored.get("class_weight_power")
        return weigh_classes(run.report.label_counts["train"], power).log().numpy() if power else np.zeros(1)

    def _encode(self, name: str, texts: list[str], tokenizer: PreTrainedTokenizerBase) -> datasets.Dataset:
        table = datasets.Dataset.from_dict({"text": texts}, split=datasets.NamedSplit(name))
        return encode(table, tokenizer, self._arguments.data.max_length)

    def measure(self, run: Run, config: Any, predictions: Mapping[str, PredictionOutput]) -> dict[str, Any]:
        """Measure the teacher on the same splits as the student.

        Return `teacher`: `name`, `folds` (number of cross-fitted teachers, or None), `temperature`,
        `soft_label_weight`, `rows` by origin, the use of the `unlabeled` file (or None), and by split under `results`
        the scores of the teacher and `agreement`, the share of rows with the same label from both.
        """
        results, task = {}, cast(Any, run.task)
        for split, output in predictions.items():
            predicted = self._logits[split].argmax(axis=1)
            scores = task.metrics(config).compute(predictions=predicted, references=output.label_ids)
            agreement = float((predicted == output.predictions.argmax(axis=1)).mean())
            results[split] = {**{name: scores[name] for name in run.task.scores}, "agreement": agreement}
            logger.info(
                "%s: the teacher has accuracy %.3f and macro_recall %.3f; the student agrees on %.1f %%",
                split,
                scores["accuracy"],
                scores["macro_recall"],
                100 * agreement,
            )
        record = {
            "name": self._teachers.name,
            "folds": self._teachers.folds,
            "temperature": self.settings.temperature,
            "soft_label_weight": self.settings.soft_label_weight,
            "rows": self._rows,
            "unlabeled": self._unlabeled_record,
            "results": results,
        }
        return {"teacher": record}


def _make_rows(encoded: datasets.Dataset, logits: np.ndarray) -> datasets.Dataset:
    """Return training rows with the student's tokens, a label or -100, and the teacher's logits."""
    if "labels" not in encoded.features:
        encoded = encoded.add_column("labels", np.full(len(encoded), NO_LABEL))
    feature = datasets.List(datasets.Value("float32"), length=logits.shape[1])
    return encoded.cast_column("labels", datasets.Value("int64")).add_column(
        TEACHER_LOGITS, list(logits), feature=feature
    )


def distillation_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    teacher_logits: torch.Tensor,
    temperature: float,
    soft_label_weight: float,
    class_weights: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Return the loss of a batch, summed over its rows: a scalar, in nats.

    With a = `soft_label_weight` and the temperature T, a row has the loss a T² KL(p ‖ q) + (1 - a) CE. Here p and q
    are softmax(logits / T) of teacher and student, and CE is the cross-entropy of the true label at temperature 1. A
    row without a label (-100) has the first part only. The factor T² keeps the size of its gradients about the same
    for every T. After G. Hinton, O. Vinyals, J. Dean: Distilling the Knowledge in a Neural Network. arXiv:1503.02531,
    2015, section 2.

    Class weights w make the cross-entropy learn w_c p(c | x), scaled to sum to 1, in place of p(c | x). Adding log w
    to the teacher's logits makes both parts learn the same.

    Both logits are `(B, C)`, labels `(B)`, and class weights `(C)` above 0.
    """
    if class_weights is not None:
        teacher_logits = teacher_logits + class_weights.log()
    soft = functional.kl_div(
        functional.log_softmax(logits / temperature, dim=-1),
        functional.log_softmax(teacher_logits / temperature, dim=-1),
        reduction="sum",
        log_target=True,
    )
    hard = functional.cross_entropy(
        logits, labels, class_weights, reduction="sum", label_smoothing=label_smoothing, ignore_index=NO_LABEL
    )
    return soft_label_weight * temperature**2 * soft + (1 - soft_label_weight) * hard


@one_at_a_time()
def distill(
    data: Any = None,
    output_dir: str | Path | None = None,
    *,
    train: Any = None,
    validation: Any = None,
    test: Any = None,
    **settings: Any,
) -> TrainingResult:
    """Train a classifier from labels and the logits of a teacher, and save a finished folder.

    This is [`~hf_rnn.train`] with a teacher: each training row has the teacher's logits beside its label, and only the
    teacher labels further texts. The loss is [`~hf_rnn.training.distillation.run.distillation_loss`]; scores are on
    true labels.

    Args:
        data: Texts or rows, as for [`~hf_rnn.train`]. A new tokenizer also learns words from the unlabelled texts.
        output_dir: Folder for the finished model, as for [`~hf_rnn.train`].
        train: Training rows in memory, as for [`~hf_rnn.train`].
        validation: Validation rows in memory.
        test: Test rows in memory.
        settings: Settings by the names of the command's flags, on top of the recipe `recipe`.

    Raises:
        UserError: For a mistake in settings, data or teacher. An earlier model in the folder is left as it was.
        TrainingStopped: After SIGTERM or Ctrl-C, when a checkpoint to resume from is saved.

    Example:
        >>> result = distill("data/tweets", "out", teacher="runs/minilm", unlabeled="tweets.txt")
        >>> result.metrics["teacher"]["results"]["validation"]["agreement"]
    """
    rows, settings = read_call(data, output_dir, train, validation, test, settings)
    *shared, further = parse_distillation(settings, "distill")
    arguments = Arguments(*shared)
    further.check()
    check_early(arguments)  # before a download of the teacher
    if not (task := get_task(arguments.data.task)).one_label:
        raise UserError(f"a teacher gives one label per text: found the task {task.name}; train it instead")
    if arguments.data.text_pair_column is not None:
        raise UserError("a teacher answers to single texts: leave out text_pair_column, or train without a teacher")
    check_apart(arguments.training.output_dir, {"teacher": further.teacher})
    return run_training(arguments, Distillation(arguments, further), data=rows)
