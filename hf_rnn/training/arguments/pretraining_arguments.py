"""Settings of a pretraining: the objective, the teacher, the texts, and what the student takes over."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...utils.errors import UserError
from ..recipes import Setting, load_recipe
from .parser import SettingsParser, expand_home, setting
from .run_arguments import JSON_HELP, ModelArguments, merge_recipe
from .text_arguments import VOCABULARY_SETTINGS
from .training_arguments import RnnTrainingArguments

RECIPE = "pretrain"
LANGUAGE_MODEL = "causal-lm"  # the task of objective causal_lm


@dataclass
class PretrainingArguments:
    """Objective, teacher, and texts without labels; see [`hf_rnn.training.pretraining`]."""

    _argument_group_name = "pretraining"

    objective: str = setting(
        "tokens",
        "what to learn: a teacher's states at every token and its sentence vectors, the vectors alone, or the next "
        "token of the texts, which needs no teacher",
        choices=["tokens", "sentences", "causal_lm"],
        common=True,
    )
    teacher: str | None = setting(
        None,
        "encoder to learn from: a folder of sentence-transformers, or any encoder of transformers; a Hub id too",
        required="objective",
    )
    input: list[str] | None = setting(
        None, "files with one text per line, or tables, plain, .gz or .zst", required="dataset_name"
    )
    dataset_name: str | None = setting(None, "data set of the datasets library, in place of input", common=True)
    dataset_config: str | None = setting(None, "configuration of the data set")
    dataset_split: str = setting("train", "split of the data set")
    text_column: str = setting("text", "column of the texts", common=True)
    split_words: int | None = setting(
        None, "cut texts between sentences into parts of at most this number of words (default: texts stay whole)"
    )
    max_texts: int | None = setting(None, "stop reading after this number of distinct texts", common=True)
    held_out: int = setting(2000, "texts that are measured instead of learned, at most a tenth of all")
    max_vocab_size: int | None = setting(
        None,
        "sentences: word pieces to keep, the most frequent ones of the teacher (default: all that occur); causal_lm: "
        "byte pairs to learn (default: 14000)",
        common=True,
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
        """Raise a [`UserError`] for a run without a teacher or texts."""
        if self.objective == "causal_lm":
            for name in ("teacher", "teacher_max_length", "model_max_length", "weights_dtype"):
                if (found := getattr(self, name)) != getattr(type(self), name):
                    raise UserError(f"objective causal_lm has no teacher: found {name} {found}; leave it out")
        elif self.objective == "tokens" and self.max_vocab_size is not None:
            raise UserError("objective tokens learns at the teacher's own tokens: leave out max_vocab_size")
        elif self.teacher is None:
            raise UserError(
                "teacher is not set: give the folder of a sentence encoder, or its id on the Hub; "
                "objective causal_lm learns without one"
            )
        if (self.input is None) == (self.dataset_name is None):
            raise UserError("give either input, files with one text per line, or dataset_name")


def parse_pretraining(settings: Mapping[str, Any] | Sequence[str], prog: str, **options: Any) -> tuple[Any, ...]:
    """Return the three dataclasses of settings, from flags or keywords, on top of the recipe of the objective.

    Options are those of [`SettingsParser`]. Raises a [`UserError`] for a mistake in a setting or a recipe.
    """
    types = [PretrainingArguments, ModelArguments, RnnTrainingArguments]
    parser = SettingsParser(types, prog=prog, recipe=RECIPE, **options)
    parser.add_argument("--json", dest="json_output", action="store_true", help=JSON_HELP)
    values = dict(settings) if isinstance(settings, Mapping) else parser.parse_flags(settings)
    recipe = values.get("recipe") or RECIPE
    if values.get("objective") == "causal_lm" and recipe == RECIPE:
        from ...tasks import get_task  # imports datasets

        lm = load_recipe(get_task(LANGUAGE_MODEL).recipe)
        recipe = {"recipe": None, **{name: value for name, value in lm.items() if name not in VOCABULARY_SETTINGS}}
    named = None if isinstance(recipe, Mapping) else recipe
    given = {name: Setting(value, prog) for name, value in {**values, "recipe": named}.items()}
    merged = parser.convert(merge_recipe(recipe, given))
    if not isinstance(settings, Mapping):
        parser.check_required(merged)
    own, model, training = parser.build(merged)
    return model, own, training
