"""The settings that say which labelled texts to read, how they stand there, and how they become tokens.

Declarations and their checks only: nothing is read here, see [`hf_rnn.data.loading`].
"""

import os
from dataclasses import dataclass
from typing import Any

from ...utils.errors import UserError
from .parser import expand_home, setting

# Settings of a vocabulary that is made from the texts: without effect where a tokenizer comes ready-made.
OF_VOCABULARY = ("tokenizer", "normalizer", "min_frequency", "max_vocab_size", "lowercase")


@dataclass
class TableArguments:
    """Which labelled texts to read, and how they stand in their files or tables.

    Args:
        data_dir (`str`): Folder with `train.tsv`, `dev.tsv` or `validation.tsv`, and `test.tsv`; or one file of TSV,
            CSV, Parquet or JSON lines.
        dataset_name (`str`): Instead of `data_dir`: a data set of the `datasets` library, by its name on the Hub or a
            local path.
        dataset_config (`str`, *optional*): The configuration of a data set that has several.
        text_column (`str`, *optional*): Column of the text. In a TSV file by number from 0, or by name with `header`
            (default 0); else by name (default `text`), in nested records with dots (`fields.text`).
        label_column (`str`, *optional*): Column of the label, likewise (default 1, or `label`).
        header (`bool`): Whether the first line of every TSV file names the columns. Where no others are named here
            those called `text` and `label` are taken, else the two that there are.
        max_bad_rows (`str`): How many bad rows to go on without: a count, or a share such as `"0.1%"` or `"0.001"`.
    """

    _argument_group_name = "data"

    data_dir: str | None = setting(
        None,
        "folder with train.tsv, dev.tsv or validation.tsv, and test.tsv; or one file: .tsv, .csv, .parquet or .jsonl",
    )
    dataset_name: str | None = setting(
        None, "instead of data_dir: a data set of the datasets library, by its name on the Hub or a local path"
    )
    dataset_config: str | None = setting(None, "configuration of dataset_name, where it has several")
    text_column: str | None = setting(
        None, "column of the text: in TSV by number from 0, or by name with --header (default 0); else by name (text)"
    )
    label_column: str | None = setting(None, "column of the label, likewise (default 1; or label)")
    header: bool = setting(False, "the first line of every TSV file names the columns")
    max_bad_rows: str = setting("0", "go on without so many bad rows: a count, or a share such as 0.1%%")

    def __post_init__(self) -> None:
        """Let `~` be the home folder."""
        expand_home(self, "data_dir", "dataset_name")

    def check_source(self) -> None:
        """Make sure that one place of texts is named, and is there if it is a folder.

        Raises:
            UserError: When none is named or two are, when nothing is there, or settings of the other place are given.
        """
        if self.data_dir is not None and self.dataset_name is not None:
            raise UserError(
                f"data_dir {self.data_dir} and dataset_name {self.dataset_name} are both set: give one of them"
            )
        if self.dataset_name is not None:
            return
        if self.dataset_config is not None:
            raise UserError(
                f"dataset_config {self.dataset_config} needs the data set it belongs to: give dataset_name"
            )
        if self.data_dir is None:
            raise UserError(
                "data_dir is not set: give a folder with train.tsv, and dev.tsv and test.tsv if there are; "
                "or dataset_name, a data set of the datasets library"
            )
        if not os.path.exists(self.data_dir):
            raise UserError(f"data_dir {self.data_dir} does not exist: give a folder with train.tsv")

    def layout(self, named: bool = False) -> dict[str, Any]:
        """Return the keywords of [`load_tsv`] (or of [`load_named`], if named) for columns and bad rows."""
        if named:
            columns: dict[str, Any] = {"text_column": self.text_column or "text"}
            columns["label_column"] = self.label_column or "label"
            return {**columns, "max_bad_rows": self.max_bad_rows}
        return {
            "text_column": _column(self.text_column),
            "label_column": _column(self.label_column),
            "header": self.header,
            "max_bad_rows": self.max_bad_rows,
        }


def _column(name: str | None) -> int | str | None:
    """Return a column of a TSV file: its number, its name, or None where it is not declared."""
    if name is None:
        return None
    return int(name) if str(name).isdecimal() else str(name)


