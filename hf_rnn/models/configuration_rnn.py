"""The settings of a recurrent text classifier: architecture and labels, nothing else.

No learning rates, no paths, no torch. A keyword that is not declared here is refused, and so is a key of a file that
looks like one misspelt, so that a typo cannot become a silent default. This file travels with every checkpoint.
"""

import difflib
from collections.abc import Iterable
from dataclasses import field, fields
from typing import Any, Literal

try:
    from transformers import PreTrainedConfig
except ImportError:
    from transformers import __version__

    raise ImportError(f"hf_rnn needs transformers >= 5, found {__version__}: pip install -U transformers") from None
from huggingface_hub.dataclasses import strict

# Keys that are no fields of a config, yet that transformers writes into `config.json` or passes while loading.
_KEYS_OF_TRANSFORMERS = frozenset(
    {
        "attn_implementation",
        "auto_map",
        "bos_token_id",
        "cls_token_id",
        "custom_pipelines",
        "eos_token_id",
        "experts_implementation",
        "finetuning_task",
        "loss_type",
        "mask_token_id",
        "model_type",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "quantization_config",
        "sep_token_id",
        "task_specific_params",
        "tie_word_embeddings",
        "tokenizer_class",
        "torch_dtype",
        "unk_token_id",
        "use_cache",
    }
)
_MAX_PARAMETERS = 2**33  # 32 GiB in float32: beyond it a number in `config.json` is a mistake, not a model
_MAX_LABELS = 2**16  # transformers makes a name for each as soon as it reads `num_labels`


def _setting(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"help": meaning})


class _Inverse(dict[str, int]):
    """A `label2id` made from `id2label`, which it follows unless it was changed itself."""

    def __init__(self, *items: Any) -> None:
        super().__init__(*items)
        self.made = dict(self)


