"""A tag for each word of a sentence: names of entities, parts of speech."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..evaluation.scores import check_finite_logits, entity_types, measure_loss, tagging_metrics
from ..models.settings_rnn import IGNORED_LABEL
from ..tokenizers import NO_LENGTH_LIMIT
from ..utils.errors import UserError
from . import (
    Answer,
    Config,
    Metrics,
    Outputs,
    Predict,
    Predictions,
    Row,
    Splits,
    Task,
    compute_scores,
    make_audit_view,
)

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

    from ..data import TableArguments
    from ..data.report import DataReport
    from ..models.settings_rnn import RnnSettings
    from ..models.token_classification_rnn import RnnForTokenClassification

logger = logging.getLogger(__name__)

_LOWERED = (0.5, 1.0, 1.5, 2.0, 2.5)  # how much lower the score of O may become
_UNSUITED = (
    "separator",
    "encoding",
    "quoting",
    "text_pair_column",
    "label_columns",
    "label_map",
)  # settings of tables of texts


class TokenClassification(Task):
    """Tag each word of a sentence.

    Sentences are words with tags. A word is one or more tokens, and its tag is that of its first
    token.
    """

    name = "token-classification"
    architecture = "RnnForTokenClassification"
    recipe = "token-classification"
    settings = {"class_weight_power": 0, "label_smoothing_factor": 0, "metric_for_best_model": "f1"}
    per_token = True
    scores = dict.fromkeys(("f1", "accuracy", "precision", "recall", "macro_f1"), True)

    # ---- data ----

    def read(self, arguments: TableArguments, *, report: DataReport, **options: Any) -> Splits:
        """Read CoNLL files, tables, a data set of the `datasets` library, or rows in memory."""
        from ..data.conll import load_conll

        for name in _UNSUITED:
            if options.pop(name, None) or getattr(arguments, name, None):
                raise UserError(f"{name} is not for tagged sentences: leave it out")
        data = options.pop("data", None)
        if data is None:
            arguments.check_source()
            data = arguments.dataset_name or arguments.data_dir
        options |= {"token_column": arguments.text_column, "tag_column": arguments.label_column}
        return load_conll(
            data,
            arguments.dataset_config,
            max_bad_rows=arguments.max_bad_rows,
            report=report,
            **options,
        )

    def vocabulary_texts(self, rows: datasets.Dataset) -> Iterable[str]:
        """Return the words of each sentence, joined by spaces."""
        return (" ".join(row["tokens"]) for row in rows)

    def encode(
        self, texts: Splits, tokenizer: PreTrainedTokenizerBase, max_length: int | None
    ) -> Splits:
        """Return the splits as `input_ids` and `labels`.

        A tag belongs to the first token of a word. In train, the other tokens of a word continue
        its tag, so that spans of raw texts are whole; elsewhere their label is -100.
        """
        encoded = type(texts)()
        for name, rows in texts.items():
            encoded[name] = encode_tagged(rows, tokenizer, max_length, name == "train")
        return encoded

    def make_encoder(
        self, train: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None
    ) -> Callable[[Sequence[Row]], list[Row]]:
        encode = _make_encoder(train, tokenizer, max_length, all_pieces=True)

        def encode_rows(rows: Sequence[Row]) -> list[Row]:
            if not rows:
                return []
            columns, _ = encode([row["tokens"] for row in rows], [row["ner_tags"] for row in rows])
            pairs = zip(columns["input_ids"], columns["labels"], strict=True)
            return [{"input_ids": ids, "labels": labels} for ids, labels in pairs]

        return encode_rows

    def audit_view(self, texts: Splits) -> Splits:
        """Return sentences; all have one label."""
        return make_audit_view(texts, lambda row: (" ".join(row["tokens"]), "sentence"))

    # ---- model and loss ----

    def config_fields(self, texts: Splits) -> dict[str, Any]:
        return {"id2label": dict(enumerate(texts["train"].features["ner_tags"].feature.names))}

    def check_settings(self, model: RnnSettings, training: object) -> None:
        if getattr(training, "class_weight_power", 0):
            raise UserError(
                f"class_weight_power needs one label per text: leave it out with {self.name}"
            )
        if model.streaming:
            raise UserError(
                "a tagger does not stream: leave out streaming, "
                "and tag the last sentence again as it grows"
            )

    # ---- evaluation ----

    def measure(self, predictions: Outputs, references: Outputs, config: Config) -> Metrics:
        """Return accuracy of tags, and precision, recall and F1 of entities, from tag ids."""
        return tagging_metrics(list(predictions), list(references), list(config.id2label.values()))

    def evaluate(self, predictions: Outputs, labels: Outputs, config: Config) -> Metrics:
        """Return sentences, words with a tag, loss and what [`measure`] returns."""
        outputs = []
        references = []
        for row, row_tags in zip(predictions, labels, strict=True):
            tags = np.asarray(row_tags)
            is_word = tags != IGNORED_LABEL
            outputs.append(np.asarray(row)[: len(tags)][is_word])
            references.append(tags[is_word])
        logits = np.concatenate(outputs).astype(np.float64)
        true = np.concatenate(references)
        check_finite_logits(logits)
        scores = self.measure([row.argmax(axis=1) for row in outputs], references, config)
        loss = measure_loss(logits, true, None)
        return {"rows": len(references), "tokens": len(true), "loss": loss, **scores}

    def tune_on_validation(
        self, model: PreTrainedModel, predictions: Predictions, predict: Predict
    ) -> None:
        """Lower the score of O, which is too high for rare entities, to the best F1."""
        names = list(model.config.id2label.values())
        if "validation" not in predictions or not entity_types(names):
            return
        outside = names.index("O")
        bias = cast("RnnForTokenClassification", model).classifier.bias.data
        learned = bias[outside].item()
        results = {0.0: predictions["validation"]}
        for less in _LOWERED:
            bias[outside] = learned - less
            results[less] = predict("validation")

        f1 = {}
        for less, output in results.items():
            f1[less] = self.evaluate(output.predictions, output.label_ids, model.config)["f1"]
        best = max(f1, key=lambda less: f1[less])  # the first of equally good ones
        bias[outside] = learned - best
        if best:
            message = "the score of O is %g lower: F1 on validation %.3f, not %.3f"
            logger.info(message, best, f1[best], f1[0.0])
            for split in predictions:
                predictions[split] = results[best] if split == "validation" else predict(split)

    def answers(
        self,
        scores: np.ndarray,
        config: Config,
        texts: Sequence[str] = (),
        encoded: BatchEncoding | None = None,
    ) -> list[Answer]:
        """Return the entities of each text, or for other tags its words.

        Each has `text`, `label`, `start`, `end` and `score`.
        """
        answers = []
        for row, (text, logits) in enumerate(zip(texts, scores, strict=True)):
            answers.append({"entities": find_spans(logits, encoded, row, text, config)})
        return answers

    def answer_types(self, config: Config) -> dict[str, pa.DataType]:
        import pyarrow as pa

        text = pa.string()
        place = pa.int64()
        fields = {"text": text, "label": text, "start": place, "end": place, "score": pa.float64()}
        return {"entities": pa.list_(pa.struct(list(fields.items())))}

    # ---- card ----

    def describe_rows(self, texts: Splits, examples: bool) -> dict[str, Any]:
        """Return the number of words by tag, or of entities by type, and examples."""
        train = texts["train"]
        names = train.features["ner_tags"].feature.names
        counts = Counter(chain.from_iterable(train["ner_tags"]))
        types = {entity: names.index(f"B-{entity}") for entity in entity_types(names)}
        shown = types or {name: number for number, name in enumerate(names)}
        return {
            "class_counts": {name: counts[number] for name, number in shown.items()},
            "examples": {"": list(map(" ".join, train["tokens"][:4]))} if examples else None,
        }


# ---- words and tokens ----


def encode_tagged(
    rows: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
    all_pieces: bool = False,
) -> datasets.Dataset:
    """Turn sentences with `tokens` and `ner_tags` into token ids and tags of tokens.

    A sentence has at most `max_length` tokens, by default the tokenizer's `model_max_length`. With
    `all_pieces` the other tokens of a word continue its tag (I-X after B-X), else their label is
    -100. A word without a token has no tag.
    """
    import datasets
    from datasets.fingerprint import generate_random_fingerprint

    if not tokenizer.is_fast:
        raise UserError(
            "a tagger needs a fast tokenizer, one with a tokenizer.json: "
            "found a tokenizer in Python"
        )
    cut = 0
    encode = _make_encoder(rows, tokenizer, max_length, all_pieces)
    limit = tokenizer.model_max_length if max_length is None else max_length

    def encode_batch(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        nonlocal cut
        encoded, beyond = encode(batch["tokens"], batch["ner_tags"])
        cut += beyond
        return encoded

    types = {"input_ids": "int32", "labels": "int64"}
    features = {name: datasets.List(datasets.Value(dtype)) for name, dtype in types.items()}
    table = rows.map(
        encode_batch,
        batched=True,
        remove_columns=rows.column_names,
        features=datasets.Features(features),
        new_fingerprint=generate_random_fingerprint(),
    )
    if cut:
        message = "%d words of %s are beyond %d tokens of their sentence and were cut off"
        logger.warning(message, cut, rows.split or "the data", limit)
    return table


def _make_encoder(
    rows: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    all_pieces: bool,
) -> Callable[[Sequence[Any], Sequence[Any]], tuple[dict[str, list[list[int]]], int]]:
    """Return a function from words and tags to columns of ids and labels, and the words cut off."""
    limit = tokenizer.model_max_length if max_length is None else max_length
    is_limited = limit < NO_LENGTH_LIMIT
    continued = _continue_tags(rows.features["ner_tags"].feature.names) if all_pieces else None

    def encode(
        tokens: Sequence[Sequence[str]], all_tags: Sequence[Sequence[int]]
    ) -> tuple[dict[str, list[list[int]]], int]:
        encoded = tokenizer(
            list(map(list, tokens)),
            is_split_into_words=True,
            truncation=is_limited,
            max_length=limit if is_limited else None,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        labels = []
        cut = 0
        for row, tags in enumerate(all_tags):
            words = encoded.word_ids(row)
            if len(words) >= limit:
                cut += len(tags) - 1 - max((word for word in words if word is not None), default=-1)
            labels.append(_align(words, tags, continued))
        return {"input_ids": encoded["input_ids"], "labels": labels}, cut

    return encode


def _continue_tags(names: Sequence[str]) -> list[int]:
    """Return the tag of the further tokens of a word by that of its first: I-X after B-X."""
    ids = {name: number for number, name in enumerate(names)}
    continued = list(range(len(names)))
    for name, number in ids.items():
        if name.startswith("B-"):
            continued[number] = ids.get(f"I-{name[2:]}", number)
    return continued


def _align(
    words: Sequence[int | None], tags: Sequence[int], continued: Sequence[int] | None
) -> list[int]:
    """Return a label per token from the tags of words, -100 for a token that has no tag."""
    labels = []
    for before, word in pairwise([None, *words]):
        if word is None or (word == before and continued is None):
            labels.append(IGNORED_LABEL)
        elif word != before:
            labels.append(tags[word])
        elif continued is not None:
            labels.append(continued[tags[word]])
    return labels


@dataclass
class Span:
    """A word or an entity: its label, its place in the text in characters, and its score."""

    label: str
    start: int
    end: int
    score: float


def find_spans(
    logits: np.ndarray, encoded: BatchEncoding, row: int, text: str, config: Config
) -> list[Answer]:
    """Return the entities of a text, or each word if the tags mark no entities.

    A word's tag is that of its first token. Words are those of the tokenizer; tokens at the same
    place are one word. `logits` is `(T, C)`; `encoded` has the text in this row, with
    `offset_mapping`.
    """
    spans = _read_words(compute_scores(logits, config), encoded, row, text, config)
    if entity_types(config.id2label.values()):
        spans = list(map(_merge, _join(spans)))
    return [{"text": text[span.start : span.end], **vars(span)} for span in spans]


def _read_words(
    scores: np.ndarray, encoded: BatchEncoding, row: int, text: str, config: Config
) -> list[Span]:
    """Return the words of a text."""
    words: list[Span] = []
    before = None
    for place, word in enumerate(encoded.word_ids(row)):
        if word is None:
            continue
        start, end = encoded["offset_mapping"][row][place]
        end_before = words[-1].end if words else 0
        if words and (word == before or start < end_before):
            words[-1].end = max(end, end_before)
        else:
            # a link that the tokenizer rewrites has the place of its last character: take what
            # precedes it
            beginning = re.split(r"\s", text[end_before:start])[-1]
            if any(map(str.isalnum, beginning)):
                start -= len(beginning)
            best = int(scores[place].argmax())
            score = float(scores[place, best])
            words.append(Span(config.id2label[best], start, end, score))
        before = word
    return words


def _merge(words: Sequence[Span]) -> Span:
    """Return the words of an entity as one, with its type and the mean of their scores."""
    score = sum(word.score for word in words) / len(words)
    return Span(words[0].label.partition("-")[2], words[0].start, words[-1].end, score)


def _join(words: Iterable[Span]) -> list[list[Span]]:
    """Return the words of each entity, by their tags in IOB2."""
    entities: list[list[Span]] = []
    before = ""  # the type of the word before, empty outside of entities
    for word in words:
        mark, _, label = word.label.partition("-")
        if mark == "I" and label == before != "":
            entities[-1].append(word)
        elif label:
            entities.append([word])
        before = label
    return entities