@dataclass
class DataArguments(TableArguments):
    """Labelled texts and how they become tokens.

    Args:
        class_names (`list[str]`, *optional*): Names of the classes by id; by default the labels of train, sorted.
        streaming (`bool`): Whether to read the TSV files anew in each epoch in place of holding them in memory. The
            texts come in the order of the files, shuffled in a buffer unless `train_sampling_strategy` is
            `sequential`; there is no grouping by length.
        fail_on_leak (`str`, *optional*): Refuse to train when more than this share of the rows of a split, such as
            `"1%"` or `"0.01"`, repeats a row of train; see [`~hf_rnn.data.audit.audit`].
        tokenizer (`str`): What a token is, see [`train_tokenizer`]: `word`, `char`, `bpe` or `unigram`.
        normalizer (`str`): What is done to a text before it is split into words, see [`train_tokenizer`].
        min_frequency (`int`): Rarer words become the unknown token.
        max_vocab_size (`int`, *optional*): Most entries of the vocabulary, `<unk>` and `<pad>` among them; the most
            frequent words are kept.
        lowercase (`bool`): Whether to lower-case.
        max_length (`int`, *optional*): Longer texts are cut to so many tokens.
        tokenizer_name_or_path (`str`, *optional*): An existing tokenizer to take instead of training one; the five
            settings of the vocabulary then have no effect.
        model_name_or_path (`str`, *optional*): A trained model of this package to go on from, a finished folder or an
            id on the Hub: its architecture, tokenizer and weights, whatever a recipe says of these. Its last layer is
            kept where the classes have the same names, and starts anew where not.
        vectors (`str`, *optional*): Pretrained word vectors for the embedding, whose size follows them: a file, the
            folder of a transformers model, or such a model's id on the Hub; see [`~hf_rnn.data.vectors.load_vectors`].
        widen_vocabulary (`int`, *optional*): Add those of so many of the first words of `vectors` that the training
            texts lack, so that words unseen in training have a meaning. `max_vocab_size` does not count them.

    Raises:
        UserError: For a `fail_on_leak` that is no share, for a `max_length` below 1, for `widen_vocabulary` without
            `vectors`, and for a tokenizer or vectors beside `model_name_or_path`.
    """

    task: str = setting("sequence-classification", "what the model does")
    class_names: list[str] | None = setting(None, "names of the classes by id (default: the labels of train, sorted)")
    streaming: bool = setting(False, "read the TSV files anew in each epoch in place of holding them in memory")
    fail_on_leak: str | None = setting(
        None, "do not train when more than this share of a split repeats rows of train, such as 1%% or 0.01"
    )
    tokenizer: str = setting(
        "word", "what a token is: word, char, bpe or unigram; the last three for languages written without spaces"
    )
    normalizer: str = setting("none", "what is done to a text before it is split: none, semeval or tweet")
    min_frequency: int = setting(3, "rarer words become the unknown token")
    max_vocab_size: int | None = setting(None, "keep only the most frequent words, so many with <unk> and <pad>")
    lowercase: bool = setting(True, "lower-case the texts")
    max_length: int | None = setting(None, "cut longer texts to so many tokens (default: the tokenizer's limit)")
    tokenizer_name_or_path: str | None = setting(None, "use this tokenizer (folder or Hub id) instead of training one")
    model_name_or_path: str | None = setting(
        None, "go on from this trained model (folder or Hub id): its architecture, tokenizer and weights"
    )
    vectors: str | None = setting(
        None, "pretrained word vectors: a file (GloVe, fastText, word2vec), or a transformers model (folder or Hub id)"
    )
    widen_vocabulary: int | None = setting(None, "also know so many of the first words of vectors")

    def __post_init__(self) -> None:
        """Check what can be checked without the texts."""
        super().__post_init__()
        expand_home(self, "tokenizer_name_or_path", "model_name_or_path", "vectors")
        self.leak_limit()
        if self.max_length is not None and self.max_length < 1:
            raise UserError(f"max_length must be at least 1, found {self.max_length}")
        for name in ("tokenizer_name_or_path", "vectors"):
            if self.model_name_or_path is not None and getattr(self, name) is not None:
                raise UserError(
                    f"model_name_or_path {self.model_name_or_path} brings its own words and their vectors: leave out "
                    f"{name}"
                )
        if self.widen_vocabulary is not None:
            if self.model_name_or_path is not None:
                raise UserError(
                    f"model_name_or_path {self.model_name_or_path} brings its own words: leave out widen_vocabulary"
                )
            if self.vectors is None:
                raise UserError(
                    "widen_vocabulary takes words of pretrained vectors, and none are given: give vectors, or leave "
                    "it out (recipe best sets it: take another)"
                )
            if self.widen_vocabulary < 1:
                raise UserError(f"widen_vocabulary must be at least 1, found {self.widen_vocabulary}")

    def leak_limit(self) -> float | None:
        """Return `fail_on_leak` as a number from 0 to 1, None when there is no limit.

        Raises:
            UserError: When it is none.
        """
        if self.fail_on_leak is None:
            return None
        written = str(self.fail_on_leak).strip()
        percent = written.endswith("%")
        try:
            share = float(written.removesuffix("%")) / (100 if percent else 1)
        except ValueError:
            share = -1.0
        # a bare 1 would be read as one row, or as 1 %, by half of those who type it
        if 0 <= share <= 1 and (percent or share < 1):
            return share
        raise UserError(f"fail_on_leak is {self.fail_on_leak!r}: give a share of the rows such as 1% or 0.01")
