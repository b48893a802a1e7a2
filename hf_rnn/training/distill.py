"""Distillation: a sequence classifier of transformers teaches a recurrent student.

Each training row gets the teacher's logits beside its label; modified copies and unlabelled texts
have them alone.
"""

from __future__ import annotations

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

from ..data.encode import encode
from ..data.errors import listed, text_fault
from ..data.near_repeats import normalize_text
from ..hub.model_folder import check_sorts
from ..inference.torch import compute_logits
from ..models.configuration_rnn import RnnConfig
from ..models.settings_rnn import IGNORED_LABEL
from ..settings.recipe import load_recipe
from ..settings.resolve import Settings, resolve
from ..settings.training_arguments import RnnTrainingArguments
from ..tasks import get_task
from ..utils.errors import ModelError, SettingError
from ..utils.hashing import digest
from ..utils.process import one_at_a_time
from .folder import TEACHER_LOGITS as LOGITS_FILE
from .folder import check_apart
from .prepare import Extension, Run
from .teacher import Teacher, describe_counts, read_unlabeled
from .train import TrainingResult, check_early, read_call, run_training
from .trainer import weigh_classes

if TYPE_CHECKING:
    from ..settings.keywords import DistillKeywords
    from ..tasks.sequence_classification import SequenceClassification

logger = logging.getLogger(__name__)

TEACHER_LOGITS = "teacher_logits"  # column of the training rows: C floats
# a hidden word, before the tokenizer is known: a code point that is never used in texts
MASKED = "\ufdd0"
_HIDDEN = 0.1  # share of words
_CUT = 0.25  # share of copies
_LONGEST_NGRAM = 5  # words of a short copy
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


def run_distillation(settings: Settings, data: Mapping[str, Any] | None = None) -> TrainingResult:
    """Check the settings of a distillation, and train; `data` are rows in memory by split."""
    teacher = settings.distillation.teacher
    if teacher is None:
        raise SettingError(
            "teacher is not set: give the folder of a sequence classifier, or its id on the Hub"
        )
    check_early(settings)  # before a download of the teacher
    task = get_task(settings.data.task)
    if not task.one_label:
        raise SettingError(
            f"a teacher gives one label per text: found the task {task.name}; train it instead"
        )
    if settings.data.text_pair_column is not None:
        raise SettingError(
            "a teacher answers to single texts: leave out text_pair_column, "
            "or train without a teacher"
        )
    check_apart(settings.training.output_dir, {"teacher": teacher})
    return run_training(settings, Distillation(settings), data=data)


