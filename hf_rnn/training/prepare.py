"""The inputs of a training run: settings that suit the language of the texts, and their tokens.

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

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.trainer_utils import PredictionOutput

from ..data.report import DataReport
from ..data.splits import join_texts
from ..data.tokens import find_unstable_text
from ..data.vectors import Vectors, load_vectors
from ..hub.model_folder import (
    FinishedFolder,
    check_name,
    find_built_in,
    find_folder,
    load_without_weights,
    nested_model,
)
from ..models.configuration_rnn import RnnConfig
from ..models.settings_rnn import RnnSettings
from ..quality.audit import audit, render_line
from ..quality.wrong_labels import find_wrong_labels
from ..settings.fields import VOCABULARY_SETTINGS, DataArguments
from ..settings.recipe import recipe_names, scratch_recipe
from ..settings.resolve import ENGLISH, OTHER_LANGUAGES, Settings, restart, retarget
from ..tasks import Splits, Task, get_task
from ..tokenizers import NO_LENGTH_LIMIT
from ..tokenizers.language import Language, choose_tokenizer, find_language
from ..tokenizers.word_level import add_separator, mark_capitals, train_tokenizer
from ..utils.errors import UserError, reason_of
from .start import WarmStart
from .trainer import SAMPLE_WEIGHT, RnnTrainer

logger = logging.getLogger(__name__)

# training rows whose labels are judged
_FEWEST_JUDGED = 1_000
_MOST_JUDGED = 20_000
_FEWEST_OF_LABEL = 5
_MANY_WRONG = 0.02  # share of the labels
_MANY_UNKNOWN = 0.5  # share of the tokens of validation
# texts to check the tokenizer with; as transformers writes no limit
_STREAM_SAMPLE = 1000
_SMALL_TOKENS = (
    "lower min_frequency, or set tokenizer to char or bpe for languages written without spaces"
)
_SAMPLE = 1_000  # training texts that are looked at for spaces
_FEW_TEXTS = 500  # with fewer training rows, a token that occurs twice is kept
_SEGMENTED = 3  # characters per word where spaces were put between Chinese or Japanese words


class Extension:
    """A way to train differently, such as distillation: a subclass overrides points of a run."""

    loss: Callable[..., torch.Tensor] | None = None  # for `RnnTrainer`, in place of its own
    loss_columns: Sequence[str] = ()  # columns of the training rows that `loss` takes by name
    sample_weights: np.ndarray | None = None  # one per row of train, for the loss
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
    ) -> dict[str, Any] | None:
        """Return facts and scores of a teacher, from the model's predictions by split."""
        return None


@dataclass(frozen=True)
class Run:
    """The inputs of a training run: texts as the task read them, and settings that suit them."""

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

    @property
    def train_texts(self) -> Iterable[str]:
        """The texts of the training rows, for a vocabulary."""
        return self.task.vocabulary_texts(self.texts["train"])

    def has_few_rows(self, times: int = 1) -> bool:
        """Return whether a run with a start has at most `times` x `few_rows` rows per class.

        Only a task with one label per text has few rows.
        """
        few = times * self.settings.training.few_rows
        if not few or self.start is None or not self.task.one_label:
            return False
        counts = self.report.label_counts["train"]
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
    """Return the inputs of a run: the weights to start from, and settings that suit the texts."""
    task = get_task(settings.data.task)
    if settings.training.calibrate and "validation" not in texts:
        raise UserError(
            "calibrate needs rows that are not trained on: give a validation split, or leave it out"
        )
    rows = sum(report.label_counts["train"])
    suited, note = decide_start(settings, task.vocabulary_texts(texts["train"]), rows)
    name = suited.data.model_name_or_path
    start = None if name is None else WarmStart(name)
    return Run(task, suited, texts, report, extension, start, note)


def decide_start(
    settings: Settings, texts: Iterable[str], rows: int
) -> tuple[Settings, str | None]:
    """Return the settings of a run for its training texts, and a reason for the card or None.

    This is the one place that decides encoder or scratch, and the tokens of a start from nothing:

    - A run that would start from an encoder of English starts from that of `OTHER_LANGUAGES` if the
      texts become fewer tokens with `multilingual`.
    - If no encoder knows the texts, it takes the recipe that starts from nothing: words become
      sub-words or characters.
    - Without a start, texts with few spaces become characters.
    - Few `rows` keep rarer words.

    A start and tokens that the user set stay, and so does the recipe that a user wrote. A student
    keeps everything but rarer words, because its start suits its teacher.
    """
    start = settings.data.model_name_or_path
    user = settings.layers.user
    is_fixed = bool(
        user.get("model_name_or_path")
        or settings.layers.run["recipe"] not in recipe_names()
        or settings.verb == "distill"
    )
    note = None
    if start in OTHER_LANGUAGES and find_built_in(OTHER_LANGUAGES[ENGLISH]) is not None:
        settings, note = _suit_language(settings, find_language(texts), is_fixed)
    elif start is None and not is_fixed:
        settings = _suit_spaces(settings, texts)

    data = settings.data
    is_new = data.tokenizer_name_or_path is None and data.model_name_or_path is None
    most = 1 if data.tokenizer == "char" else 2  # a word of one text can be private
    if is_new and rows < _FEW_TEXTS and data.min_frequency > most and not user.get("min_frequency"):
        times = "once" if most == 1 else "twice"
        message = "%d training rows are few: words that occur %s stay (min_frequency)"
        logger.info(message, rows, times)
        settings = settings.decide(min_frequency=most)
    return settings, note


