"""Settings of `distill` and `pretrain`: the teacher, its texts, and its answers. Nothing heavy is imported."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..hub.model_folder import read_mapping
from .recipes import TOKEN_SETTINGS, load_recipe
from .settings import ModelArguments, SettingsParser, expand_home, make_parser, parse, setting

logger = logging.getLogger(__name__)

_TABLE_DROPOUT = {"word_dropout": 0.1, "embedding_dropout": 0.2}  # at most, for a student that has its teacher's table
_UNUSED = (  # settings of labelled texts and of heads for them
    "pooling", "classifier_activation", "pair_encoding", "crf", "word_forms", "label_smoothing_factor",
    "class_weight_power", "head_learning_rate", "calibrate", "few_rows", "card_examples", "baselines", "max_minutes",
    "block_size", "metric_for_best_model", "load_best_model_at_end", "early_stopping_patience", "push_to_hub",
)  # fmt: skip


@dataclass
class DistillationArguments:
    """A teacher and its use; see [`hf_rnn.distill`]. The help of each field describes it.

    The teacher's code is never run, and its weights are read from safetensors only. With the setting `bf16` it
    computes in bfloat16, as the student does.
    """

    _argument_group_name = "distillation"

    teacher: str | None = setting(
        None, "teacher: a sequence classifier of transformers, as a folder or Hub id", required=True
    )
    teacher_labels: list[str] | None = setting(
        None, "names of the teacher's classes in the order of its ids, if its own are not those of the data"
    )
    unlabeled: str | None = setting(
        None, "texts for the teacher to label: a file with one per line, or a table, plain, .gz or .zst", common=True
    )
    augmentations: int = setting(1, "modified copies of each training text, for the teacher to label", least=0)
    temperature: float = setting(
        2.0,
        "divides the logits before they are compared; values above 1 soften them, 1 to 5 are customary",
        least=0.01,
        most=100,
    )
    soft_label_weight: float = setting(
        0.9, "weight of the teacher's answers; the true labels have the rest", common=True, least=0, most=1
    )
    teacher_max_length: int | None = setting(None, "tokens per text for the teacher (default: its maximum)", least=1)
    teacher_cache: str | None = setting(
        None, "folder for the teacher's answers (default: below output_dir)", recorded=False
    )

    def __post_init__(self) -> None:
        """Check values that need no teacher."""
        expand_home(self, "teacher", "unlabeled", "teacher_cache")


@dataclass
class PretrainingArguments:
    """A teacher, and texts without labels; see [`hf_rnn.pretrain`]."""

    _argument_group_name = "pretraining"

    teacher: str | None = setting(
        None,
        "encoder of transformers to learn from, also that of sentence-transformers; a folder or a Hub id",
        required=True,
    )
    input: list[str] | None = setting(
        None, "files with one text per line, or tables, plain, .gz or .zst", required=True
    )
    text_column: str | None = setting(None, "column of the texts in tables (default: found by its name)")
    split_characters: int | None = setting(
        None,
        "cut texts between sentences into parts of at most this number of characters (default: texts stay whole)",
        least=1,
    )
    max_texts: int | None = setting(None, "stop reading after this number of distinct texts", common=True, least=20)
    held_out: int = setting(2000, "texts that are measured instead of learned, at most a tenth of all", least=2)
    max_vocab_size: int | None = setting(
        None,
        "pieces of the teacher's vocabulary to keep, those that the texts use most; all characters that they use "
        "stay (default: all pieces that occur)",
        common=True,
        least=100,
    )
    teacher_max_length: int | None = setting(None, "tokens per text for the teacher (default: its maximum)", least=1)
    model_max_length: int = setting(4096, "tokens per text of the student", least=1)
    teacher_cache: str | None = setting(
        None, "folder for the teacher's states (default: below output_dir)", recorded=False
    )
    weights_dtype: str = setting(
        "float32",
        "dtype of the saved weights; float8 is that of the token table, the others are bfloat16 then",
        choices=["float32", "bfloat16", "float8"],
    )

    def __post_init__(self) -> None:
        """Expand the home folder in paths."""
        expand_home(self, "teacher", "teacher_cache")
        if self.input is not None:
            self.input = [os.path.expanduser(path) for path in self.input]


def parse_distillation(values: Mapping[str, Any], prog: str) -> tuple[Any, ...]:
    """Return the settings of model, data, training and distillation from keywords; see [`parse`]."""
    return parse({**_read_teacher_table(values), **values}, prog, DistillationArguments)


def _read_teacher_table(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a student that starts from the tokens and the table of its teacher.

    That is for a recipe that starts from nothing, such as `fast`, and a teacher that is a folder of this package: its
    table knows more words than the training texts teach. Given tokens, vectors or another start leave it out.
    """
    given = {name: value for name, value in values.items() if value is not None}
    recipe, teacher = given.get("recipe"), os.path.expanduser(str(given.get("teacher")))
    others = {*TOKEN_SETTINGS, "model_name_or_path", "embedding_size"}
    if recipe is None or given.keys() & others or load_recipe(recipe).get("model_name_or_path") is not None:
        return {}
    config = Path(teacher, "config.json")
    if not config.is_file() or read_mapping(config, config.read_bytes()).get("model_type") != "hf_rnn":
        return {}
    logger.info("the student starts from the tokens and the table of its teacher; --tokenizer word learns new ones")
    dropout = {name: rate for name, rate in _TABLE_DROPOUT.items() if load_recipe(recipe).get(name, 0) > rate}
    return {"tokenizer_name_or_path": teacher, "vectors": teacher, **dropout}


def make_pretraining_parser(prog: str, **options: Any) -> SettingsParser:
    """Return the parser of `hf-rnn pretrain`."""
    return make_parser(prog, PretrainingArguments, kinds=(ModelArguments,), unused=_UNUSED, **options)


def parse_pretraining(values: Mapping[str, Any], prog: str) -> tuple[Any, ...]:
    """Return the settings of model, pretraining and training from keywords, on top of the recipe `pretrain`."""
    model, training, pretraining = parse(
        values, prog, PretrainingArguments, kinds=(ModelArguments,), recipe="pretrain"
    )
    return model, pretraining, training
