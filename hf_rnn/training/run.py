"""The inputs of a training run: settings that suit the language of the texts, their tokens, the weights to start from.

Here are also the values that the steps of a run pass on, and the points that an extension
overrides.
"""

from __future__ import annotations

import json
import logging
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import PredictionOutput

from ..data.audit import audit, render_line
from ..data.errors import shorten
from ..data.report import DataReport
from ..data.splits import join_texts
from ..data.typos import mistype_rows
from ..data.vectors import Vectors, load_vectors
from ..hub.model_folder import (
    FinishedFolder,
    check_name,
    find_built_in,
    find_folder,
    load_model,
    load_without_weights,
    nested_model,
)
from ..inference.stream import find_unstable_text
from ..labelling.wrong_labels import find_wrong_labels
from ..models.auto import ENCODER, head_name
from ..models.configuration_rnn import RnnConfig
from ..models.settings_rnn import RnnSettings
from ..settings.fields import DataArguments
from ..settings.recipe import recipe_names, scratch_recipe
from ..settings.resolve import ENGLISH, OTHER_LANGUAGES, Settings, restart, retarget
from ..tasks import Splits, Task, get_task
from ..tokenizers import NO_LENGTH_LIMIT
from ..tokenizers.language import choose_tokenizer, find_language
from ..tokenizers.word_level import add_separator, mark_capitals, train_tokenizer
from ..utils.errors import UserError, reason_of
from ..utils.process import only_errors
from .trainer import SAMPLE_WEIGHT, RnnTrainer

logger = logging.getLogger(__name__)

# prefixes of the weights that have a row per label
OUTPUT_LAYERS = ("classifier.", "lm_head.")
_FEWEST_JUDGED, _MOST_JUDGED = (1_000, 20_000)  # training rows whose labels are judged
_FEWEST_OF_LABEL = 5
_MANY_WRONG = 0.02  # share of the labels
_MANY_UNKNOWN = 0.5  # share of the tokens of validation
# texts to check the tokenizer with; as transformers writes no limit
_STREAM_SAMPLE = 1000
_SMALL_TOKENS = (
    "lower min_frequency, or set tokenizer to char or bpe for languages written without spaces"
)
_MULTILINGUAL = OTHER_LANGUAGES[ENGLISH]
_SAMPLE = 1_000  # training texts that are looked at for spaces
_FEW_TEXTS = 500  # with fewer training rows, a token that occurs twice is kept
_SEGMENTED = 3  # characters per word where spaces were put between Chinese or Japanese words


class Extension:
    """A way to train differently, such as distillation: a subclass overrides these points of [`train_on`]."""

    loss: Callable[..., torch.Tensor] | None = None  # for `RnnTrainer`, in place of its own
    loss_columns: Sequence[str] = ()  # columns of the training rows that `loss` takes by name
    sample_weights: np.ndarray | None = None  # for the loss of the training rows
    config_fields: Mapping[str, Any] = {}  # further fields of the configuration
    quiet = False  # whether to show neither bars nor a line per epoch

    def read_texts(self, run: Run) -> Sequence[str]:
        """Check the run, and return further texts for the vocabulary of a new tokenizer."""
        return ()

    def add_rows(
        self, run: Run, tokenizer: PreTrainedTokenizerBase, examples: Splits
    ) -> tuple[Splits, dict[str, Any]]:
        """Return the encoded splits with further rows, and what else decides the steps, by name."""
        return examples, {}

    def measure(
        self, run: Run, config: RnnConfig, predictions: Mapping[str, PredictionOutput]
    ) -> dict[str, Any]:
        """Return further metrics, from the model's predictions by split."""
        return {}


@dataclass(frozen=True)
class Run:
    """The inputs of a training run: settings that suit the texts, and the texts as the task read them."""

    task: Task
    settings: Settings
    texts: Splits
    report: DataReport  # counts of rows
    extension: Extension
    start: WarmStart | None
    start_note: str | None  # for the card: the reason for this start

    @property
    def folder(self) -> FinishedFolder:
        """The output folder."""
        return FinishedFolder(Path(str(self.settings.training.output_dir)))

    @property
    def is_main(self) -> bool:
        """Whether this process writes the folder."""
        return self.settings.training.process_index == 0

    def has_few_rows(self, times: int = 1) -> bool:
        """Return whether there are at most `times` x `few_rows` rows per class, one label per text, and a start."""
        few, counts = times * self.settings.training.few_rows, self.report.label_counts["train"]
        if not few or self.start is None or not self.task.one_label:
            return False
        return sum(counts) <= few * len(counts) and min(counts) > 0