@strict
class RnnConfig(PreTrainedConfig):
    """Configuration of [`RnnModel`] and [`RnnForSequenceClassification`].

    The defaults make a bidirectional LSTM. Labels are set with `id2label` or `label2id` (either one gives the other)
    or `num_labels`, as everywhere in transformers.

    Args:
        vocab_size (`int`): Rows of the embedding table, V.
        embedding_size (`int`): Width of a token's vector, E.
        cell_type (`str`): `"rnn_tanh"`, `"rnn_relu"`, `"gru"`, `"lstm"` or `"min_gru"` (its gates see
            the input alone, which makes it the fastest; see [`MinGru`]).
        hidden_size (`int`): Units per direction, H.
        num_hidden_layers (`int`): Stacked recurrent layers, L.
        bidirectional (`bool`): Whether each layer also reads from the last token to the first (D = 2, else D = 1).
        pooling (`str`): How the states of a text become one vector: `"last"` (the state after the last token read, in
            each direction), `"mean"`, `"max"`, `"mean_max"` (both, side by side) or `"attention"` (a learned weighted
            mean).
        embedding_dropout (`float`): Share of the elements of the token vectors that are dropped.
        word_dropout (`float`): Share of the *word types* dropped in a training batch: all occurrences of a type at
            once.
        hidden_dropout (`float`): Dropout on what one recurrent layer hands to the next.
        recurrent_dropout (`float`): Share of the recurrent weights (hidden to hidden) dropped in a training batch;
            `"min_gru"` has none, so it must be 0 there.
        classifier_dropout (`float`): Dropout on the pooled vector.
        classifier_activation (`str`): Function between pooling and the last linear layer: `"linear"` (none), `"relu"`,
            `"tanh"` or `"gelu"`.
        sparse_embedding (`bool`): Whether the embedding's gradient holds only the rows that a batch touched. Trains
            with [`RnnTrainer`], or a loop of one's own; the Trainer of transformers measures the norm of all
            gradients, which torch cannot of sparse ones.
        freeze_embedding (`bool`): Whether the embedding is left out of training.
        embedding_initializer_range (`float`): Standard deviation of the embedding's initial normal distribution.
        pad_token_id (`int`, *optional*): Id that stands for no token; its embedding row is zero and stays so.

    Raises:
        TypeError: For an unknown keyword, the message names the nearest field; and for labels that are no mapping.
        ValueError: For a `num_labels` out of its range or other than the labels are many, and for an id of a label
            that is no whole number.
        StrictDataclassFieldValidationError: For a value of the wrong type or not among the choices.
        StrictDataclassClassValidationError: For a value out of its range, for labels that are no texts, stand twice or
            leave out an id, and for two label maps that disagree.

    Example:
        >>> config = RnnConfig(vocab_size=3330, cell_type="gru", id2label={0: "negative", 1: "positive"})
        >>> config.label2id
        {'negative': 0, 'positive': 1}
    """

    model_type = "hf_rnn"
    # What the Trainer must not concatenate over batches: shapes differ, or dimension 0 is not the batch.
    keys_to_ignore_at_inference = ["last_hidden_state", "final_hidden_state", "final_cell_state", "pooling_weights"]

    vocab_size: int = _setting(30000, "rows of the embedding table")
    embedding_size: int = _setting(300, "width of a token's vector")
    cell_type: Literal["rnn_tanh", "rnn_relu", "gru", "lstm", "min_gru"] = _setting("lstm", "the recurrent cell")
    hidden_size: int = _setting(128, "units per direction")
    num_hidden_layers: int = _setting(1, "stacked recurrent layers")
    bidirectional: bool = _setting(True, "also read from the last token to the first")
    pooling: Literal["last", "mean", "max", "mean_max", "attention"] = _setting(
        "mean_max", "how the states of a text become one vector"
    )
    embedding_dropout: float | int = _setting(0.0, "share of the elements of the token vectors that are dropped")
    word_dropout: float | int = _setting(0.0, "share of the word types dropped in a training batch")
    hidden_dropout: float | int = _setting(0.0, "dropout between recurrent layers")
    recurrent_dropout: float | int = _setting(0.0, "share of the hidden-to-hidden weights dropped in a training batch")
    classifier_dropout: float | int = _setting(0.0, "dropout on the pooled vector")
    classifier_activation: Literal["linear", "relu", "tanh", "gelu"] = _setting(
        "linear", "function between pooling and the last linear layer"
    )
    sparse_embedding: bool = _setting(False, "embedding gradients hold only the rows that a batch touched")
    freeze_embedding: bool = _setting(False, "leave the embedding out of training")
    embedding_initializer_range: float | int = _setting(1.0, "standard deviation of the initial embedding")
    pad_token_id: int | None = _setting(1, "id that stands for no token")

    def __post_init__(self, **kwargs: Any) -> None:
        """Refuse unknown keywords and let either label map give the other."""
        self._refuse_unknown(kwargs)
        maps: Any = self
        for name in ("id2label", "label2id"):
            if not isinstance(getattr(maps, name), dict | type(None)):
                raise TypeError(
                    f"{name} must be a mapping such as {{0: 'no', 1: 'yes'}}, found {getattr(maps, name)!r}"
                )
        number = kwargs.get("num_labels")
        if number is not None and (not isinstance(number, int) or not 1 <= number <= _MAX_LABELS):
            raise ValueError(f"num_labels must be from 1 to {_MAX_LABELS}, found {number!r:.40}")
        given = maps.label2id
        if given is not None and maps.id2label is None:
            maps.id2label = {int(index): label for label, index in given.items()}
        if number is not None and maps.id2label is not None and len(maps.id2label) != number:
            raise ValueError(f"num_labels={number} and labels for {len(maps.id2label)} ids disagree: give one of them")
        super().__post_init__(**kwargs)
        if given is not None:  # it must not give way to the inverse of `id2label`, which may be another one
            maps.label2id = given

    def __setattr__(self, key: str, value: Any) -> None:
        """As everywhere, but `id2label` gives `label2id` too: while the two disagree, nothing could be saved.

        Raises:
            TypeError: For what looks like a setting misspelt, which no file could be loaded with.
        """
        if key == "id2label" and isinstance(value, dict):
            value = {int(index): label for index, label in value.items()}
            if all(isinstance(label, str) for label in value.values()):
                super().__setattr__("label2id", _Inverse((label, index) for index, label in value.items()))
        elif key == "label2id" and value == getattr(self, "label2id", None):
            return
        elif type(self) is RnnConfig and not (hasattr(self, key) or self._is_own(key) or self._is_foreign(key)):
            self._refuse_unknown([key])  # a class on top of this one may have attributes of any name
        super().__setattr__(key, value)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers; what was renamed in `id2label` itself comes into `label2id` first."""
        maps: Any = self
        if isinstance(maps.label2id, _Inverse) and maps.label2id == maps.label2id.made:
            maps.id2label = dict(maps.id2label)
        super().save_pretrained(*args, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """As in transformers: plain dictionaries, for any format."""
        written = super().to_dict()
        if isinstance(written.get("label2id"), _Inverse):
            written["label2id"] = dict(written["label2id"])
        return written

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers, but what looks like a misspelt setting is refused instead of kept or dropped.

        What does not is kept as an attribute when it comes from the dictionary, where other tools leave their own, and
        dropped when it is a keyword: `AutoTokenizer.from_pretrained` sends its own here.
        """
        return_unused_kwargs = kwargs.pop("return_unused_kwargs", False)
        maps = {name: kwargs.pop(name) for name in ("id2label", "label2id") if kwargs.get(name) is not None}
        number = kwargs.get("num_labels")
        if maps or number not in (None, len(config_dict.get("id2label") or ())):
            # In place of all labels that were saved; one map stands for both.
            saved = {key: value for key, value in config_dict.items() if key not in ("id2label", "label2id")}
            config_dict = {**saved, **maps}
        if "problem_type" in kwargs:  # what was saved may not go with the new number of labels
            config_dict = {**config_dict, "problem_type": kwargs.pop("problem_type")}
        foreign = {key: value for key, value in config_dict.items() if cls._is_foreign(key)}
        own = {key: value for key, value in config_dict.items() if key not in foreign}
        config, unused = super().from_dict(own, return_unused_kwargs=True, **kwargs)
        for key, value in foreign.items():
            setattr(config, key, unused.pop(key, value))
        if return_unused_kwargs:
            return config, unused
        cls._refuse_unknown(key for key in unused if cls._nearest(key, cutoff=0.8))
        return config

    @classmethod
    def _is_own(cls, key: str) -> bool:
        """Whether transformers or this class have it."""
        known = key in _KEYS_OF_TRANSFORMERS or key.startswith("_") or hasattr(cls, key)
        return known or key in (setting.name for setting in fields(cls))

    @classmethod
    def _is_foreign(cls, key: str) -> bool:
        """Whether it is nothing of transformers' or ours, nor looks like it."""
        return not cls._is_own(key) and not cls._nearest(key, cutoff=0.7)

    @classmethod
    def _refuse_unknown(cls, keys: Iterable[str]) -> None:
        for key in keys:
            if key in _KEYS_OF_TRANSFORMERS or key.startswith("_"):
                continue
            nearest = cls._nearest(key, cutoff=0.6)
            known = ", ".join(sorted(setting.name for setting in fields(cls)))
            hint = f"Did you mean {' or '.join(map(repr, nearest))}?" if nearest else f"Known settings: {known}."
            raise TypeError(f"RnnConfig has no setting {key!r}. {hint}")

    @classmethod
    def _nearest(cls, key: str, cutoff: float) -> list[str]:
        known = [setting.name for setting in fields(cls)]
        return difflib.get_close_matches(key, [*known, "num_labels"], n=2, cutoff=cutoff)

    @property
    def num_directions(self) -> int:
        """`int`: 2 when bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def output_size(self) -> int:
        """`int`: Width of `last_hidden_state`, directions x hidden."""
        return self.num_directions * self.hidden_size

    def validate_sizes(self) -> None:
        """Sizes are positive, and small enough that a corrupt file is refused before memory is taken."""
        for name in ("vocab_size", "embedding_size", "hidden_size", "num_hidden_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
            if getattr(self, name) > _MAX_PARAMETERS:  # so large a number may be more than a float can say
                raise ValueError(f"{name} must be at most {_MAX_PARAMETERS}, found {getattr(self, name)!r:.40}")
        recurrent = (
            self.embedding_size
            + (self.num_hidden_layers - 1) * self.output_size
            + self.num_hidden_layers * self.hidden_size
        )
        parameters = self.vocab_size * self.embedding_size + 4 * self.output_size * recurrent
        if parameters > _MAX_PARAMETERS:
            raise ValueError(
                f"vocab_size={self.vocab_size}, embedding_size={self.embedding_size}, hidden_size={self.hidden_size} "
                f"and num_hidden_layers={self.num_hidden_layers} ask for about {parameters:.1e} parameters; "
                f"the limit is {_MAX_PARAMETERS:.1e}"
            )

    def validate_dropout(self) -> None:
        """Each dropout is a share, at least 0 and below 1."""
        for name in ("embedding_dropout", "word_dropout", "hidden_dropout", "recurrent_dropout", "classifier_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, found {getattr(self, name)}")
        if self.cell_type == "min_gru" and self.recurrent_dropout > 0:
            raise ValueError(
                "cell_type='min_gru' has no hidden-to-hidden weights that recurrent_dropout could drop: "
                f"set recurrent_dropout to 0, found {self.recurrent_dropout}"
            )

    def validate_embedding_initializer_range(self) -> None:
        """A standard deviation is finite and not negative."""
        if not 0 <= self.embedding_initializer_range < float("inf"):
            raise ValueError(
                "embedding_initializer_range must be finite and not negative, "
                f"found {self.embedding_initializer_range}"
            )

    def validate_pad_token_id(self) -> None:
        """The padding id is a row of the table."""
        if self.pad_token_id is not None and not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(
                f"pad_token_id must be from 0 to vocab_size - 1 = {self.vocab_size - 1}, found {self.pad_token_id}"
            )

    def validate_problem_type(self) -> None:
        """The loss is one that transformers knows (fields of the base class are not checked by themselves)."""
        known = ("regression", "single_label_classification", "multi_label_classification")
        if self.problem_type is not None and self.problem_type not in known:
            raise ValueError(f"problem_type must be one of {', '.join(known)}, found {self.problem_type!r}")

    def validate_labels(self) -> None:
        """Ids run from 0 without a gap, and the two label maps say the same."""
        if not self.id2label:
            raise ValueError("a classifier needs at least one label: give id2label, label2id or num_labels")
        for label in self.id2label.values():
            if not isinstance(label, str) or label != label.encode(errors="replace").decode():  # half a UTF-16 pair
                raise ValueError(f"a label must be a text, found {label!r:.80}")
        if sorted(self.id2label) != list(range(len(self.id2label))):
            raise ValueError(
                f"the ids in id2label must be 0 to {len(self.id2label) - 1}, found {sorted(self.id2label)}"
            )
        if self.label2id != {label: index for index, label in self.id2label.items()}:
            raise ValueError(f"id2label and label2id disagree: {self.id2label} and {self.label2id}")
        if len(self.label2id) != len(self.id2label):
            raise ValueError(f"a label stands twice in id2label: {self.id2label}")