def _suit_language(
    settings: Settings, language: Language, is_fixed: bool
) -> tuple[Settings, str | None]:
    """Return the settings with the encoder of a language, or of a start from nothing."""
    if not language.is_known and not is_fixed:
        recipe = scratch_recipe(get_task(settings.data.task).recipe)
        tokenizer, *_ = choose_tokenizer(language.sample)
        note = (
            "no encoder of the package knows the texts: "
            f"{language.unknown:.0%} of their tokens are unknown, "
            f"{language.length:.1f} characters per token"
        )
        logger.warning("recipe %s with tokenizer %s: %s", recipe, tokenizer, note)
        return restart(settings, recipe, tokenizer), note

    start = str(settings.data.model_name_or_path)
    name = "English texts"
    if language.is_english:
        if language.is_known and not settings.training.language:
            settings.training.language = ["en"]  # for the card
    else:
        name = "texts in other languages than English"
        other = OTHER_LANGUAGES[start]
        if is_fixed:
            logger.warning("%s: --model_name_or_path %s may be better", name, other)
        else:
            settings = retarget(settings, other)
            start = other
    note = f"{name}: the run starts from {start}"
    if not is_fixed:
        logger.info(note)
    return settings, note


def _suit_spaces(settings: Settings, texts: Iterable[str]) -> Settings:
    """Return the settings with characters as tokens for texts with few spaces."""
    data = settings.data
    is_set = settings.layers.user.get("tokenizer") or data.tokenizer_name_or_path or data.vectors
    tokenizer, length, wide = choose_tokenizer(list(islice(texts, _SAMPLE)))
    if is_set or data.tokenizer != "word" or tokenizer != "char" or length < _SEGMENTED:
        return settings
    logger.warning(
        "the texts have few spaces (%.1f characters between them, %.0f%% wide ones): "
        "this run takes tokenizer char; --tokenizer word keeps words",
        length,
        100 * wide,
    )
    return settings.decide(tokenizer=tokenizer)