@dataclass(frozen=True)
class Tokens:
    """The texts of a run as ids, and their tokenizer."""

    tokenizer: PreTrainedTokenizerBase
    examples: Splits
    vectors: Vectors | None
    audit: dict[str, Any] | None  # its summary
    decisive: Mapping[str, Any]  # further values that decide the steps, by name


@dataclass(frozen=True)
class Wide:
    """The linear part of a model: its facts for the metrics and the card."""

    ngrams: int
    factor: float
    decay: float  # each further token of an n-gram multiplies its feature by it
    seconds: float
    network: Mapping[str, float]  # validation scores of the network alone
    strongest: dict[str, list[str]]  # n-grams with the largest weights, by label


@dataclass(frozen=True)
class Fit:
    """A Trainer that has fitted its model, and the numbers of that training."""

    trainer: RnnTrainer
    numbers: dict[str, Any]
    few_rows: bool = False  # whether few_rows.py fitted the model
    # scores (N, C) and class ids (N) of the validation rows
    validation: tuple[np.ndarray, np.ndarray] | None = None
    wide: Wide | None = None  # the linear part that wide.py fitted


# ---- settings that suit the texts ----


def prepare_run(texts: Splits, report: DataReport, settings: Settings, extension: Extension) -> Run:
    """Return the inputs of a run, with settings that suit the texts and with the weights to start from."""
    task = get_task(settings.data.task)
    if settings.training.calibrate and "validation" not in texts:
        raise UserError(
            "calibrate needs rows that are not trained on: give a validation split, or leave it out"
        )
    suited, start_note = suit_language(settings, task, task.vocabulary_texts(texts["train"]))
    suited = suit_vocabulary(suited, rows=sum(report.label_counts["train"]))
    name = suited.data.model_name_or_path
    start = None if name is None else WarmStart(name)
    return Run(task, suited, texts, report, extension, start, start_note)


def suit_language(
    settings: Settings, task: Task, texts: Iterable[str]
) -> tuple[Settings, str | None]:
    """Return the settings for the language of the texts, and a reason for the card or None.

    A run that would start from an encoder of English starts from that of `OTHER_LANGUAGES` if the
    texts become fewer tokens with `multilingual`. If no encoder knows the texts, the run takes the
    recipe that starts from nothing: words become sub-words or characters. A start and a tokenizer
    that the user set stay, and so does the recipe that a user wrote. A student keeps everything,
    because its start suits its teacher.
    """
    start, layers = settings.data.model_name_or_path, settings.layers
    fixed = (
        layers.user.get("model_name_or_path")
        or layers.run["recipe"] not in recipe_names()
        or settings.verb == "distill"
    )
    if start is None:
        return settings if fixed else _suit_spaces(settings, texts), None
    if start not in OTHER_LANGUAGES or find_built_in(_MULTILINGUAL) is None:
        return settings, None
    other = OTHER_LANGUAGES[start]
    language = find_language(texts)
    is_english = language.is_english
    if language.is_known and is_english and not settings.training.language:
        settings.training.language = ["en"]  # for the card
    if not fixed and not language.is_known:
        recipe = scratch_recipe(task.recipe)
        tokenizer, *_ = choose_tokenizer(language.sample)
        reason = "no encoder of the package knows the texts: "
        reason += f"{language.unknown:.0%} of their tokens are unknown, "
        reason += f"{language.length:.1f} characters per token"
        logger.warning("recipe %s with tokenizer %s: %s", recipe, tokenizer, reason)
        return restart(settings, recipe, tokenizer), reason
    name = "English texts" if is_english else "texts in other languages than English"
    reason = f"{name}: the run starts from {start if fixed or is_english else other}"
    if fixed and not is_english:
        logger.warning("%s: --model_name_or_path %s may be better", name, other)
    elif not fixed:
        logger.info(reason)
    return settings if fixed or is_english else retarget(settings, other), reason


