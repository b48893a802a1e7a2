"""Settings of a recurrent text classifier: architecture and labels.

Types and ranges are checked, and a misspelt setting is refused, so that a typo cannot become a silent default.
"""

import difflib
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, cast

try:
    from transformers import PreTrainedConfig
except ImportError:
    from transformers import __version__

    raise ImportError(f"hf_rnn needs transformers >= 5, found {__version__}: pip install -U transformers") from None
from huggingface_hub.dataclasses import strict

from .settings_rnn import MAX_PARAMETERS, RnnSettings, check_range, check_ranges, setting

# Keys that transformers writes into `config.json`, passes while loading, or had as fields of every configuration.
_KEYS_OF_TRANSFORMERS = {
    "add_cross_attention", "attn_implementation", "auto_map", "cross_attention_hidden_size", "custom_pipelines",
    "experts_implementation", "finetuning_task", "is_decoder", "loss_type", "max_length", "model_type", "name_or_path",
    "num_labels", "output_attentions", "prefix", "pruned_heads", "quantization_config", "task_specific_params",
    "tie_encoder_decoder", "tokenizer_class", "torch_dtype", "use_cache",
}  # fmt: skip
_NEAR, _TYPO = 0.7, 0.9  # likeness of a wrong name and of a misspelt one, as difflib measures it


