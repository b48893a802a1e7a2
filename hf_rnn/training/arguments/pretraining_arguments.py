"""Settings of a pretraining: the objective, the teacher, the texts, and what the student takes over."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...tasks import get_task
from ...utils.errors import UserError
from ..recipes import Setting, load_recipe
from .parser import SettingsParser, expand_home, setting
from .run_arguments import JSON_HELP, TRAINING, VOCABULARY_SETTINGS, ModelArguments, merge_recipe, name_output

RECIPE = "pretrain"
LANGUAGE_MODEL = "causal-lm"  # the task of objective causal_lm
_UNUSED = (  # settings of labelled texts and of heads for them
    "pooling", "classifier_activation", "pair_encoding", "crf", "word_forms", "word_hidden_size",
    "label_smoothing_factor", "class_weight_power", "head_learning_rate", "calibrate", "few_rows", "card_examples",
    "baselines",
)  # fmt: skip


@dataclass
class PretrainingArguments:
    """Objective, teacher, and texts without labels; see [`hf_rnn.training.pretraining`]."""

    _argument_group_name = "pretraining"

    objective: str = setting(
        "tokens",
        "targets: tokens (a teacher's states at every token and its sentence vectors), sentences (the vectors "
        "alone) or causal_lm (the next token, without a teacher)",
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
        None,
        "cut texts between sentences into parts of at most this number of words (default: texts stay whole)",
        least=1,
    )
    max_texts: int | None = setting(None, "stop reading after this number of distinct texts", common=True, least=20)
    held_out: int = setting(2000, "texts that are measured instead of learned, at most a tenth of all", least=2)
    max_vocab_size: int | None = setting(
        None,
        "word pieces of the teacher to keep, the most frequent ones (default: all that occur), or with causal_lm byte "
        "pairs to learn (default: 14000)",
        common=True,
        least=100,
    )
    teacher_max_length: int | None = setting(None, "tokens per text for the teacher (default: its maximum)", least=1)
    model_max_length: int = setting(4096, "tokens per text of the student", least=1)
    cache_dir: str | None = setting(None, "folder for texts and teacher's vectors (default: below output_dir)")
    weights_dtype: str = setting("float32", "dtype of the saved weights", choices=["float32", "bfloat16"])

    def __post_init__(self) -> None:
        """Check values that need no teacher."""
        expand_home(self, "teacher", "cache_dir")
        if self.input is not None:
            self.input = [os.path.expanduser(path) for path in self.input]

    def check(self) -> None:
        """Raise a [`UserError`] for a run without a teacher or texts."""
        if self.objective == "tokens" and self.max_vocab_size is not None:
            raise UserError("objective tokens learns at the teacher's own tokens: leave out max_vocab_size")
        if (self.teacher is None) != (self.objective == "causal_lm"):
            raise UserError(
                "give teacher, the folder or Hub id of a sentence encoder, or objective causal_lm, which needs none: "
                f"found teacher {self.teacher} and objective {self.objective}"
            )
        if (self.input is None) == (self.dataset_name is None):
            raise UserError("give either input, files with one text per line, or dataset_name")


def make_pretraining_parser(prog: str, **options: Any) -> SettingsParser:
    """Return the parser of `hf-rnn pretrain`."""
    kinds = [PretrainingArguments, ModelArguments, *TRAINING]
    parser = SettingsParser(kinds, defaults=_find_defaults, prog=prog, unused=_UNUSED, **options)
    parser.add_argument("--json", dest="json_output", action="store_true", help=JSON_HELP)
    return parser


def _choose_recipe(values: Mapping[str, Any]) -> Any:
    """Return the recipe that is given, or that of the objective."""
    recipe = values.get("recipe") or RECIPE
    if values.get("objective") != "causal_lm" or recipe != RECIPE:
        return recipe
    language_model = load_recipe(get_task(LANGUAGE_MODEL).recipe)
    return {"recipe": None} | {
        name: value for name, value in language_model.items() if name not in VOCABULARY_SETTINGS
    }


def _find_defaults(flags: Mapping[str, Any]) -> dict[str, Any]:
    recipe = _choose_recipe(flags)
    return load_recipe(recipe) | ({} if isinstance(recipe, Mapping) else {"recipe": recipe})


def parse_pretraining(settings: Mapping[str, Any], prog: str) -> tuple[Any, ...]:
    """Return the three dataclasses of settings from keywords, on top of the recipe of the objective.

    Raises a [`UserError`] for a mistake in a setting or a recipe.
    """
    from .training_arguments import RnnTrainingArguments

    parser, recipe = make_pretraining_parser(prog), _choose_recipe(settings)
    named = None if isinstance(recipe, Mapping) else recipe
    given = {name: Setting(value, prog) for name, value in {**settings, "recipe": named}.items()}
    merged = parser.convert(merge_recipe(recipe, given))
    merged = name_output(merged, {"data_dir": (merged.get("input") or [None])[0], **merged})
    pretraining, model, training = parser.build(merged, PretrainingArguments, ModelArguments, RnnTrainingArguments)
    return model, pretraining, training
