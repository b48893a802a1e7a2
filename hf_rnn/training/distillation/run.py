"""A teacher's answers as part of a training run: any sequence classifier of transformers → a recurrent student.

The run is that of [`hf_rnn.training.train`]. What is added to it: texts beside the labelled ones, which only the teacher has
labelled; its logits on every training row; a Trainer that learns from both; and at the end how well the two agree.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ...data import encode
from ...data.audit import normalize_text
from ...evaluation import SCORES, classification_metrics
from ...utils.errors import UserError
from ..arguments.distillation_arguments import DistillationArguments
from ..arguments.run_arguments import Arguments
from ..hooks import Run, RunHook
from ..output_dir import TEACHER_CACHE
from .augmentation import augment, find_mask, write_masks
from .ensemble import JointAnswers, Teachers
from .trainer import NO_LABEL, TEACHER_LOGITS, DistillationTrainer
from .unlabeled import UnlabeledTexts, read_unlabeled

logger = logging.getLogger(__name__)


class Distillation(RunHook):
    """Train on the answers of a teacher besides the labels.

    Args:
        arguments: Settings of the run.
        settings: Settings of the distillation.

    Raises:
        UserError: For a teacher that cannot be used.
    """

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
        self._class_names: list[str] = []
        self._order: list[int] = []  # of the teacher's ids, by the data's
        self._copies: list[tuple[int, str]] = []  # each after the number of its text
        self._unlabeled: UnlabeledTexts | None = None
        self._rows: dict[str, int] = {}
        self._taught: str | None = None  # fingerprint of the teacher's answers to the training rows
        self._answers: dict[str, np.ndarray] = {}  # by split that is measured

    def on_texts(self, run: Run) -> None:
        """Match the labels to the teacher's, augment the training texts and read the unlabelled texts.

        With `soft_label_weight` 0 there are neither copies nor unlabelled texts.

        Raises:
            UserError: For labels that the teacher does not have, or unlabelled texts that cannot be used.
        """
        run.trainer_class = partial(
            DistillationTrainer,
            temperature=self.settings.temperature,
            soft_label_weight=self.settings.soft_label_weight,
        )
        texts, settings = run.texts, self.settings
        self._class_names = list(texts["train"].features["label"].names)
        self._order = self._teachers.members[0].align(self._class_names, settings.teacher_labels)
        if settings.soft_label_weight == 0:
            return
        if settings.unlabeled is not None:
            known = {split: set(map(normalize_text, rows["text"])) for split, rows in texts.items()}
            held_out = known.get("validation", set()) | known.get("test", set())
            self._unlabeled = read_unlabeled(
                Path(settings.unlabeled), held_out, known["train"], frozenset(self._class_names)
            )
        self._copies = list(
            augment(
                list(texts["train"]["text"]),
                settings.augmentations,
                mask_probability=settings.mask_probability,
                ngram_probability=settings.ngram_probability,
                seed=settings.augmentation_seed,
            )
        )

    def vocabulary_texts(self, texts: Iterable[str]) -> Iterable[str]:
        """Return the training and the unlabelled texts; copies would make rare words frequent."""
        return texts if self._unlabeled is None else chain(texts, _Strings(self._unlabeled.texts))

    def on_examples(self, run: Run) -> None:
        """Ask the teacher; add its logits and the unlabelled rows to `train`.

        The column `teacher_logits` has C floats in the order of the classes. Unlabelled rows have label -100.

        Raises:
            UserError: If the cache cannot be written, or the teacher gives no usable answer.
        """
        texts, examples, tokenizer = run.texts, run.examples, run.tokenizer
        training, settings = self._arguments.training, self.settings
        cache = Path(settings.teacher_cache or Path(str(training.output_dir)) / TEACHER_CACHE)
        unlabeled = pa.chunked_array([], pa.string()) if self._unlabeled is None else self._unlabeled.texts
        self._rows = {"train": len(texts["train"]), "copies": len(self._copies), "unlabeled": len(unlabeled)}
        _make(cache)  # what the teacher says should not be lost at the end
        # of several processes the first asks, and the others find its answers in the cache
        with (
            training.main_process_first(desc="asking the teacher"),
            _tell_what_stays(cache),
            self._progress(texts) as advance,
        ):
            answers = JointAnswers(self._teachers, cache, advance)
            counts = ", ".join(f"{count:,} {what}" for what, count in self._rows.items())
            tell = logger.info if training.process_index == 0 else logger.debug
            name, folds = self._teachers.name, self._teachers.folds
            who = f"the {folds} teachers of {name} label" if folds else f"the teacher {name} labels"
            tell("%s the training rows: %s", who, counts)
            labelled = list(texts["train"]["text"])
            said = self._reorder(answers.to_trained(labelled, labelled))
            parts = [_rows(examples["train"], examples["train"]["labels"], said)]
            if self._copies:
                copies = [copy for _, copy in self._copies]
                read = write_masks(copies, find_mask(self._teachers.members[0].tokenizer))
                said = self._reorder(answers.to_trained(read, [labelled[number] for number, _ in self._copies]))
                learned = pa.array(write_masks(copies, find_mask(tokenizer)), pa.string())
                parts.append(self._further_rows("copies", learned, tokenizer, said))
            if len(unlabeled):
                said = self._reorder(answers.to_others(_Strings(unlabeled)))
                parts.append(self._further_rows("unlabeled", unlabeled, tokenizer, said))
            self._answers = {
                split: self._reorder(answers.to_others(texts[split]["text"]))
                for split in ("validation", "test")
                if split in texts
            }
            new, kept = answers.counts
            tell("%s of the answers are new, %s were kept in %s", f"{new:,}", f"{kept:,}", cache)
        train = datasets.concatenate_datasets(parts)
        logits = np.concatenate([part.with_format("numpy")[TEACHER_LOGITS][:] for part in parts])
        self._taught = hashlib.sha256(np.ascontiguousarray(logits, dtype=np.float32).tobytes()).hexdigest()
        run.examples = datasets.DatasetDict({**examples, "train": train})

    @contextlib.contextmanager
    def _progress(self, texts: datasets.DatasetDict) -> Iterator[Callable[[int], Any]]:
        """Draw a bar of the answers, on a terminal only; a large teacher takes its time."""
        measured = sum(len(rows) for split, rows in texts.items() if split != "train")
        by_one, by_all = self._rows["train"] + self._rows["copies"], self._rows["unlabeled"] + measured
        total = by_one + by_all * len(self._teachers.members)
        shown = sys.stderr.isatty() and self._arguments.training.process_index == 0
        with tqdm(desc="asking the teacher", total=total, unit=" texts", dynamic_ncols=True, disable=not shown) as bar:
            yield bar.update

    def _reorder(self, logits: np.ndarray) -> np.ndarray:
        """Logits in the order of the teacher's ids → in that of the data's."""
        return np.ascontiguousarray(logits[:, self._order])

    def _further_rows(
        self, name: str, texts: pa.Array | pa.ChunkedArray, tokenizer: PreTrainedTokenizerBase, logits: np.ndarray
    ) -> datasets.Dataset:
        """Training rows without a label."""
        table = datasets.Dataset(pa.table({"text": texts}), split=datasets.NamedSplit(name))
        encoded = encode(table, tokenizer, self._arguments.data.max_length)
        return _rows(encoded, [NO_LABEL] * len(encoded), logits)

    def fingerprints(self) -> dict[str, Any]:
        """Return the hash of the teacher's answers and the settings of the loss."""
        weighed = {name: getattr(self.settings, name) for name in ("temperature", "soft_label_weight")}
        return {"teacher": self._taught, "further_settings": weighed}

    def on_metrics(self, run: Run) -> None:
        """Measure the teacher on the same splits as the student.

        Adds `teacher` to the metrics: `name`, `folds` (number of cross-fitted teachers, or None), `temperature`,
        `soft_label_weight`, `rows` by origin, the use of the `unlabeled` file (or None), and by split under `results`
        the scores of the teacher and `agreement`, the share of rows with the same answer.
        """
        results = {
            split: self._compare(self._answers[split], found.predictions, found.label_ids)
            for split, found in run.predictions.items()
        }
        for split, found in results.items():
            logger.info(
                "on %s the teacher has accuracy %.3f and macro_recall %.3f; the student gives its answer to %.1f %%",
                split,
                found["accuracy"],
                found["macro_recall"],
                100 * found["agreement"],
            )
        run.metrics["teacher"] = {
            "name": self._teachers.name,
            "folds": self._teachers.folds,
            "temperature": self.settings.temperature,
            "soft_label_weight": self.settings.soft_label_weight,
            "rows": self._rows,
            "unlabeled": None if self._unlabeled is None else self._unlabeled.describe(),
            "results": results,
        }

    def card_facts(self, run: Run) -> dict[str, Any]:
        """Return the same for the card."""
        return {"teacher": run.metrics["teacher"]}

    def _compare(self, teachers: np.ndarray, students: np.ndarray, labels: Sequence[int]) -> dict[str, float]:
        answers = teachers.argmax(axis=1)
        scores = classification_metrics(answers, labels, self._class_names)
        agreement = float((answers == students.argmax(axis=1)).mean())
        return {**{name: scores[name] for name in SCORES}, "agreement": agreement}


