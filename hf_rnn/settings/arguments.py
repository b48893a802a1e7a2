"""Settings of every run, each declared once: flag, help, range, recipe key, keyword, record and card follow from it.

Nothing heavy is imported here: a help, a misspelt flag and a prediction are answered at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from ..data import TableArguments
from ..models.settings_rnn import RnnSettings, setting
from ..tasks import DEFAULT_TASK, TASKS
from ..utils.errors import UserError

ENCODER_SETTINGS = tuple(known.name for known in fields(RnnSettings) if known.metadata.get("start") == "shape")
ARCHITECTURE = tuple(known.name for known in fields(RnnSettings) if known.metadata.get("start"))  # heads included
VOCABULARY_SETTINGS = ("tokenizer", "normalizer", "min_frequency", "max_vocab_size", "lowercase")
TOKEN_SETTINGS = (*VOCABULARY_SETTINGS, "tokenizer_name_or_path", "vectors", "widen_vocabulary")
# Beginnings of settings of one run: where its results go, what they show, and with whose token. No recipe has them.
_PERSONAL = (
    "card_examples", "hub_", "output_dir", "overwrite_output_dir", "push_to_hub", "resume", "teacher_cache",
    "trackio_",
)  # fmt: skip
_INCIDENTAL = (  # beginnings of names in transformers: where a run happens, what it reports, what others imply
    "activation_", "dataloader_", "ddp_", "disable_tqdm", "do_", "enable_jit_checkpoint", "gradient_checkpointing",
    "greater_is_better", "include_", "length_column_name", "local_rank", "log_", "project",
    "run_name", "save_on_each_node", "skip_memory_metrics", "torch_empty_cache_",
)  # fmt: skip


class ModelArguments(RnnSettings):
    """The architecture: the fields of [`RnnConfig`] with their defaults, except those that the tokenizer sets.

    Example:
        >>> ModelArguments(cell_type="gru", hidden_size=64).pooling
        'mean_max'
    """

    _argument_group_name = "model"
    _rare = (  # no help shows them
        "embedding_size", "num_hidden_layers", "word_dropout", "block_type", "residual_size", "conv_kernel",
        "bidirectional", "hidden_dropout",
        "recurrent_dropout", "classifier_dropout", "classifier_activation", "pair_encoding", "word_forms",
        "token_ngrams", "freeze_embedding", "tie_word_embeddings", "embedding_initializer_range",
    )  # fmt: skip


@dataclass
class DataArguments(TableArguments):
    """Labelled texts and how they become tokens. The help of each field describes it."""

    _rare: ClassVar[tuple[str, ...]] = (*TableArguments._rare, "lowercase", "widen_vocabulary")
    task: str = setting(DEFAULT_TASK, f"one of {', '.join(TASKS)}", first=True)
    class_names: list[str] | None = setting(None, "names of the classes by id (default: the labels of train, sorted)")
    fail_on_leak: float | None = setting(
        None, "stop if a larger share of a split repeats rows of train, such as 1%%", least=0, below=1, reads="share"
    )
    tokenizer: str = setting("word", "tokens: word, char or bpe; the last two for languages without spaces", card=True)
    normalizer: str = setting("none", "rewrites a text before it is split: none, semeval, tweet or cased", card=True)
    min_frequency: int = setting(3, "rarer words become the unknown token", card=True)
    max_vocab_size: int | None = setting(None, "size of the vocabulary; keeps the frequent words", card=True)
    lowercase: bool = setting(True, "lower-case the texts", card="always")
    max_length: int | None = setting(None, "cut longer texts to this number of tokens", least=1)
    tokenizer_name_or_path: str | None = setting(None, "use this tokenizer: a folder or Hub id", reads="path")
    model_name_or_path: str | None = setting(
        None, "model to start from: english, english_large, ..., a folder or a Hub id", common=True, reads="path"
    )
    vectors: str | None = setting(None, "file of word vectors, or a transformers model", common=True, reads="path")
    widen_vocabulary: int | None = setting(None, "add this number of the first words of vectors", least=1, card=True)

    def __post_init__(self) -> None:
        """Check values that need no texts."""
        super().__post_init__()
        for name in ("tokenizer_name_or_path", "vectors", "widen_vocabulary"):
            if self.model_name_or_path is not None and getattr(self, name) is not None:
                raise UserError(f"model_name_or_path {self.model_name_or_path} has its own words: leave out {name}")
        if self.widen_vocabulary is not None and (self.vectors is None or self.text_pair_column is not None):
            raise UserError(
                "widen_vocabulary (recipe best sets it) needs single texts and word vectors: add --vectors FILE, "
                "such as glove.6B.100d.txt, or take --recipe scratch"
            )


@dataclass
class OwnSettings:
    """Settings of recurrent models, and those of `TrainingArguments` with another default, help or range."""

    _argument_group_name = "training"
    _rare = (
        "per_device_eval_batch_size", "max_steps", "weight_decay", "max_grad_norm", "warmup_steps",
        "embedding_learning_rate", "head_learning_rate", "label_smoothing_factor", "early_stopping_patience",
        "row_budget", "row_floor", "train_sampling_strategy", "block_size", "bf16", "report_to", "hub_model_id",
        "weights_dtype", "license", "language", "tags",
    )  # fmt: skip

    output_dir: str | None = setting(None, "new folder for the model (default: named after data and date)", word=True)
    recipe: str | None = setting(
        None, "recipe of settings: default, accurate, ...; or a file", first=True, recorded=False, reads="path"
    )
    max_minutes: float | None = setting(None, "train for about this long; the epochs follow", first=True, above=0)
    num_train_epochs: float = setting(3.0, "passes over the training texts", common=True, above=0, card=True)
    learning_rate: float = setting(5e-5, "size of a training step", common=True, least=0, card=True)
    per_device_train_batch_size: int = setting(8, "texts per batch", common=True, above=0, card=True)
    per_device_eval_batch_size: int = setting(8, "texts per batch of an evaluation", above=0)
    max_steps: int = setting(-1, "number of steps, in place of num_train_epochs; -1 for none", card=True)
    weight_decay: float = setting(0.0, "decay of the weights in each step", least=0, card=True)
    max_grad_norm: float = setting(1.0, "clip gradients to this norm; 0 does not clip", least=0, card=True)
    warmup_steps: float = setting(0, "steps until the full learning rate; below 1 a share of all", least=0, card=True)
    embedding_learning_rate: float | None = setting(None, "learning rate of the embedding", least=0, card=True)
    head_learning_rate: float | None = setting(None, "learning rate behind the encoder", least=0, card=True)
    class_weight_power: float = setting(0.0, "0: rows weigh the same, 1: classes do", common=True, least=0, card=True)
    label_smoothing_factor: float = setting(0.0, "share of each label for all classes", least=0, most=1, card=True)
    calibrate: bool = setting(False, "fit scores to the validation rows, as probabilities", common=True, steps=False)
    metric_for_best_model: str | None = setting(None, "score that chooses the best epoch", common=True)
    early_stopping_patience: int | None = setting(
        None, "stop after this number of evaluations without a better score; 0 never", least=0, card=True
    )
    few_rows: int = setting(0, "fit only the last layer to at most this number of rows per class; 0 never", least=0)
    row_budget: int | None = setting(None, "fewer epochs, at least 2, to read at most this number of rows", above=0)
    row_floor: int = setting(0, "more epochs, at most 20, to read at least this number of rows", least=0)
    train_sampling_strategy: Literal["group_by_length", "random", "sequential"] = setting(
        "group_by_length", "order of the examples: similar lengths together, random or sequential", card=True
    )
    block_size: int = setting(256, "tokens of a block of continuous text, for causal-lm", above=1, card=True)
    seed: int = setting(42, "seed of weights and order of texts", common=True, least=0, card="always")
    bf16: bool = setting(False, "train in bfloat16, on processors that have it", card=True)
    use_cpu: bool = setting(False, "train on the CPU only", common=True, recorded=False)
    resume: bool = setting(False, "continue a stopped run from its newest checkpoint", common=True)
    overwrite_output_dir: bool = setting(False, "replace an earlier run there", common=True)
    report_to: list[str] | None = setting(
        None, "programs that log the run: tensorboard, wandb, ...", steps=False, recorded=False
    )
    push_to_hub: bool = setting(False, "push the finished model to the Hub", common=True)
    hub_model_id: str | None = setting(None, "repo for push_to_hub (default: as output_dir)")
    weights_dtype: str | None = setting(
        None,
        "dtype of the saved weights (default: float32, and for a frozen table the shortest that holds it exactly)",
        choices=["float32", "float16", "bfloat16"],
        steps=False,
    )
    baselines: bool = setting(True, "fit a linear model to the same rows, for the card", steps=False)
    card_examples: bool = setting(False, "show training texts in card and demo", common=True)
    license: str | None = setting(None, "the model's licence for its card, such as apache-2.0", steps=False)
    language: list[str] | None = setting(None, "languages of the texts for the card, such as en de", steps=False)
    tags: list[str] | None = setting(None, "further tags for the card", steps=False)


@dataclass
class DistillationArguments:
    """A teacher and its use; see [`hf_rnn.distill`]. The help of each field describes it.

    The teacher's code is never run, and its weights are read from safetensors only. With the setting `bf16` it
    computes in bfloat16, as the student does.
    """

    _argument_group_name = "distillation"
    _rare = ("augmentations", "teacher_labels", "teacher_max_length", "teacher_cache")

    teacher: str | None = setting(
        None, "teacher: a sequence classifier of transformers, as a folder or Hub id", required=True, reads="path"
    )
    teacher_labels: list[str] | None = setting(
        None, "names of the teacher's classes in the order of its ids, if its own are not those of the data"
    )
    unlabeled: str | None = setting(
        None,
        "texts for the teacher to label: a file with one per line, or a table, plain, .gz or .zst",
        common=True,
        reads="path",
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
        None, "folder for the teacher's answers (default: below output_dir)", recorded=False, reads="path"
    )


@dataclass
class PretrainingArguments:
    """A teacher, and texts without labels; see [`hf_rnn.pretrain`]."""

    _argument_group_name = "pretraining"
    _rare = (
        "split_characters", "held_out", "model_max_length", "weights_dtype", "teacher_max_length", "teacher_cache",
    )  # fmt: skip

    teacher: str | None = setting(
        None,
        "encoder of transformers to learn from, also that of sentence-transformers; a folder or a Hub id",
        required=True,
        reads="path",
    )
    input: list[str] | None = setting(
        None, "files with one text per line, or tables, plain, .gz or .zst", required=True, reads="path"
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
        None, "folder for the teacher's states (default: below output_dir)", recorded=False, reads="path"
    )
    weights_dtype: str = setting(
        "float32",
        "dtype of the saved weights; float8 is that of the token table, the others are bfloat16 then",
        choices=["float32", "bfloat16", "float8"],
    )


# Facts about settings of the training; see `setting`.
ABOUT: dict[str, Mapping[str, Any]] = {known.name: known.metadata for known in fields(OwnSettings)}
ABOUT |= {name: {"card": True} for name in ("optim", "lr_scheduler_type", "gradient_accumulation_steps")}


def is_personal(name: str) -> bool:
    """Return whether a setting belongs to one run: where its results go, what they show, and with whose token."""
    return name.startswith(_PERSONAL)


def is_recorded(name: str) -> bool:
    """Return whether the record of a run has a training setting; it omits secrets, paths and consequences."""
    incidental = not ABOUT[name].get("recorded", True) if name in ABOUT else name.startswith(_INCIDENTAL)
    return not (incidental or is_personal(name))


def decides_steps(name: str) -> bool:
    """Return whether a run with another value of a training setting takes other steps."""
    return is_recorded(name) and ABOUT.get(name, {}).get("steps", True)
