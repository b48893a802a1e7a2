"""Settings of the labelled texts: their source, their columns, and how they become tokens."""

import os
from dataclasses import dataclass
from typing import Any

from ...utils.errors import UserError
from .parser import expand_home, setting


@dataclass
class TableArguments:
    """The source of labelled texts and its columns. The help of each field describes it."""

    _argument_group_name = "data"

    data_dir: str | None = setting(
        None,
        "folder with train.tsv, dev.tsv, test.tsv (train suffices), or one file; tables may be .tsv, .csv, .jsonl, "
        ".parquet, .arrow or .xlsx, also .gz or .zst; or a folder with a folder or text file per label",
        required="dataset_name",
        replaces=("dataset_name", "dataset_config"),
    )
    dataset_name: str | None = setting(
        None,
        "instead of data_dir, a data set of the Hub; any data set of the datasets library, by name or local path",
        common=True,
        replaces=("data_dir",),
    )
    dataset_config: str | None = setting(None, "configuration of dataset_name, if it has several")
    text_column: str | None = setting(
        None,
        "column of the text, by name or by number from 0 (default: text or a similar name, or 0 without names); dots "
        "lead into nested records",
        common=True,
    )
    label_column: str | None = setting(
        None, "column of the label (default: label or a similar name, or 1 without names)", common=True
    )
    label_columns: list[str] | None = setting(
        None,
        "several columns, as text_column: of 0 and 1 for each label of multi-label, of numbers for regression",
    )
    label_separator: str = setting(",", "separates the labels of a text in label_column, for multi-label")
    text_pair_column: str | None = setting(None, "column of a second text, as text_column: both make one example")
    separator: str | None = setting(
        None, "comma, semicolon, bar or tab between the columns of a file (default: the one that fits the first lines)"
    )
    encoding: str | None = setting(
        None, "encoding of text files, such as cp1252 (default: UTF-8, UTF-16 with a mark, in tables also cp1252)"
    )
    max_bad_rows: str = setting("0", "number of bad rows to skip before an error: a count, or a share such as 0.1%%")

    def __post_init__(self) -> None:
        """Expand `~`, and split names of columns at commas."""
        expand_home(self, "data_dir", "dataset_name")
        if self.label_columns:
            self.label_columns = [name for item in self.label_columns for name in item.split(",") if name]
            if self.label_column is not None:
                raise UserError(f"label_column and label_columns are both set: leave out {self.label_column}")

    def check_source(self) -> None:
        """Raise a [`UserError`] unless exactly one source is given; a folder must exist."""
        folder, name = self.data_dir, self.dataset_name
        if (folder is None) == (name is None):
            raise UserError(f"give either data_dir or dataset_name: found {folder} and {name}")
        if folder is not None and not os.path.exists(folder):
            raise UserError(f"data_dir {folder} does not exist: give the folder or file of your texts")

    def layout(self) -> dict[str, Any]:
        """Return the keywords of [`load_tsv`] for columns and bad rows."""
        names = ("text_column", "label_column", "text_pair_column")
        columns: dict[str, Any] = {name: _parse_column(getattr(self, name)) for name in names}
        columns["label_columns"] = [_parse_column(name) for name in self.label_columns or ()]
        same = {name: getattr(self, name) for name in ("separator", "encoding", "max_bad_rows")}
        return {**columns, **same}


def _parse_column(name: str | None) -> int | str | None:
    return int(name) if name is not None and str(name).isdecimal() else name


@dataclass
class DataArguments(TableArguments):
    """Labelled texts and how they become tokens. The help of each field describes it."""

    task: str = setting(
        "sequence-classification",
        "sequence-classification, multi-label, regression, token-classification or causal-lm",
        common=True,
    )
    class_names: list[str] | None = setting(None, "names of the classes by id (default: the labels of train, sorted)")
    streaming: bool = setting(
        False,
        "read the TSV files in each epoch and keep them out of memory; texts are shuffled in a buffer, or stay in "
        "order with --train_sampling_strategy sequential",
    )
    fail_on_leak: str | None = setting(
        None, "do not train if more than this share of a split repeats rows of train, such as 1%% or 0.01"
    )
    tokenizer: str = setting(
        "word",
        "type of tokens: word, char or bpe; the last two for languages written without spaces",
        common=True,
        start="vocabulary",
        card=True,
    )
    normalizer: str = setting(
        "none",
        "normalization of a text before it is split: none, semeval, tweet or cased",
        start="vocabulary",
        card=True,
    )
    min_frequency: int = setting(3, "rarer words become the unknown token", start="vocabulary", card=True)
    max_vocab_size: int | None = setting(
        None, "size of the vocabulary with <unk> and <pad>; keeps the frequent words", start="vocabulary", card=True
    )
    lowercase: bool = setting(True, "lower-case the texts", start="vocabulary", card="always")
    max_length: int | None = setting(
        None, "cut longer texts to this number of tokens (default: the tokenizer's limit)", least=1
    )
    tokenizer_name_or_path: str | None = setting(
        None,
        "use this tokenizer (folder or Hub id); settings of the vocabulary then have no effect",
        start="tokens",
        replaces=("widen_vocabulary",),
    )
    model_name_or_path: str | None = setting(
        None,
        "model to start from: english, a folder or a Hub id; the run takes its architecture, tokenizer and "
        "weights, and its last layer if task and classes are the same",
        common=True,
        replaces=("tokenizer_name_or_path", "vectors", "vector_components", "widen_vocabulary"),
    )
    vectors: str | None = setting(
        None,
        "file of word vectors: GloVe, fastText, word2vec; or a transformers model, as a folder or Hub id",
        common=True,
        start="tokens",
        replaces=("embedding_size",),
    )
    vector_components: int | None = setting(
        None,
        "keep this number of principal components of vectors, scaled to a mean square of 1",
        start="tokens",
        least=1,
    )
    widen_vocabulary: int | None = setting(
        None,
        "add this number of the first words of vectors to the vocabulary, beyond max_vocab_size",
        start="tokens",
        least=1,
        card=True,
    )

    def __post_init__(self) -> None:
        """Check values that need no texts."""
        super().__post_init__()
        expand_home(self, "tokenizer_name_or_path", "model_name_or_path", "vectors")
        self.leak_limit()
        for name in ("tokenizer_name_or_path", "vectors", "vector_components", "widen_vocabulary"):
            if self.model_name_or_path is not None and getattr(self, name) is not None:
                raise UserError(
                    f"model_name_or_path {self.model_name_or_path} has its own words and vectors: leave out {name}"
                )
        if self.vector_components is not None and self.vectors is None:
            raise UserError("vector_components needs word vectors: add --vectors FILE, or leave it out")
        if self.widen_vocabulary is not None and self.text_pair_column is not None:
            raise UserError("widen_vocabulary (recipe best sets it) is for single texts: leave out text_pair_column")
        if self.widen_vocabulary is not None and self.vectors is None:
            raise UserError(
                "widen_vocabulary (recipe best sets it) needs word vectors: add --vectors FILE, such as "
                "glove.6B.100d.txt, or take --recipe scratch"
            )

    def leak_limit(self) -> float | None:
        """Return `fail_on_leak` as a number from 0 to 1, or None without a limit.

        Raises a [`UserError`] for an invalid share. A bare 1 is refused, as it can mean one row or 1 %.
        """
        if self.fail_on_leak is None:
            return None
        written = str(self.fail_on_leak).strip()
        try:
            share = float(written.removesuffix("%")) / (100 if written.endswith("%") else 1)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1 or written == "1":
            raise UserError(f"fail_on_leak is {written}: give a share of the rows such as 1% or 0.01")
        return share
