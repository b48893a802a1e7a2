"""Distillation: a sequence classifier of transformers teaches a recurrent student.

Each training row gets the teacher's logits beside its label; modified copies and unlabelled texts
have them alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack, cast

import datasets
import numpy as np
import torch
from torch.nn import functional
from tqdm.auto import tqdm
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from ..data.encoding import encode
from ..data.errors import listed, text_fault
from ..data.near_repeats import normalize_text
from ..hub.model_folder import check_sorts
from ..inference.engines.torch import compute_logits
from ..models.configuration_rnn import RnnConfig
from ..models.settings_rnn import IGNORED_LABEL
from ..settings.recipe import load_recipe
from ..settings.resolve import Settings, resolve
from ..settings.training_arguments import RnnTrainingArguments
from ..tasks import get_task
from ..utils.errors import UserError
from ..utils.process import one_at_a_time
from .checkpoints import TEACHER_LOGITS as LOGITS_FILE
from .checkpoints import check_apart
from .run import Extension, Run
from .teacher import Teacher, read_texts
from .train import TrainingResult, check_early, read_call, run_training
from .trainer import weigh_classes

if TYPE_CHECKING:
    from ..settings.keywords import DistillKeywords
    from ..tasks.sequence_classification import SequenceClassification

logger = logging.getLogger(__name__)

TEACHER_LOGITS = "teacher_logits"  # column of the training rows: C floats
# a hidden word, before the tokenizer is known: a code point that is never used in texts
MASKED = "\ufdd0"
# share of hidden words, share of short copies, their length
_HIDDEN, _CUT, _LONGEST_NGRAM = 0.1, 0.25, 5
# Words that are in no vocabulary, for tokenizers that read special tokens as text; some tokenizers
# keep letters only.
_UNKNOWN_WORDS = (MASKED, "qzxjwv")
_BLOCK = 500  # texts between two steps of the bar


@one_at_a_time()
def distill(
    data: object = None,
    output_dir: str | Path | None = None,
    *,
    train: object = None,
    validation: object = None,
    test: object = None,
    **settings: Unpack[DistillKeywords],
) -> TrainingResult:
    """Train a classifier from labels and the logits of a teacher, and save a finished folder.

    This is [`~hf_rnn.train`] with a teacher: each training row has the teacher's logits beside its
    label, and only the teacher labels further texts. The loss is
    [`~hf_rnn.training.distill.distillation_loss`]; scores are on true labels.

    Arguments and exceptions are those of [`~hf_rnn.train`]; the settings are those of `hf-rnn
    distill`. A new tokenizer also learns words from the unlabelled texts.

    Example:
        >>> result = distill("data/tweets", "out", teacher="runs/minilm", unlabeled="tweets.txt")
        >>> result.metrics["teacher"]["results"]["validation"]["agreement"]
    """
    rows, chosen = read_call(data, output_dir, (train, validation, test), settings)
    return run_distillation(resolve(chosen, "distill"), rows)


def run_distillation(arguments: Settings, data: Mapping[str, Any] | None = None) -> TrainingResult:
    """Check the settings of a distillation, and train; `data` are rows in memory by split."""
    if arguments.distillation.teacher is None:
        raise UserError(
            "teacher is not set: give the folder of a sequence classifier, or its id on the Hub"
        )
    check_early(arguments)  # before a download of the teacher
    if not (task := get_task(arguments.data.task)).one_label:
        raise UserError(
            f"a teacher gives one label per text: found the task {task.name}; train it instead"
        )
    if arguments.data.text_pair_column is not None:
        raise UserError(
            "a teacher answers to single texts: leave out text_pair_column, or train without a teacher"
        )
    check_apart(arguments.training.output_dir, {"teacher": arguments.distillation.teacher})
    return run_training(arguments, Distillation(arguments), data=data)


class Distillation(Extension):
    """Learn from the logits of a teacher besides the labels; refuse a teacher that cannot be used."""

    loss_columns = (TEACHER_LOGITS,)

    def __init__(self, arguments: Settings) -> None:
        self.settings = settings = arguments.distillation
        self._weights = {
            name: getattr(settings, name) for name in ("temperature", "soft_label_weight")
        }
        self.loss = partial(distillation_loss, **self._weights)
        self._teacher = Classifier.open(
            str(settings.teacher), settings.teacher_max_length, arguments.training
        )
        self._copies: list[str] = []
        self._unlabeled: list[str] = []
        self._record: dict[str, Any] | None = None  # file and counts of the unlabelled texts
        self._logits: dict[str, np.ndarray] = {}  # the teacher's, by measured split

    def read_texts(self, run: Run) -> Sequence[str]:
        """Match the labels to the teacher's, copy the training texts, and return the unlabelled texts.

        With `soft_label_weight` 0 there are neither copies nor unlabelled texts. Raises a
        [`UserError`] for labels that the teacher does not have, and for unlabelled texts that
        cannot be used.
        """
        texts, settings, data = run.texts, self.settings, run.arguments.data
        self._ids = self._teacher.align(
            texts["train"].features["label"].names, settings.teacher_labels
        )
        if settings.soft_label_weight == 0:
            return ()
        if settings.unlabeled is not None:
            uses = {
                normalize_text(text): "labeled" if split == "train" else "held_out"
                for split in ("train", *(name for name in texts if name != "train"))
                for text in texts[split]["text"]
            }

            def fault(text: str) -> str | None:
                return "blank" if text_fault(text) else uses.get(normalize_text(text))

            path = Path(settings.unlabeled)
            self._unlabeled, counts = read_texts(
                [path], data.text_column, fault=fault, encoding=data.encoding
            )
            self._record = {"file": path.name, **counts}
        self._copies = list(augment(list(texts["train"]["text"]), settings.augmentations))
        return self._unlabeled  # copies would make rare words frequent

    def add_rows(
        self, run: Run, tokenizer: PreTrainedTokenizerBase, examples: datasets.DatasetDict
    ) -> tuple[datasets.DatasetDict, dict[str, Any]]:
        """Return the splits with the column `teacher_logits` and the rows without a label in `train`.

        The column has C floats in the order of the classes; rows without a label have label -100.
        The second value decides the steps of the training.
        """
        copies, unlabeled = self._copies, self._unlabeled
        texts = {split: list(rows["text"]) for split, rows in run.texts.items()}
        asked = {
            "train": texts.pop("train"),
            "copies": write_masks(copies, self._teacher.tokenizer),
        }
        asked["unlabeled"] = unlabeled
        self._rows = {name: len(lines) for name, lines in asked.items()}
        self._logits = self._ask(asked | texts, run)
        counts = ", ".join(f"{count:,} {origin}" for origin, count in self._rows.items())
        logger.info("teacher %s labels these training rows: %s", self._teacher.name, counts)
        tables = {"train": examples["train"].cast_column("labels", datasets.Value("int64"))}
        for name, further in (("copies", write_masks(copies, tokenizer)), ("unlabeled", unlabeled)):
            if further:
                rows = datasets.Dataset.from_dict(
                    {"text": further}, split=datasets.NamedSplit(name)
                )
                rows = encode(rows, tokenizer, run.arguments.data.max_length)
                tables[name] = rows.add_column("labels", np.full(len(rows), IGNORED_LABEL))
        weights = self._teacher.read_class_weights(run.report.label_counts["train"])
        feature = datasets.List(datasets.Value("float32"), length=len(self._ids))
        for name, rows in tables.items():
            answers = list((self._logits[name] - weights).astype(np.float32))
            tables[name] = rows.add_column(TEACHER_LOGITS, answers, feature=feature)
        splits = datasets.DatasetDict(
            {**examples, "train": datasets.concatenate_datasets(list(tables.values()))}
        )
        return splits, self._weights

    def _ask(self, lists: Mapping[str, Sequence[str]], run: Run) -> dict[str, np.ndarray]:
        """Return the teacher's logits `(N, C)` for lists of texts, in the order of the classes of the data.

        They are stored in the output folder until the run ends, so that a resumed run does not ask
        again.
        """
        texts, path = list(chain.from_iterable(lists.values())), run.folder.root / LOGITS_FILE
        key = hashlib.sha256(json.dumps([self._teacher.hash, texts]).encode()).hexdigest()
        stored = dict(np.load(path)) if path.is_file() else {}
        if key not in stored:
            stored = {key: self._teacher.answer(texts)}
            if run.is_main:
                np.savez(path, **stored)
        self._teacher.__dict__.pop("model", None)  # its memory
        parts = np.split(stored[key][:, self._ids], np.cumsum(list(map(len, lists.values())))[:-1])
        return dict(zip(lists, parts, strict=True))

    def measure(
        self, run: Run, config: RnnConfig, predictions: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return `teacher` for the metrics: facts of the teaching, and under `results` scores of the teacher by split.

        `agreement` is the share of rows with the same label from teacher and student.
        """
        results, task = {}, cast("SequenceClassification", run.task)
        for split, output in predictions.items():
            answers = self._logits[split].argmax(axis=1)
            scores = task.measure(answers, output.label_ids, config)
            agreement = float((answers == output.predictions.argmax(axis=1)).mean())
            results[split] = {name: scores[name] for name in task.scores} | {"agreement": agreement}
        facts = {
            "name": self._teacher.name,
            "rows": self._rows,
            "unlabeled": self._record,
            "results": results,
        }
        return {"teacher": {**self._weights, **facts}}


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

    With a = `soft_label_weight` and the temperature T, a row has the loss a T² KL(p ‖ q) + (1 - a)
    CE. Here p and q are softmax(logits / T) of teacher and student, and CE is the cross-entropy of
    the true label at temperature 1. A row without a label (-100) has the first part only. The
    factor T² keeps the size of its gradients about the same for every T. After G. Hinton, O.
    Vinyals, J. Dean: Distilling the Knowledge in a Neural Network. arXiv:1503.02531, 2015, section
    2.

    Class weights w make the cross-entropy learn w_c p(c | x), scaled to sum to 1. Adding log w to
    the teacher's logits makes both parts learn the same.

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
        logits,
        labels,
        class_weights,
        reduction="sum",
        label_smoothing=label_smoothing,
        ignore_index=IGNORED_LABEL,
    )
    return soft_label_weight * temperature**2 * soft + (1 - soft_label_weight) * hard