def _rows(encoded: datasets.Dataset, labels: npt.ArrayLike, logits: np.ndarray) -> datasets.Dataset:
    """Training rows of one origin: the student's tokens, a label or none, and the teacher's logits."""
    classes = logits.shape[1]
    columns = {
        "input_ids": encoded.with_format("arrow")[:]["input_ids"],
        "labels": pa.array(np.asarray(labels, dtype=np.int64)),
        TEACHER_LOGITS: pa.FixedSizeListArray.from_arrays(pa.array(logits.ravel()), classes),
    }
    features = datasets.Features(
        {
            "input_ids": encoded.features["input_ids"],
            "labels": datasets.Value("int64"),
            TEACHER_LOGITS: datasets.List(datasets.Value("float32"), length=classes),
        }
    )
    return datasets.Dataset(pa.table(columns), datasets.DatasetInfo(features=features))


@contextlib.contextmanager
def _tell_what_stays(cache: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        logger.warning("stopped; what the teacher has answered stays in %s, and the same command goes on there", cache)
        raise


def _make(cache: Path) -> None:
    """Make the folder of a cache, or say that the user is to name another."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder of the teacher's answers, {cache}, cannot be made: {error.strerror}") from error
    if not os.access(cache, os.R_OK | os.X_OK):
        raise UserError(f"the folder of the teacher's answers, {cache}, is not yours to read: give another")


@dataclass(frozen=True)
class _Strings:
    """Texts one by one, as often as they are asked for, without a list of all of them."""

    texts: pa.ChunkedArray

    def __iter__(self) -> Iterator[str]:
        for chunk in self.texts.chunks:
            for start in range(0, len(chunk), 1000):
                yield from chunk[start : start + 1000].to_pylist()
