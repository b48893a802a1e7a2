"""Settings of a pretraining: the objective, the teacher, the texts, and what the student takes over."""

import os
from dataclasses import dataclass

from ...utils.errors import UserError
from .parser import expand_home, setting


@dataclass
class PretrainingArguments:
    """Objective, teacher, and texts without labels; see [`hf_rnn.training.pretraining`]."""

    _argument_group_name = "pretraining"

    objective: str = setting(
        "teacher",
        "objective: a teacher's sentence vectors, or the next token of the texts, which needs no teacher",
        choices=["teacher", "causal_lm"],
    )
    teacher: str | None = setting(
        None,
        "encoder to learn from: a sentence-transformers folder, or any encoder of transformers (folder or Hub id)",
    )
    input: list[str] | None = setting(None, "files with one text per line, plain or .gz")
    dataset_name: str | None = setting(None, "data set of the datasets library, in place of input")
    dataset_config: str | None = setting(None, "configuration of the data set")
    dataset_split: str = setting("train", "split of the data set")
    text_column: str = setting("text", "column of the data set")
    split_words: int | None = setting(
        None, "cut texts between sentences into parts of at most this number of words (default: texts stay whole)"
    )
    max_texts: int | None = setting(None, "stop reading after this number of distinct texts")
    held_out: int = setting(2000, "texts that are measured instead of learned, at most a tenth of all")
    max_vocab_size: int = setting(
        14_000, "word pieces to keep, the most frequent ones of the teacher; for causal_lm, byte pairs to learn"
    )
    teacher_max_length: int | None = setting(None, "tokens per text for the teacher (default: its maximum)")
    model_max_length: int = setting(4096, "tokens per text of the student")
    cache_dir: str | None = setting(None, "folder for texts and teacher's vectors (default: below output_dir)")
    weights_dtype: str = setting("float32", "dtype of the saved weights", choices=["float32", "bfloat16"])

    def __post_init__(self) -> None:
        """Check values that need no teacher."""
        expand_home(self, "teacher", "cache_dir")
        if self.input is not None:
            self.input = [os.path.expanduser(path) for path in self.input]
        for name, least in (
            ("split_words", 1), ("max_texts", 20), ("held_out", 2), ("max_vocab_size", 100), ("model_max_length", 1),
            ("teacher_max_length", 1),
        ):  # fmt: skip
            if (value := getattr(self, name)) is not None and not least <= value < float("inf"):
                raise UserError(f"{name} must be at least {least}, found {value}")

    def check(self) -> None:
        """Refuse a run without a teacher or texts.

        Raises:
            UserError: With what is missing.
        """
        if self.objective == "causal_lm":
            for name in ("teacher", "teacher_max_length", "model_max_length", "weights_dtype"):
                if (found := getattr(self, name)) != getattr(type(self), name):
                    raise UserError(f"objective causal_lm has no teacher: found {name} {found}; leave it out")
        elif self.teacher is None:
            raise UserError(
                "teacher is not set: give the folder of a sentence encoder, or its id on the Hub; "
                "objective causal_lm learns without one"
            )
        if (self.input is None) == (self.dataset_name is None):
            raise UserError("give either input, files with one text per line, or dataset_name")