def _suit_spaces(settings: Settings, texts: Iterable[str]) -> Settings:
    """Return the settings of a run without a start, with characters as tokens if its texts have few spaces."""
    data = settings.data
    is_set = settings.layers.user.get("tokenizer") or data.tokenizer_name_or_path or data.vectors
    tokenizer, length, wide = choose_tokenizer(list(islice(texts, _SAMPLE)))
    if is_set or data.tokenizer != "word" or tokenizer != "char" or length < _SEGMENTED:
        return settings
    spaces = f"{length:.1f} characters between them, {wide:.0%} wide ones"
    logger.warning(
        "the texts have few spaces (%s): this run takes tokenizer char; --tokenizer word keeps words",
        spaces,
    )
    return settings.decide(tokenizer=tokenizer)


def suit_vocabulary(settings: Settings, rows: int) -> Settings:
    """Return the settings with a `min_frequency` for few rows and for characters, unless the user set it."""
    data = settings.data
    most = 1 if data.tokenizer == "char" else 2  # a word of one text can be private
    new = data.tokenizer_name_or_path is None and data.model_name_or_path is None
    if (
        not new
        or rows >= _FEW_TEXTS
        or data.min_frequency <= most
        or settings.layers.user.get("min_frequency")
    ):
        return settings
    logger.info(
        "%d training rows are few: words that occur %s stay (min_frequency)",
        rows,
        ("once", "twice")[most - 1],
    )
    return settings.decide(min_frequency=most)


