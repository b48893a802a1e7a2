"""Configuration of a recurrent model: architecture and labels, with types and ranges checked.

As in transformers, unknown keys become attributes. `cell_type` and `pooling` are plain names here;
the model looks them up when it is built, so that cells and poolings from elsewhere work.
"""

from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal, cast

try:
    from transformers import PreTrainedConfig
except ImportError:
    from transformers import __version__

    raise ImportError(
        f"hf_rnn needs transformers >= 5, found {__version__}: pip install -U transformers"
    ) from None
from huggingface_hub.dataclasses import strict

from .settings_rnn import MAX_PARAMETERS, RnnSettings, check_range, check_ranges, setting

_LABEL_MAPS = ("id2label", "label2id")
_NOT_STREAMING = ("bidirectional", "pooling", "crf", "word_forms", "ngram_rows", "sep_token_id")
_PER_LABEL = ("label_thresholds", "target_mean", "target_scale")  # a number per label


@strict
class RnnConfig(RnnSettings, PreTrainedConfig):
    """Configuration of [`RnnModel`] and the models on top of it.

    The defaults make a bidirectional LSTM. Labels are set with `id2label` or `label2id` (either
    gives the other) or `num_labels`.

    `hidden_size` is the units per direction, as in torch's modules; `output_size` is the width of
    the states.

    A wrong type, choice or range, and labels that repeat, leave out an id or differ between the two
    maps, raise a StrictDataclassError.

    Example:
        >>> config = RnnConfig(vocab_size=3330, id2label={0: "negative", 1: "positive"})
        >>> config.label2id
        {'negative': 0, 'positive': 1}
    """

    model_type = "hf_rnn"
    _auto_class = "AutoConfig"  # its code is saved with every checkpoint
    # outputs that the Trainer must not concatenate over batches
    keys_to_ignore_at_inference = [
        "last_hidden_state",
        "final_hidden_state",
        "final_cell_state",
        "final_conv_state",
        "final_pooling_state",
        "pooling_weights",
        "prefix_logits",
        "emissions",
        "cache",
    ]

    vocab_size: int = setting(30000, "rows of the embedding table", least=1, below=MAX_PARAMETERS)
    pad_token_id: int | None = setting(1, "id of padding; its embedding is zero and stays zero")
    # settings without a flag
    intermediate_size: int | None = setting(
        None, "residual: width of the MLP; twice the stream by default", least=1
    )
    # activation of the gate and the MLP of a residual block
    hidden_act: Literal["silu", "gelu", "relu"] = "silu"
    layer_norm_eps: float = 1e-5  # added to the variance in layer normalization
    word_hidden_size: int = setting(
        100, "units per direction of the LSTM over words", least=1, below=MAX_PARAMETERS
    )
    ngram_rows: int = setting(
        0,
        "classifiers: rows of the table of the linear part, see `NgramScores`; 0: no linear part",
        least=0,
        below=1 << 24,
    )
    # fields of transformers, which checks types only of a subclass
    if TYPE_CHECKING:
        id2label: dict[int, str] = field(default_factory=dict)
    else:
        id2label: dict[Any, str] | None = None  # ids become integers, and None becomes names
    task: str | None = None  # the value of `--task` that trained the model; None in older folders
    problem_type: (
        Literal["regression", "single_label_classification", "multi_label_classification"] | None
    ) = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None  # ends a text that `generate` makes
    # id between the two texts of a pair, which are read one by one; None for texts
    sep_token_id: int | None = None
    # multi-label: the score above which a text has a label, by id; 0.5 each if absent
    label_thresholds: list[float] | None = None
    # regression, while training: mean and deviation of the numbers; the layer before learns
    # standardised ones
    target_mean: list[float] | None = None
    target_scale: list[float] | None = None

    def __post_init__(self, **kwargs: object) -> None:
        """Derive one label map from the other."""
        if kwargs.pop("token_ngrams", 0):
            raise ValueError("token_ngrams is of an earlier version: train the model again")
        number = kwargs.get("num_labels")
        label2id = self.label2id
        maps = cast(Any, self)
        if label2id is not None and maps.id2label is None:
            maps.id2label = {index: label for label, index in label2id.items()}
        if number is not None and maps.id2label is not None and len(maps.id2label) != number:
            raise ValueError(
                f"num_labels={number} and {len(maps.id2label)} labels disagree; give one of them"
            )
        super().__post_init__(**kwargs)
        if label2id is not None:  # else the inverse of `id2label` would hide that they disagree
            maps.label2id = label2id

    def __setattr__(self, key: str, value: object) -> None:
        """Set an attribute; ids become integers, and `id2label` sets `label2id` too."""
        if key == "id2label" and isinstance(value, dict):
            value = {int(index): label for index, label in value.items()}
            super().__setattr__("label2id", {label: index for index, label in value.items()})
        elif key == "label2id" and isinstance(value, dict):
            value = {label: int(index) for label, index in value.items()}
        super().__setattr__(key, value)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a configuration as in transformers; labels as keywords replace all saved ones."""
        fields = {name: kwargs.pop(name) for name in _LABEL_MAPS if kwargs.get(name) is not None}
        # transformers leaves out its default
        saved = config_dict.get("id2label") or ("LABEL_0", "LABEL_1")
        number = kwargs.get("num_labels") or len(next(iter(fields.values()), saved))
        replaced: tuple[str, ...] = _LABEL_MAPS if fields else ()
        if number != len(saved):
            replaced = (*_LABEL_MAPS, *_PER_LABEL)
        config_dict = {key: value for key, value in config_dict.items() if key not in replaced}
        if "problem_type" in kwargs:  # before a saved one is checked against the new labels
            fields["problem_type"] = kwargs.pop("problem_type")
        return super().from_dict({**config_dict, **fields}, **kwargs)

    @property
    def num_directions(self) -> int:
        """`int`: 2 when bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def output_size(self) -> int:
        """`int`: Width of `last_hidden_state`: directions x hidden, or the residual stream."""
        if self.block_type == "residual":
            return self.stream_size
        return self.num_directions * self.hidden_size

    @property
    def stream_size(self) -> int:
        """`int`: Width of the residual stream."""
        return self.residual_size or self.hidden_size

    def validate_settings(self) -> None:
        """Check ranges and the number of parameters."""
        check_ranges(self)
        check_range("pad_token_id", self.pad_token_id, {"least": 0, "below": self.vocab_size})
        if self.streaming:
            for name in _NOT_STREAMING:
                value = getattr(self, name)
                if value if name != "pooling" else value == "attention":
                    raise ValueError(
                        f"streaming does not go with {name}={value!r}: change one of them"
                    )
        parameters = self._count_parameters()
        if parameters > MAX_PARAMETERS:
            raise ValueError(
                f"the model is too large: found about {parameters:.1e} parameters, more than "
                f"{MAX_PARAMETERS:.1e}; reduce vocab_size, embedding_size, hidden_size or "
                "num_hidden_layers"
            )

    def _count_parameters(self) -> int:
        """Return about how many parameters the model has."""
        layers = self.num_hidden_layers
        states = self.num_directions * self.hidden_size
        inputs = self.embedding_size + (layers - 1) * self.output_size
        parameters = self.vocab_size * self.embedding_size
        parameters += 4 * states * (inputs + layers * self.hidden_size)
        if self.block_type == "residual":
            inner = self.intermediate_size or 2 * states
            parameters += 2 * layers * self.stream_size * inner
        return parameters

    def validate_labels(self) -> None:
        """Check that labels are distinct, that ids run from 0, and that both maps agree."""
        count = len(self.id2label or ())
        if not count:
            raise ValueError(
                "a classifier needs at least one label: give id2label, label2id or num_labels"
            )
        ids = sorted(self.id2label)
        if ids != list(range(count)):
            raise ValueError(f"the ids in id2label must be 0 to {count - 1}; found {ids}")
        for name in _PER_LABEL:
            values = getattr(self, name)
            if values is not None and len(values) != count:
                raise ValueError(
                    f"{name} must have a number for each of {count} labels; found {len(values)}"
                )
        inverse = {label: index for index, label in self.id2label.items()}
        if self.label2id != inverse or len(inverse) != count:
            raise ValueError(
                "id2label and label2id disagree or repeat a label: found "
                f"{self.id2label} and {self.label2id}; assign config.id2label"
            )
