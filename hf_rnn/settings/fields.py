"""Settings of every run, each declared once: flag, help, range and recipe key follow from it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from ..data import Location, TableArguments
from ..models.settings_rnn import RnnSettings, setting
from ..tasks import DEFAULT_TASK, TASKS
from ..utils.errors import UserError

ENCODER_SETTINGS = tuple(
    field.name for field in fields(RnnSettings) if field.metadata.get("start") == "shape"
)
# heads included
ARCHITECTURE = tuple(field.name for field in fields(RnnSettings) if field.metadata.get("start"))
VOCABULARY_SETTINGS = ("tokenizer", "normalizer", "min_frequency", "max_vocab_size", "lowercase")
TOKEN_SETTINGS = (*VOCABULARY_SETTINGS, "tokenizer_name_or_path", "vectors")
# Beginnings of settings of one run: where its results go, what they show, and with whose token. No
# recipe has them.
_PERSONAL = (
    "card_examples", "hub_", "output_dir", "overwrite_output_dir", "push_to_hub", "resume",
    "trackio_",
)  # fmt: skip
# beginnings of settings that no repeated run needs: its machine, its logs, consequences of others
_INCIDENTAL = (
    "activation_", "dataloader_", "ddp_", "disable_tqdm", "do_", "enable_jit_checkpoint",
    "gradient_checkpointing", "greater_is_better", "include_", "length_column_name", "local_rank",
    "log_", "project", "recipe", "report_to", "run_name", "save_on_each_node",
    "skip_memory_metrics", "torch_empty_cache_", "use_cpu",
)  # fmt: skip
AFTER_STEPS = (
    "baselines",
    "calibrate",
    "language",
    "license",
    "save_total_limit",
    "tags",
    "weights_dtype",
)


@dataclass
class DataArguments(TableArguments):
    """Labelled texts and how they become tokens. The help of each field describes it."""

    task: str = setting(DEFAULT_TASK, f"one of {', '.join(TASKS)}", shown="first")
    class_names: list[str] | None = setting(
        None, "names of the classes by id (default: the labels of train, sorted)"
    )
    fail_on_leak: float | None = setting(
        None, "stop if more of a split repeats train, such as 1%%", least=0, below=1
    )
    tokenizer: str = setting(
        "word", "tokens: word, char or bpe; the last two for languages without spaces"
    )
    normalizer: str = setting("none", "rewrites a text before it is split: none, tweet or cased")
    min_frequency: int = setting(3, "rarer words become the unknown token")
    max_vocab_size: int | None = setting(None, "size of the vocabulary; keeps the frequent words")
    lowercase: bool = setting(True, "lower-case the texts")
    max_length: int | None = setting(None, "cut longer texts to this number of tokens", least=1)
    tokenizer_name_or_path: Location | None = setting(
        None, "use this tokenizer: a folder or Hub id"
    )
    model_name_or_path: Location | None = setting(
        None,
        "model to start from: english, multilingual, ..., a folder or a Hub id",
        shown="common",
    )
    vectors: Location | None = setting(
        None, "file of word vectors, or a transformers model", shown="common"
    )

    def __post_init__(self) -> None:
        """Check values that need no texts."""
        super().__post_init__()
        for name in ("tokenizer_name_or_path", "vectors"):
            if self.model_name_or_path is not None and getattr(self, name) is not None:
                raise UserError(
                    f"model_name_or_path {self.model_name_or_path} has its own words: "
                    f"leave out {name}"
                )


@dataclass
class TrainingSettings:
    """Settings of recurrent models, and those of `TrainingArguments` with another default."""

    group: ClassVar[str] = "training"

    output_dir: str | None = setting(
        None, "new folder for the model (default: named after data and date)"
    )
    recipe: Location | None = setting(
        None, "recipe of settings: default, scratch, ...; or a file", shown="first"
    )
    max_minutes: float | None = setting(
        None, "train for about this long; the epochs follow", shown="first", above=0
    )
    num_train_epochs: float = setting(
        3.0, "passes over the training texts", shown="common", above=0
    )
    learning_rate: float = setting(5e-5, "size of a training step", shown="common", least=0)
    per_device_train_batch_size: int = setting(8, "texts per batch", shown="common", above=0)
    per_device_eval_batch_size: int = setting(8, "texts per batch of an evaluation", above=0)
    max_steps: int = setting(-1, "number of steps, in place of num_train_epochs; -1 for none")
    weight_decay: float = setting(0.0, "decay of the weights in each step", least=0)
    max_grad_norm: float = setting(1.0, "clip gradients to this norm; 0 does not clip", least=0)
    warmup_steps: float = setting(
        0, "steps until the full learning rate; below 1 a share of all", least=0
    )
    embedding_learning_rate: float | None = setting(None, "learning rate of the embedding", least=0)
    head_learning_rate: float | None = setting(None, "learning rate behind the encoder", least=0)
    class_weight_power: float = setting(
        0.0, "0: rows weigh the same, 1: classes do", shown="common", least=0
    )
    label_smoothing_factor: float = setting(
        0.0, "share of each label for all classes", least=0, most=1
    )
    calibrate: bool = setting(
        False, "fit scores to the validation rows, as probabilities", shown="common"
    )
    metric_for_best_model: str | None = setting(
        None, "score that chooses the best epoch", shown="common"
    )
    early_stopping_patience: int | None = setting(
        None, "end after evaluations without gain; 0 never", least=0
    )
    typos: float = setting(
        0.0, "share of words to mistype in half of the texts of an epoch", least=0, most=0.5
    )
    train_window: int = setting(
        0,
        "classifiers: of a longer text each epoch reads a stretch of this many tokens; 0 reads all",
        least=0,
    )
    wide: bool = setting(
        False,
        "add n-gram scores where validation gains; a linear part beside a finished classifier",
        shown="common",
    )
    few_rows: int = setting(
        0,
        "with at most this many rows per class, use contrast and logistic regression; 0: never",
        least=0,
    )
    row_budget: int | None = setting(
        None, "rows to read in all: many have fewer epochs, few have more", above=0
    )
    train_sampling_strategy: Literal["group_by_length", "random", "sequential"] = setting(
        "group_by_length", "order of the examples: similar lengths together, random or sequential"
    )
    block_size: int = setting(256, "tokens of a block of continuous text, for causal-lm", above=1)
    seed: int = setting(42, "seed of weights and order of texts", shown="common", least=0)
    bf16: bool | Literal["auto"] = setting(False, "train in bfloat16, on processors that have it")
    use_cpu: bool = setting(False, "train on the CPU only", shown="common")
    resume: bool = setting(
        False, "continue a stopped run from its newest checkpoint", shown="common"
    )
    overwrite_output_dir: bool = setting(False, "replace an earlier run there", shown="common")
    report_to: list[str] | None = setting(
        None, "programs that log the run: tensorboard, wandb, ..."
    )
    push_to_hub: bool = setting(False, "push the finished model to the Hub", shown="common")
    hub_model_id: str | None = setting(None, "repo for push_to_hub (default: as output_dir)")
    weights_dtype: Literal["float32", "float16", "bfloat16"] | None = setting(
        None,
        "dtype of the saved weights "
        "(default: float32; a frozen table in the shortest that holds it)",
    )
    baselines: bool = setting(True, "fit a linear model to the same rows, for the card")
    card_examples: bool = setting(False, "show training texts in card and demo", shown="common")
    license: str | None = setting(None, "the model's licence for its card, such as apache-2.0")
    language: list[str] | None = setting(None, "languages of the texts for the card, such as en de")
    tags: list[str] | None = setting(None, "further tags for the card")


@dataclass
class DistillationArguments:
    """A teacher and its use; see [`hf_rnn.distill`]. The help of each field describes it.

    The teacher's code is never run, and its weights are read from safetensors only. With the
    setting `bf16` it computes in bfloat16, as the student does.
    """

    group: ClassVar[str] = "distillation"

    teacher: Location | None = setting(
        None, "teacher: a sequence classifier of transformers, as a folder or Hub id"
    )
    teacher_labels: list[str] | None = setting(
        None,
        "names of the teacher's classes in the order of its ids, "
        "if its own are not those of the data",
    )
    unlabeled: Location | None = setting(
        None, "texts for the teacher to label: a file with one per line, or a table", shown="common"
    )
    augmentations: int = setting(
        1, "modified copies of each training text, for the teacher to label", least=0
    )
    temperature: float = setting(
        2.0, "divides the logits before they are compared, 1 to 5", least=0.01, most=100
    )
    soft_label_weight: float = setting(
        0.9,
        "weight of the teacher's answers; the true labels have the rest",
        shown="common",
        least=0,
        most=1,
    )
    teacher_max_length: int | None = setting(
        None, "tokens per text for the teacher (default: its maximum)", least=1
    )


@dataclass
class PretrainingArguments:
    """A teacher, and texts without labels; see [`hf_rnn.pretrain`]."""

    group: ClassVar[str] = "pretraining"

    teacher: Location | None = setting(
        None,
        "encoder of transformers to learn from, also that of sentence-transformers; "
        "a folder or a Hub id",
    )
    model_name_or_path: Location | None = setting(
        None,
        "encoder of an earlier run to teach further; its pieces must be the teacher's",
        shown="common",
    )
    input: list[Location] | None = setting(
        None, "files with one text per line, or tables, plain, .gz or .zst"
    )
    text_column: str | None = setting(
        None, "column of the texts in tables (default: found by its name)"
    )
    split_characters: int | None = setting(
        None,
        "cut longer texts between sentences, at this number of characters (default: no cut)",
        least=1,
    )
    max_texts: int | None = setting(
        None, "stop reading after this number of distinct texts", shown="common", least=20
    )
    held_out: int = setting(
        2000, "texts that are measured instead of learned, at most a tenth of all", least=2
    )
    max_vocab_size: int | None = setting(
        None,
        "pieces to keep, beside all characters that occur (default: all)",
        shown="common",
        least=100,
    )
    teacher_max_length: int | None = setting(
        None, "tokens per text for the teacher (default: its maximum)", least=1
    )
    model_max_length: int = setting(4096, "tokens per text of the student", least=1)
    weights_dtype: Literal["float32", "bfloat16", "float8"] = setting(
        "float32",
        "dtype of the saved weights; "
        "float8 is that of the token table, the others are bfloat16 then",
    )


# Dataclasses by verb: the first one that has a setting declares it.
VERBS: dict[str, tuple[type, ...]] = {
    "train": (DataArguments, TrainingSettings, RnnSettings),
    "distill": (DataArguments, DistillationArguments, TrainingSettings, RnnSettings),
    "pretrain": (RnnSettings, PretrainingArguments, TrainingSettings),
}


def is_personal(name: str) -> bool:
    """Return whether a setting is of one run: where results go, what they show, its token."""
    return name.startswith(_PERSONAL)


def is_recorded(name: str) -> bool:
    """Return whether the record of a run has a setting; it omits secrets, paths, consequences."""
    return not name.startswith((*_PERSONAL, *_INCIDENTAL))