@strict
class RnnConfig(RnnSettings, PreTrainedConfig):
    """Configuration of [`RnnModel`] and the models on top of it.

    The defaults make a bidirectional LSTM. Labels are set with `id2label` or `label2id` (either gives the other) or
    `num_labels`.

    An unknown setting raises a TypeError that names the nearest one. A wrong type, choice or range, and labels that
    repeat, leave out an id or differ between the two maps, raise a StrictDataclassError.

    Example:
        >>> config = RnnConfig(vocab_size=3330, cell_type="gru", id2label={0: "negative", 1: "positive"})
        >>> config.label2id
        {'negative': 0, 'positive': 1}
    """

    model_type = "hf_rnn"
    _auto_class = "AutoConfig"  # its code is saved with every checkpoint
    # outputs that the Trainer must not concatenate over batches
    keys_to_ignore_at_inference = [
        "last_hidden_state", "final_hidden_state", "final_cell_state", "final_conv_state", "pooling_weights",
        "emissions", "cache",
    ]  # fmt: skip

    vocab_size: int = setting(30000, "rows of the embedding table", least=1, below=MAX_PARAMETERS)
    pad_token_id: int | None = setting(1, "id of padding; its embedding is zero and stays zero")
    # fields of transformers, which checks types only of a subclass
    if TYPE_CHECKING:
        id2label: dict[int, str]
    else:
        id2label: dict[Any, str] | None = None  # ids become integers, and None becomes names
    task: str | None = None  # the value of `--task` that trained the model; None in older folders
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None  # ends a text that `generate` makes
    sep_token_id: int | None = None  # id between the two texts of a pair; None for single texts
    # multi-label: the score above which a text has a label, by id; 0.5 each if absent
    label_thresholds: list[float] | None = None
    # regression, while training: mean and deviation of the numbers; the layer before learns standardised ones
    target_mean: list[float] | None = None
    target_scale: list[float] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Refuse unknown settings, and derive one label map from the other."""
        for key in kwargs:
            self._check_key(key, _TYPO if "model_type" in kwargs else None)  # a saved one has keys of other programs
        number, label2id, maps = kwargs.get("num_labels"), self.label2id, cast(Any, self)
        if label2id is not None and maps.id2label is None:
            maps.id2label = {index: label for label, index in label2id.items()}
        if number is not None and maps.id2label is not None and len(maps.id2label) != number:
            raise ValueError(f"num_labels={number} and {len(maps.id2label)} labels disagree; give one of them")
        super().__post_init__(**kwargs)
        if label2id is not None:  # else the inverse of `id2label` would hide that they disagree
            maps.label2id = label2id

    def __setattr__(self, key: str, value: Any) -> None:
        """Set an attribute; `id2label` sets `label2id` too, and a misspelt setting raises a TypeError."""
        if key == "id2label" and isinstance(value, dict):
            value = {int(index): label for index, label in value.items()}
            super().__setattr__("label2id", {label: index for index, label in value.items()})
        elif key == "label2id" and isinstance(value, dict):
            value = {label: int(index) for label, index in value.items()}
        elif type(self) is RnnConfig:
            self._check_key(key, _TYPO)
        super().__setattr__(key, value)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a config as in transformers, but refuse keys that look like a misspelt setting.

        Other unknown keys of the dictionary are kept as attributes, other unknown keywords are ignored
        (`AutoTokenizer.from_pretrained` sends its own here). Labels given as keywords replace all saved ones.
        """
        return_unused_kwargs = kwargs.pop("return_unused_kwargs", False)
        maps = {name: kwargs.pop(name) for name in ("id2label", "label2id") if kwargs.get(name) is not None}
        if maps or kwargs.get("num_labels") not in (None, len(config_dict.get("id2label") or ())):
            config_dict = {k: v for k, v in config_dict.items() if k not in ("id2label", "label2id")} | maps
        if "problem_type" in kwargs:  # before a saved one is checked against the new labels
            config_dict = config_dict | {"problem_type": kwargs.pop("problem_type")}
        for key in config_dict:
            cls._check_key(key, _TYPO)
        own = {key: value for key, value in config_dict.items() if cls._is_known(key)}
        foreign = {key: value for key, value in config_dict.items() if key not in own}
        config, unused = super().from_dict(own, return_unused_kwargs=True, **kwargs)
        for key, value in foreign.items():
            setattr(config, key, unused.pop(key, value))
        if return_unused_kwargs:
            return config, unused
        for key in unused:
            cls._check_key(key, _NEAR)
        return config

    @classmethod
    def _is_known(cls, key: str) -> bool:
        """Return whether transformers or this class define it; special tokens (`bos_token_id`) are transformers'."""
        ours = key in _KEYS_OF_TRANSFORMERS or key in (setting.name for setting in fields(cls))
        return ours or key.startswith("_") or key.endswith(("_token", "_token_id")) or hasattr(cls, key)

    @classmethod
    def _check_key(cls, key: str, likeness: float | None = None) -> None:
        """Refuse an unknown key, or only one with at least this likeness to a setting."""
        if cls._is_known(key):
            return
        known = sorted(setting.name for setting in fields(cls))
        nearest = difflib.get_close_matches(key, [*known, "num_labels"], n=2, cutoff=likeness or _NEAR)
        if nearest:
            raise TypeError(f"RnnConfig has no setting {key!r}. Did you mean {' or '.join(map(repr, nearest))}?")
        if likeness is None:
            raise TypeError(f"RnnConfig has no setting {key!r}. Known settings: {', '.join(known)}.")

    @property
    def num_directions(self) -> int:
        """`int`: 2 when bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def siamese(self) -> bool:
        """`bool`: Whether the texts of a pair are read one by one."""
        return self.sep_token_id is not None and self.pair_encoding == "siamese"

    @property
    def output_size(self) -> int:
        """`int`: Width of `last_hidden_state`: directions x hidden, or that of the residual stream."""
        return self.stream_size if self.block_type == "residual" else self.num_directions * self.hidden_size

    @property
    def stream_size(self) -> int:
        """`int`: Width of the residual stream."""
        return self.residual_size or self.hidden_size

    def validate_settings(self) -> None:
        """Check ranges, the number of parameters, and that the cell supports recurrent dropout where it is on."""
        from .cells_rnn import CELLS

        check_ranges(self)
        check_range("pad_token_id", self.pad_token_id, {"least": 0, "below": self.vocab_size})
        inputs = self.embedding_size + (self.num_hidden_layers - 1) * self.output_size
        recurrent = inputs + self.num_hidden_layers * self.hidden_size
        states = self.num_directions * self.hidden_size
        parameters = self.vocab_size * self.embedding_size + 4 * states * recurrent
        if self.block_type == "residual":
            parameters += 2 * self.num_hidden_layers * self.stream_size * (self.intermediate_size or 2 * states)
        if parameters > MAX_PARAMETERS:
            raise ValueError(
                f"the model is too large: found about {parameters:.1e} parameters, more than {MAX_PARAMETERS:.1e}; "
                "reduce vocab_size, embedding_size, hidden_size or num_hidden_layers"
            )
        if self.pair_encoding not in ("siamese", "joint"):
            raise ValueError(f"pair_encoding must be siamese or joint; found {self.pair_encoding!r}")
        if self.recurrent_dropout > 0 and not CELLS[self.cell_type].has_recurrent_dropout:
            raise ValueError(f"{self.cell_type} has no recurrent_dropout: found {self.recurrent_dropout}; set it to 0")

    def validate_labels(self) -> None:
        """Check that labels are distinct, that ids run from 0 without a gap, and that both maps agree."""
        if not self.id2label:
            raise ValueError("a classifier needs at least one label: give id2label, label2id or num_labels")
        ids, last = sorted(self.id2label), len(self.id2label) - 1
        if ids != list(range(last + 1)):
            raise ValueError(f"the ids in id2label must be 0 to {last}; found {ids}")
        for name in ("label_thresholds", "target_mean", "target_scale"):
            if (values := getattr(self, name)) is not None and len(values) != len(ids):
                raise ValueError(f"{name} must have a number for each of {len(ids)} labels; found {len(values)}")
        inverse = {label: index for index, label in self.id2label.items()}
        if self.label2id != inverse or len(inverse) != len(ids):
            both = f"{self.id2label} and {self.label2id}"
            raise ValueError(f"id2label and label2id disagree or repeat a label: found {both}; assign config.id2label")