class Distillation(Extension):
    """Learn from the logits of a teacher besides the labels; refuse one that cannot be used."""

    loss_columns = (TEACHER_LOGITS,)

    def __init__(self, settings: Settings) -> None:
        options = settings.distillation
        self._options = options
        self._weights: dict[str, Any] = {
            "temperature": options.temperature,
            "soft_label_weight": options.soft_label_weight,
        }
        self.loss = partial(distillation_loss, **self._weights)
        self._teacher = Classifier.open(
            str(options.teacher), options.teacher_max_length, settings.training
        )
        self._copies: list[str] = []
        self._unlabeled: list[str] = []
        self._record: dict[str, Any] | None = None  # file and counts of the unlabelled texts
        self._logits: dict[str, np.ndarray] = {}  # the teacher's, by measured split

    def read_texts(self, run: Run) -> Sequence[str]:
        """Match the labels to the teacher's, copy training texts, return the unlabelled texts.

        With `soft_label_weight` 0 there are neither copies nor unlabelled texts. Raises a
        [`UserError`] for labels that the teacher does not have, and for unlabelled texts that
        cannot be used.
        """
        train = run.texts["train"]
        names = train.features["label"].names
        self._ids = self._teacher.align(names, self._options.teacher_labels)
        if self._options.soft_label_weight == 0:
            return ()
        if self._options.unlabeled is not None:
            uses = {normalize_text(text): "labeled" for text in train["text"]}
            for split in run.texts.keys() - {"train"}:
                texts = run.texts[split]["text"]
                uses |= {normalize_text(text): "held_out" for text in texts}

            def fault(text: str) -> str | None:
                return "blank" if text_fault(text) else uses.get(normalize_text(text))

            path = Path(self._options.unlabeled)
            data = run.settings.data
            self._unlabeled, counts = read_unlabeled(
                [path], data.text_column, fault=fault, encoding=data.encoding
            )
            self._record = {"file": path.name, **counts}
        self._copies = list(augment(list(train["text"]), self._options.augmentations))
        return self._unlabeled  # copies would make rare words frequent

    def add_rows(
        self, run: Run, tokenizer: PreTrainedTokenizerBase, examples: datasets.DatasetDict
    ) -> tuple[datasets.DatasetDict, dict[str, Any]]:
        """Return the splits with `teacher_logits`, and with the rows without a label in `train`.

        The column has C floats in the order of the classes; rows without a label have label -100.
        The second value decides the steps of the training.
        """
        texts = {split: list(rows["text"]) for split, rows in run.texts.items()}
        training = {
            "train": texts.pop("train"),
            "copies": write_masks(self._copies, self._teacher.tokenizer),
            "unlabeled": self._unlabeled,
        }
        self._rows = {name: len(lines) for name, lines in training.items()}
        self._logits = self._ask({**training, **texts}, run)
        counts = describe_counts(self._rows)
        logger.info("teacher %s labels these training rows: %s", self._teacher.name, counts)

        tables = {"train": examples["train"].cast_column("labels", datasets.Value("int64"))}
        training["copies"] = write_masks(self._copies, tokenizer)
        for name in ("copies", "unlabeled"):
            if training[name]:
                rows = datasets.Dataset.from_dict({"text": training[name]}, split=name)
                rows = encode(rows, tokenizer, run.settings.data.max_length)
                tables[name] = rows.add_column("labels", np.full(len(rows), IGNORED_LABEL))
        weights = self._teacher.read_class_weights(run.report.label_counts["train"])
        feature = datasets.List(datasets.Value("float32"), length=len(self._ids))
        for name, rows in tables.items():
            logits = (self._logits[name] - weights).astype(np.float32)
            tables[name] = rows.add_column(TEACHER_LOGITS, list(logits), feature=feature)
        train = datasets.concatenate_datasets(list(tables.values()))
        return datasets.DatasetDict({**examples, "train": train}), self._weights

    def _ask(self, lists: Mapping[str, Sequence[str]], run: Run) -> dict[str, np.ndarray]:
        """Return the teacher's logits `(N, C)` for texts, in the order of the classes of the data.

        They are stored in the output folder until the run ends, so that a resumed run does not ask
        again.
        """
        texts = list(chain.from_iterable(lists.values()))
        path = run.folder.root / LOGITS_FILE
        key = digest(json.dumps([self._teacher.hash, texts]))
        stored = dict(np.load(path)) if path.is_file() else {}
        if key not in stored:
            stored = {key: self._teacher.answer(texts)}
            if run.is_main:
                np.savez(path, **stored)
        self._teacher.__dict__.pop("model", None)  # its memory
        ends = np.cumsum([len(lines) for lines in lists.values()])
        parts = np.split(stored[key][:, self._ids], ends[:-1])
        return dict(zip(lists, parts, strict=True))

    def measure(
        self, run: Run, config: RnnConfig, predictions: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return facts about the teacher, and under `results` its scores by split.

        `agreement` is the share of rows with the same label from teacher and student.
        """
        task = cast("SequenceClassification", run.task)
        results: dict[str, dict[str, float]] = {}
        for split, output in predictions.items():
            answers = self._logits[split].argmax(axis=1)
            scores = task.measure(answers, output.label_ids, config)
            agreement = float((answers == output.predictions.argmax(axis=1)).mean())
            results[split] = {name: scores[name] for name in task.scores} | {"agreement": agreement}
        return {
            **self._weights,
            "name": self._teacher.name,
            "rows": self._rows,
            "unlabeled": self._record,
            "results": results,
        }


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
        """Find it, see [`Teacher.open`]; refuse one that does not assign one of several labels."""
        teacher = super().open(name_or_path, max_length, training)
        for architecture in teacher.config.architectures or ():
            if not architecture.endswith("ForSequenceClassification"):
                raise ModelError(
                    f"{teacher.title} does not classify texts: found a {architecture}; "
                    "give a sequence classifier"
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
        labels = self.config.id2label
        names = teacher_names or [str(labels.get(index, index)) for index in range(count)]
        if sorted(names) == sorted(class_names) and len(names) == count:
            return [list(names).index(name) for name in class_names]
        remedy = "take a teacher of the same task"
        if count == len(class_names):
            remedy = "give the data's labels in the order of the teacher's ids as teacher_labels"
        found = f"found {listed(names)} instead of {listed(class_names)}"
        raise ModelError(f"{self.title} has other labels than the data: {found}; {remedy}")

    def read_class_weights(self, counts: Sequence[int]) -> np.ndarray:
        """Return the logarithms of the class weights `(C,)` of the teacher's training, else zeros.

        Its logits have them in, and the loss adds those of the student.
        """
        path = self.folder / "training_args.json"
        power = load_recipe(path).get("class_weight_power") if path.is_file() else None
        if not power:
            return np.zeros(1)
        return weigh_classes(counts, power).log().numpy()

    def answer(self, texts: Sequence[str]) -> np.ndarray:
        """Return the logits `(N, C)` of texts in float32, C in the order of the teacher's ids."""
        limit: dict[str, Any] = {}
        if self.max_length is not None:
            limit = {"truncation": True, "max_length": self.max_length}
        pads = (self.tokenizer.pad_token_id, getattr(self.config, "pad_token_id", None))
        batch_size = 1 if None in pads else 32
        device = self.training.device.type
        is_quiet = not sys.stderr.isatty()
        logits: list[np.ndarray] = []
        with tqdm(desc="teacher", total=len(texts), unit=" texts", disable=is_quiet) as bar:
            for start in range(0, len(texts), _BLOCK):
                block = list(texts[start : start + _BLOCK])
                ids = self.tokenizer(block, **limit)["input_ids"]
                with torch.autocast(device, torch.bfloat16, enabled=self.training.bf16):
                    answers = compute_logits(self.model, self.tokenizer, ids, batch_size)
                logits.append(answers.numpy())
                bar.update(len(block))
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
    """Replace hidden words of copies by one that becomes the mask token, else the unknown token.

    A tokenizer without either, such as one of bytes, leaves hidden words out.
    """
    mask = _find_mask(tokenizer)
    return [copy.replace(MASKED, mask) for copy in copies]


def _find_mask(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a word that becomes the mask token or the unknown token, or an empty text."""
    masks = {tokenizer.mask_token_id, tokenizer.unk_token_id} - {None}
    for word in (tokenizer.mask_token, tokenizer.unk_token, *_UNKNOWN_WORDS):
        if word is not None:
            ids = tokenizer(word, add_special_tokens=False)["input_ids"]
            if len(ids) == 1 and ids[0] in masks:
                return word
    return ""