def drop_scripts(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> None:
    """Leave out the pieces of a Unigram tokenizer in scripts that fewer than 2 of 1,000 texts have.

    Pieces without letters stay, such as emoji, and those of Latin letters, which all languages use.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    model = content["model"]
    if model["type"] != "Unigram":
        return

    rows = 0
    counts = Counter[str]()
    for text in texts:
        rows += 1
        counts.update(_find_scripts(text))
    scripts = {"LATIN", *(script for script, count in counts.items() if count > rows / 500)}

    pieces = model["vocab"]
    unknown = pieces[model["unk_id"]]
    used = [piece for piece in pieces if piece is unknown or _find_scripts(piece[0]) <= scripts]
    model["vocab"] = used
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    share = f"{len(used):,} of the encoder's {len(pieces):,} tokens"
    logger.info("the model has %s: the others are in scripts that the texts do not use", share)


def _find_scripts(text: str) -> set[str]:
    """Return the first words of the Unicode names of the letters, such as LATIN and CJK."""
    return {
        unicodedata.name(letter, "").partition(" ")[0] for letter in set(text) if letter.isalpha()
    }


# ---- texts to tokens ----


def make_tokens(run: Run) -> Tokens:
    """Return the texts of a run as ids, audited; sample weights become a column for training."""
    settings = run.settings
    words = chain(run.train_texts, run.extension.read_texts(run))
    tokenizer = make_tokenizer(settings.data, words)
    vectors = _load_vectors(run, tokenizer)
    summary = audit_texts(run, tokenizer)
    warn_of_wrong_labels(run)
    if settings.model.streaming:
        if settings.data.max_length is None:
            tokenizer.model_max_length = NO_LENGTH_LIMIT
        sample = islice(run.train_texts, _STREAM_SAMPLE)
        if find_unstable_text(lambda texts: tokenizer(texts)["input_ids"], sample) is not None:
            raise UserError(
                "streaming needs tokens that do not depend on later words, "
                f"and those of tokenizer {settings.data.tokenizer} do: choose word or bpe"
            )
    if run.task.per_token and settings.model.word_forms:
        mark_capitals(tokenizer)

    length = settings.training.block_size if run.task.generates else settings.data.max_length
    examples = run.task.encode(run.texts, tokenizer, length)
    weights = run.extension.sample_weights
    if weights is not None:
        weights = weights[run.report.places["train"]]  # without rows that are held out
        weights = (weights / weights.mean()).astype(np.float32)
        examples["train"] = examples["train"].add_column(SAMPLE_WEIGHT, weights)
    examples, decisive = run.extension.add_rows(run, tokenizer, examples)
    return Tokens(tokenizer, examples, vectors, summary, decisive)


def _load_vectors(run: Run, tokenizer: PreTrainedTokenizerBase) -> Vectors | None:
    path = run.settings.data.vectors
    if path is None:
        return None
    seed = run.settings.training.seed
    vectors = load_vectors(str(path), tokenizer, texts=run.train_texts, seed=seed)
    logger.info("vectors of %s: %s", vectors.name, vectors.coverage)
    width = vectors.matrix.shape[1]
    size = run.settings.model.embedding_size
    if size not in (width, RnnSettings().embedding_size):
        raise UserError(
            f"embedding_size is {size}, and {path} has vectors of {width} numbers: leave it out"
        )
    return vectors


def warn_of_wrong_labels(run: Run) -> None:
    """Log the estimated share of wrong labels if it is above 2 %.

    Few rows are not judged, nor are tasks without classes. The estimate takes a third of the time
    of the linear model that is trained for comparison, and is left out with it.
    """
    rows = run.task.audit_view(run.texts)
    is_judged = run.is_main and run.settings.training.baselines and run.task.one_label
    if not is_judged or rows is None or len(rows["train"]) < _FEWEST_JUDGED:
        return
    some = rows["train"]
    if len(some) > _MOST_JUDGED:
        some = some.shuffle(seed=0).select(range(_MOST_JUDGED))
    labels = np.asarray(some["label"][:])
    if np.sort(np.bincount(labels, minlength=2))[-2] < _FEWEST_OF_LABEL:
        return
    names = some.features["label"].names
    share = find_wrong_labels(list(join_texts(some)), labels, names).share
    if share > _MANY_WRONG:
        logger.warning(
            "about %.0f %% of the labels look wrong, or their texts have several meanings: "
            "hf-rnn audit DATA --labels lists them",
            100 * share,
        )


def make_tokenizer(data: DataArguments, texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """Train a tokenizer on texts, or load the one that the settings name.

    Raises a [`UserError`] for a tokenizer that cannot be loaded or cannot pad.
    """
    name = data.tokenizer_name_or_path
    start = data.model_name_or_path
    if start is not None:
        tokenizer = load_without_weights(start, FinishedFolder(find_folder(start)))[1]
        if find_built_in(start) is not None:
            drop_scripts(tokenizer, texts)
    elif name is not None:
        tokenizer = _load_tokenizer(str(name))
    else:
        tokenizer = train_tokenizer(
            texts,
            # a shared vocabulary must not show the words of one text, unless the settings ask for
            # rare words
            min_texts=min(2, data.min_frequency),
            **{name: getattr(data, name) for name in VOCABULARY_SETTINGS},
            **get_task(data.task).tokenizer_options,
        )
    if data.max_length is not None:
        # saved, so that prediction truncates at the same length
        tokenizer.model_max_length = data.max_length
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
        nested = nested_model(Path(name))
        if nested is not None:
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
    """Audit the splits, log the findings on one line, and return their summary.

    Return None for texts that repeat by nature, which are not audited.

    Raises:
        UserError: For leaks above `fail_on_leak`.
    """
    data = run.settings.data
    rows = run.task.audit_view(run.texts)
    is_wanted = run.is_main or data.fail_on_leak is not None
    if rows is None or not is_wanted:
        return None
    report = audit(rows, tokenizer, origins=run.report.lines)
    report.check_leaks(data.fail_on_leak)
    logger.info("audit: %s", render_line(report))
    summary = report.summary()
    unknown = summary["unknown_token_share"].get("validation") or 0.0
    if unknown > _MANY_UNKNOWN:
        advice = "more training texts know more tokens"
        if data.tokenizer == "word":
            advice = _SMALL_TOKENS
        logger.warning(
            "%.0f %% of the tokens of validation are not in the vocabulary: %s",
            100 * unknown,
            advice,
        )
    return summary