class Classifier(Teacher):
    """A sequence classifier as the teacher."""

    auto_class = AutoModelForSequenceClassification

    @classmethod
    def open(
        cls, name_or_path: str, max_length: int | None, training: RnnTrainingArguments
    ) -> Self:
        """Find it, see [`Teacher.open`]; refuse one that does not assign exactly one of several labels to a text."""
        teacher = super().open(name_or_path, max_length, training)
        for architecture in teacher.config.architectures or ():
            if not architecture.endswith("ForSequenceClassification"):
                raise UserError(
                    f"{teacher.title} does not classify texts: found a {architecture}; give a sequence classifier"
                )
        check_sorts(teacher.title, teacher.config)
        return teacher

    def align(
        self, class_names: Sequence[str], teacher_names: Sequence[str] | None = None
    ) -> list[int]:
        """Return the teacher's id of each class of the data, matched by name.

        `teacher_names` are names of its classes by id in place of those in its configuration.
        Generic names (`LABEL_0`) are never guessed. Raises a [`UserError`] if the names differ.
        """
        count = self.config.num_labels
        names = teacher_names or [
            str(self.config.id2label.get(index, index)) for index in range(count)
        ]
        if sorted(names) == sorted(class_names) and len(names) == count:
            return [list(names).index(name) for name in class_names]
        remedy = "take a teacher of the same task"
        if count == len(class_names):
            remedy = "give the data's labels in the order of the teacher's ids as teacher_labels"
        found = f"found {listed(names)} instead of {listed(class_names)}"
        raise UserError(f"{self.title} has other labels than the data: {found}; {remedy}")

    def read_class_weights(self, counts: Sequence[int]) -> np.ndarray:
        """Return the logarithms of the class weights `(C,)` that a teacher of this package learned with, else zeros.

        Its logits have them in, and the loss adds those of the student.
        """
        path = self.folder / "training_args.json"
        power = load_recipe(path).get("class_weight_power") if path.is_file() else 0
        return weigh_classes(counts, power).log().numpy() if power else np.zeros(1)

    def answer(self, texts: Sequence[str]) -> np.ndarray:
        """Return the logits `(N, C)` of texts in float32, C in the order of the teacher's ids."""
        length = (
            {"truncation": True, "max_length": self.max_length}
            if self.max_length is not None
            else {}
        )
        pads = (
            self.tokenizer.pad_token_id is not None
            and getattr(self.config, "pad_token_id", None) is not None
        )
        logits = []
        with tqdm(
            desc="teacher", total=len(texts), unit=" texts", disable=not sys.stderr.isatty()
        ) as bar:
            for start in range(0, len(texts), _BLOCK):
                input_ids = self.tokenizer(list(texts[start : start + _BLOCK]), **length)[
                    "input_ids"
                ]
                with torch.autocast(
                    self.training.device.type, torch.bfloat16, enabled=self.training.bf16
                ):
                    logits.append(
                        compute_logits(
                            self.model, self.tokenizer, input_ids, 32 if pads else 1
                        ).numpy()
                    )
                bar.update(len(input_ids))
        return np.concatenate(logits)