def drop_scripts(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> None:
    """Leave out the pieces of a Unigram tokenizer with letters of scripts that fewer than 2 of 1,000 texts have.

    Pieces without letters stay, such as emoji, and those of Latin letters, which all languages use.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    if content["model"]["type"] != "Unigram":
        return
    rows, counts = 0, Counter[str]()
    for text in texts:
        rows += 1
        counts.update(_find_scripts(text))
    scripts = {"LATIN", *(name for name, count in counts.items() if count > rows / 500)}
    pieces, unknown = content["model"]["vocab"], content["model"]["unk_id"]
    used = [
        piece
        for index, piece in enumerate(pieces)
        if index == unknown or _find_scripts(piece[0]) <= scripts
    ]
    content["model"]["vocab"] = used
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    share = f"{len(used):,} of the encoder's {len(pieces):,} tokens"
    logger.info("the model has %s: the others are in scripts that the texts do not use", share)


def _find_scripts(text: str) -> set[str]:
    """Return the first words of the Unicode names of the letters of a text, such as LATIN and CJK."""
    return {
        unicodedata.name(letter, "").partition(" ")[0] for letter in set(text) if letter.isalpha()
    }


# ---- texts to tokens ----


def make_tokens(run: Run) -> Tokens:
    """Return the texts of a run as ids, audited; sample weights become a column of the training rows."""
    task, texts, model = run.task, run.texts, run.settings.model
    data, training = run.settings.data, run.settings.training
    words = chain(task.vocabulary_texts(texts["train"]), run.extension.read_texts(run))
    tokenizer, vectors = make_tokenizer(data, words), None
    if data.vectors is not None:
        sample = task.vocabulary_texts(texts["train"])
        vectors = load_vectors(str(data.vectors), tokenizer, texts=sample, seed=training.seed)
        logger.info("vectors of %s: %s", vectors.name, vectors.coverage)
        width, size = vectors.matrix.shape[1], model.embedding_size
        if size not in (width, RnnSettings().embedding_size):
            raise UserError(
                f"embedding_size is {size}, and {data.vectors} has vectors of {width} numbers: leave it out"
            )
    audit = audit_texts(run, tokenizer)
    warn_of_wrong_labels(run)
    if model.streaming:
        if data.max_length is None:
            tokenizer.model_max_length = NO_LENGTH_LIMIT
        sample = islice(task.vocabulary_texts(texts["train"]), _STREAM_SAMPLE)
        if find_unstable_text(lambda texts: tokenizer(texts)["input_ids"], sample) is not None:
            needs = "streaming needs tokens that do not depend on later words"
            raise UserError(
                f"{needs}, and those of tokenizer {data.tokenizer} do: choose word or bpe"
            )
    if task.per_token and model.word_forms:
        mark_capitals(tokenizer)
    encoded = task.encode(
        texts, tokenizer, training.block_size if task.generates else data.max_length
    )
    if (weights := run.extension.sample_weights) is not None:
        weights = (weights / weights.mean()).astype(np.float32)
        encoded["train"] = encoded["train"].add_column(SAMPLE_WEIGHT, weights)
    examples, decisive = run.extension.add_rows(run, tokenizer, encoded)
    return Tokens(tokenizer, examples, vectors, audit, decisive)


def warn_of_wrong_labels(run: Run) -> None:
    """Log the estimated share of wrong labels if it is above 2 %; few rows, and tasks without classes, are not judged.

    It takes a third of the time of the linear model that is trained for comparison, and is left out
    with it.
    """
    rows = run.task.audit_view(run.texts)
    is_judged = run.is_main and run.settings.training.baselines and run.task.one_label
    if not is_judged or rows is None or len(rows["train"]) < _FEWEST_JUDGED:
        return
    some = rows["train"]
    if len(some) > _MOST_JUDGED:
        some = some.shuffle(seed=0).select(range(_MOST_JUDGED))
    names = some.features["label"].names
    labels = np.asarray(some["label"][:])
    if np.sort(np.bincount(labels, minlength=2))[-2] < _FEWEST_OF_LABEL:
        return
    share = find_wrong_labels(list(join_texts(some)), labels, names).share
    if share > _MANY_WRONG:
        message = "about %.0f %% of the labels look wrong, or their texts have several meanings: "
        message += "hf-rnn audit DATA --labels lists them"
        logger.warning(message, 100 * share)


def make_tokenizer(data: DataArguments, texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """Train a tokenizer on texts, or load the one that the settings name.

    Raises a [`UserError`] for a tokenizer that cannot be loaded or cannot pad.
    """
    name, start, length = data.tokenizer_name_or_path, data.model_name_or_path, data.max_length
    if start is None and name is None:
        names = ("min_frequency", "max_vocab_size", "lowercase", "normalizer", "tokenizer")
        options = {
            **{name: getattr(data, name) for name in names},
            **get_task(data.task).tokenizer_options,
        }
        # a shared vocabulary must not show the words of one text, unless the settings ask for rare
        # words
        tokenizer = train_tokenizer(texts, min_texts=min(2, data.min_frequency), **options)
    elif start is not None:
        tokenizer = load_without_weights(start, FinishedFolder(find_folder(start)))[1]
        if find_built_in(start) is not None:
            drop_scripts(tokenizer, texts)
    else:
        tokenizer = _load_tokenizer(str(name))
    if length is not None:
        # saved, so that prediction truncates at the same length
        tokenizer.model_max_length = length
    if data.text_pair_column is not None:
        add_separator(tokenizer)
    return tokenizer


def _load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    # the oldest tokenizers of the Hub have names without an owner
    if "/" in name or Path(name).exists():
        check_name(name, "a tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # tokenizers raises a bare `Exception` for files of newer versions
        if (nested := nested_model(Path(name))) is not None:
            raise UserError(f"{name} holds no tokenizer. Did you mean {nested}?") from error
        raise UserError(f"the tokenizer {name} cannot be loaded: {reason_of(error)}") from error
    if tokenizer.pad_token_id is None:
        raise UserError(f"the tokenizer {name} has no padding token: batches need one")
    if "attention_mask" not in tokenizer.model_input_names:  # true for encoders that mask nothing
        tokenizer.model_input_names = [*tokenizer.model_input_names, "attention_mask"]
        # so that it is saved
        tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names
    return tokenizer


def audit_texts(run: Run, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    """Audit the splits, refuse leaks above `fail_on_leak`, log the findings on one line, and return their summary.

    Return None for texts that repeat by nature, which are not audited.
    """
    data = run.settings.data
    if (
        not (run.is_main or data.fail_on_leak is not None)
        or (rows := run.task.audit_view(run.texts)) is None
    ):
        return None
    report = audit(rows, tokenizer, origins=run.report.lines)
    report.check_leaks(data.fail_on_leak)
    logger.info("audit: %s", render_line(report))
    summary = report.summary()
    unknown = summary["unknown_token_share"].get("validation") or 0.0
    if unknown > _MANY_UNKNOWN:
        advice = (
            "more training texts know more tokens" if data.tokenizer != "word" else _SMALL_TOKENS
        )
        logger.warning(
            "%.0f %% of the tokens of validation are not in the vocabulary: %s",
            100 * unknown,
            advice,
        )
    return summary


def mistype_epoch(run: Run, tokenizer: PreTrainedTokenizerBase, epoch: int) -> datasets.Dataset:
    """Return the training rows of an epoch as ids and labels; each epoch mistypes another half of them."""
    training = run.settings.training
    rows = mistype_rows(run.texts["train"], training.typos, f"{training.seed} {epoch}", half=True)
    with only_errors():  # texts that were cut were counted once
        return run.task.encode(
            datasets.DatasetDict(train=rows), tokenizer, run.settings.data.max_length
        )["train"]


def cut_windows(rows: datasets.Dataset, window: int, seed: int) -> datasets.Dataset:
    """Return encoded rows; a longer one is a stretch of `window` tokens at a random place."""
    draw = np.random.default_rng(seed)

    def cut(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        texts = []
        for ids in batch["input_ids"]:
            first = draw.integers(len(ids) - window + 1) if len(ids) > window else 0
            texts.append(ids[first : first + window])
        return {"input_ids": texts}

    return rows.map(cut, batched=True, new_fingerprint=f"{rows._fingerprint}{window}-{seed}")


# ---- the start ----


class WarmStart:
    """The weights of an encoder, or of a model with any head, to start from.

    The encoder always keeps its weights. A head of the same class does too; its output layer keeps
    the rows of labels with the same name. Everything else starts at random.
    """

    def __init__(self, name_or_path: str) -> None:
        self.name = name_or_path
        self.model, self.tokenizer = load_model(name_or_path, device="cpu", allow_encoder=True)

    def match_labels(self, model: PreTrainedModel) -> dict[int, int]:
        """Return the number of each label of a new model in the start, for labels whose weights it can keep."""
        old, new = self.model.config, model.config
        is_paired = [config.sep_token_id is not None for config in (old, new)]
        one_label = old.problem_type in (None, "single_label_classification")
        if not one_label or type(self.model) is not type(model) or is_paired[0] != is_paired[1]:
            return {}
        return {
            number: old.label2id[name]
            for number, name in new.id2label.items()
            if name in old.label2id
        }

    @torch.no_grad()
    def copy_weights(self, new: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Copy the weights to a new model; a new token, such as a separator, has the mean of the table."""
        old = self.model
        weights, table = old.base_model.state_dict(), old.get_input_embeddings().weight
        places, rows = self.tokenizer.get_vocab(), list(range(new.config.vocab_size))
        for token, index in tokenizer.get_vocab().items():
            rows[index] = places.get(token, index if index >= len(places) else len(table))
        rows = [min(row, len(table)) for row in rows]
        weights["embedding.weight"] = torch.cat([table, table.mean(dim=0, keepdim=True)])[rows]
        new.base_model.load_state_dict(weights)
        if type(old) is type(new):
            numbers, before, after = self.match_labels(new), old.state_dict(), new.state_dict()
            if absent := [
                name for number, name in new.config.id2label.items() if number not in numbers
            ]:
                names = shorten(absent), self.name, shorten(list(old.config.label2id))
                logger.info(
                    "labels %s are not among those of %s (%s): their output weights start at random",
                    *names,
                )
            for name in before.keys() & after.keys():
                if name.startswith(OUTPUT_LAYERS):
                    after[name][list(numbers)] = before[name][list(numbers.values())]
                elif not name.startswith((f"{new.base_model_prefix}.", "ngrams.")):
                    after[name].copy_(before[name])
        config, head = old.config, head_name(old.config)
        shape = config.cell_type, config.num_hidden_layers, config.hidden_size
        head = "an encoder" if head == ENCODER else head
        logger.info("starting from %s: %s (%s, layers: %d, units: %d)", self.name, head, *shape)

    def describe(self, model: PreTrainedModel) -> dict[str, Any]:
        """Return name, Hub id (None for a folder), whether the output layer was kept, and the labels new in it."""
        local = find_built_in(self.name) is not None or Path(self.name).exists()
        shown = Path(self.name).resolve().name if local else self.name
        numbers, labels = self.match_labels(model), model.config.id2label
        fresh = [name for number, name in labels.items() if number not in numbers]
        facts = {"name": shown, "id": None if local else shown, "keeps_classifier": not fresh}
        return facts | ({"new_labels": fresh} if fresh and numbers else {})