# ---- modified copies of the training texts ----


def augment(texts: Sequence[str], copies: int) -> Iterator[str]:
    """Yield modified copies of texts; the first copies of all come first.

    A tenth of the words of a copy are hidden, written as `MASKED`; a quarter of the copies are then
    cut to one to five neighbouring words. Copies that equal their text or an earlier copy, or that
    have only hidden words, are left out. After R. Tang et al.: Distilling Task-Specific Knowledge
    from BERT into Simple Neural Networks. arXiv:1903.12136, 2019, without its replacement by part
    of speech.

    All runs draw the same copies.
    """
    seen = [{" ".join(text.split())} for text in texts]
    for round_number in range(copies):
        chance = random.Random(f"0 {round_number}")
        for text, copies_of_text in zip(texts, seen, strict=True):
            words = [MASKED if chance.random() < _HIDDEN else word for word in text.split()]
            if chance.random() < _CUT:
                size = min(chance.randint(1, _LONGEST_NGRAM), len(words))
                start = chance.randint(0, len(words) - size)
                words = words[start : start + size]
            copy = " ".join(words)
            if copy not in copies_of_text and any(word != MASKED for word in words):
                copies_of_text.add(copy)
                yield copy


def write_masks(copies: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Replace the hidden words of copies by a word that becomes the tokenizer's mask token, else its unknown token.

    A tokenizer without either, such as one of bytes, leaves hidden words out.
    """
    masks = [
        [index] for index in (tokenizer.mask_token_id, tokenizer.unk_token_id) if index is not None
    ]
    words = filter(None, (tokenizer.mask_token, tokenizer.unk_token, *_UNKNOWN_WORDS))
    hidden = (
        word for word in words if tokenizer(word, add_special_tokens=False)["input_ids"] in masks
    )
    mask = next(hidden, "")
    return [copy.replace(MASKED, mask) for copy in copies]
