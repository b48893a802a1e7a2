"""Find the files of a finished folder and load its model; a damaged part is named in one message.

Training writes this folder, the Hub stores it, every command reads it. Nothing here writes files.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..utils.errors import ModelError, explain, reason_of
from ..utils.process import library_bars_off

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from ..models.configuration_rnn import RnnConfig

# They load a model where the package is not installed.
MODELLING_FILES = tuple(
    sorted(path.name for path in (Path(__file__).parents[1] / "models").glob("*_rnn.py"))
)
PRETRAINED = Path(__file__).parent / "pretrained"  # encoders of this package by name
REPO_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
TOKENIZER = "tokenizer.json or tokenizer_config.json"
MODEL_TYPE = "hf_rnn"
# read from tokenizer.json
FAST_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast", "TaggerTokenizer")
UNFINISHED = ".unfinished-"  # the prefix of the subfolder where a run writes and replaces a model


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file that must contain an object."""
    try:
        mapping = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    if not isinstance(mapping, dict):
        raise ModelError(f"{path} must contain a JSON object, found {str(mapping)!r:.40}")
    return mapping


def find_built_in(name: str | os.PathLike[str] | None) -> Path | None:
    """Return the folder of an encoder of this package; None for `./NAME`, a `Path` and others."""
    encoders = {path.name: path for path in PRETRAINED.glob("*/")}
    return encoders.get(name) if isinstance(name, str) else None


def check_name(name: str | Path, what: str) -> None:
    """Check that the name of `what` is a folder or could be a repo id, before the Hub is asked."""
    if not str(name):  # a path would mean the current folder
        raise ModelError(f"the name is empty: give the folder of {what}, or its id on the Hub")
    path = Path(name)
    if not path.is_dir() and (not REPO_ID.fullmatch(str(name)) or path.parent.is_dir()):
        raise ModelError(
            f"there is no folder {name}: give the folder of {what}, or its id on the Hub"
        )


def name_damage(name: str, file: str) -> AbstractContextManager[None]:
    """Turn any error of a library into a [`ModelError`] that names the damaged part of a model."""
    return explain(f"{name} cannot be loaded, because of {file}", ModelError)


def read_settings(name: str, folder: Path, model_type: str | None = None) -> dict[str, Any]:
    """Return the content of the `config.json` of a transformers model, of one type if given."""
    path = folder / "config.json"
    with name_damage(name, path.name):
        settings = read_mapping(path)
        stored = settings.get("model_type")
        if model_type is not None and stored != model_type:
            raise ModelError(
                f"{name} is a {stored!r:.80} model: this command runs {model_type!r} models"
            )
        return settings


def read_config(name: str, folder: Path, model_type: str | None = None) -> PreTrainedConfig:
    """Return the configuration of a transformers model, without running its code."""
    read_settings(name, folder, model_type)
    with name_damage(name, "config.json"):
        if model_type is not None:
            from ..models.configuration_rnn import RnnConfig

            return RnnConfig.from_pretrained(folder)
        from transformers import AutoConfig

        # an explicit False: otherwise transformers asks at the terminal whether to run the repo's
        # code
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def check_tokenizer(name: str, tokenizer: Any, config: PreTrainedConfig | SimpleNamespace) -> None:
    """Check that a tokenizer encodes texts, and that the model has a row for each of its ids."""
    with name_damage(name, TOKENIZER):
        empty, word = tokenizer(["", "a word"])["input_ids"]
        largest = max([*empty, *word, *tokenizer.get_vocab().values()], default=-1)
    if largest >= config.vocab_size:
        raise ModelError(
            f"{name}: tokenizer.json and model.safetensors do not belong together: the tokenizer "
            f"has ids up to {largest}, the model a table of {config.vocab_size} rows (vocab_size)"
        )


class _Entry(str):
    """The name of a file in a finished folder; as an attribute of the folder its path."""

    def __get__(self, folder: FinishedFolder, owner: type) -> Path:
        return folder.root / self


@dataclass(frozen=True)
class FinishedFolder:
    """The folder that training writes, complete or not. Its paths may not exist."""

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))

    config = _Entry("config.json")
    weights = _Entry("model.safetensors")
    # if they are in several files (`max_shard_size`)
    weights_index = _Entry("model.safetensors.index.json")
    generation_config = _Entry("generation_config.json")  # for language models
    tokenizer = _Entry("tokenizer.json")
    tokenizer_config = _Entry("tokenizer_config.json")
    card = _Entry("README.md")
    metrics = _Entry("metrics.json")  # every metric by split
    thresholds = _Entry("thresholds.json")  # by target and label: which answers need no person
    training_args = _Entry("training_args.json")  # the settings that repeat the run
    pretraining = _Entry("pretraining.json")  # figures of an encoder's texts
    learning_curve = _Entry("learning_curve.png")  # the figures need matplotlib
    confusion_matrix = _Entry("confusion_matrix.png")
    coverage = _Entry("coverage.png")
    onnx_model = _Entry("onnx/model.onnx")  # from `hf-rnn export`
    web = _Entry("web")  # from `hf-rnn export --web`; never shared
    transformers_js = _Entry("transformers_js")  # from `hf-rnn export`; never shared
    # hashes of the rows that trained the model; never shared
    training_rows = _Entry("training_rows.npy")
    checkpoints = _Entry("checkpoints")  # the Trainer's; never shared

    def named_files(self) -> list[Path]:
        """Return every path that has a name here, with the checkpoints, existing or not."""
        return [
            self.root / entry
            for entry in vars(FinishedFolder).values()
            if isinstance(entry, _Entry)
        ]

    def read_tokenizer_config(self) -> dict[str, Any]:
        """Return the settings of the tokenizer."""
        return read_mapping(self.tokenizer_config)

    def weight_files(self) -> list[Path]:
        """Return the file of the weights, or the files that the index names; refuse both."""
        if not self.weights_index.is_file():
            return [self.weights]
        if self.weights.is_file():  # `save_pretrained(max_shard_size=...)` leaves the old one there
            raise ModelError(
                f"{self.root} has weights twice, in one file and in several: remove the older ones"
            )
        index = read_mapping(self.weights_index)
        return [self.root / Path(name).name for name in sorted(set(index["weight_map"].values()))]

    def read_data_record(self) -> dict[str, Any]:
        """Return the record of the training data in `metrics.json`, empty in older folders."""
        if not self.metrics.is_file():
            return {}
        return read_mapping(self.metrics).get("data") or {}

    def read_examples(self, most: int = 6) -> list[str]:
        """Return texts of the card to try: the first of each label, then the second of each."""
        card = read_mapping(self.metrics).get("card", {}) if self.metrics.is_file() else {}
        by_label = card.get("examples") or {}
        examples: list[str] = []
        for texts in zip_longest(*by_label.values()):
            examples += [text for text in texts if text is not None]
        return examples[:most]

    def read_thresholds(self) -> bytes | None:
        """Return the content of `thresholds.json`, None without it."""
        return self.thresholds.read_bytes() if self.thresholds.is_file() else None

    def missing_to_load(self) -> list[Path]:
        """Return the missing files that the model or its tokenizer needs."""
        # some tokenizers have no tokenizer.json
        needed = [self.config, *self.weight_files(), self.tokenizer_config]
        return [path for path in needed if not path.is_file()]

    def check(self, *further: Path) -> None:
        """Check that all files of the model and its tokenizer exist, and further ones."""
        if not self.root.is_dir():
            raise ModelError(
                f"{self.root} is not a folder: give the one that `hf-rnn train --output_dir` made"
            )
        missing = [path.name for path in (*self.missing_to_load(), *further) if not path.is_file()]
        if not missing:
            return
        raise ModelError(f"{self.root} has no {', '.join(missing)}. {self._advise()}")

    def _advise(self) -> str:
        """Return what to do about missing files."""
        if any(self.checkpoints.glob("checkpoint-*")):
            return (
                "Training did not finish: repeat its command with --resume, "
                f"or take one of {self.checkpoints}"
            )
        for config in self.root.glob(f"{UNFINISHED}*/*/config.json"):
            if not FinishedFolder(config.parent).missing_to_load():
                return (
                    "A run was killed while it replaced the model: "
                    f"move {config.parent}/* to {self.root}"
                )
        nested = nested_model(self.root)
        if nested is not None:
            return f"Did you mean {nested}?"
        return "Give the folder of a trained model, or restore the missing files"

    def check_finished(self) -> None:
        """Check that training finished here and its records are valid."""
        self.check(self.card, self.metrics, self.training_args)
        for path in (self.metrics, self.training_args):
            read_mapping(path)


def nested_model(folder: Path) -> Path | None:
    """Return the first subfolder that contains a model, for a user who gave its parent, or None."""
    return min((path.parent for path in folder.glob("*/config.json")), default=None)


# ---- loading ----


def find_folder(
    name_or_path: str | Path, revision: str | None = None, token: str | None = None
) -> Path:
    """Return the folder of a model: the given one, or that of the cache after a download.

    Args:
        name_or_path: A finished folder, a checkpoint, the name of an encoder of this package
            (`english` or `multilingual`), or a repo id of the Hub. Downloads are found again
            offline.
        revision: Branch, tag or commit, for a repo id; None is `main`.
        token: For a private repo; None takes the stored one.
    """
    built_in = find_built_in(name_or_path)
    if built_in is not None:
        return built_in

    name = str(Path(os.path.expanduser(name_or_path))) if str(name_or_path) else ""
    check_name(name, "a trained model")
    if not Path(name).is_dir():
        return _download(name, revision, token)
    if revision is not None:
        raise ModelError(
            f"{name} is a folder here, which has no revision {revision!r}: leave it out"
        )
    FinishedFolder(Path(name)).check()
    return Path(name)


def _download(name: str, revision: str | None, token: str | None) -> Path:
    """Return the folder of the cache with a model of the Hub."""
    from .client import fetch

    folder = FinishedFolder(fetch(name, revision, token, only=("config.json",)))
    if folder.config.is_file():  # before a download of weights that may be large and useless
        read_config(name, folder.root, MODEL_TYPE)
    folder = FinishedFolder(fetch(name, folder.root.name, token))
    missing = folder.missing_to_load()
    if missing:
        raise ModelError(
            f"{name} on the Hub has no {missing[0].name}: it is not a model of this package"
        )
    return folder.root


def load_model(
    name_or_path: str | Path,
    revision: str | None = None,
    device: str | torch.device | None = "cpu",
    *,
    allow_encoder: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model in float32 and its tokenizer, ready to predict.

    Args:
        name_or_path: A finished folder, a checkpoint, or a repo id of the Hub; see [`find_folder`].
        revision: Branch, tag or commit, for a repo id; None is `main`.
        device: Device of the model; None is the accelerator, if there is one.
        allow_encoder: Accept an encoder, which has no task.

    Raises:
        ModelError: If it cannot be found, a part of it is missing or damaged, or the device is not
            available.
    """
    from ..models.auto import ENCODER, head_name

    name = str(name_or_path)
    folder = FinishedFolder(find_folder(name_or_path, revision))
    config, tokenizer = load_without_weights(name, folder)
    if (folder.root / "adapter_config.json").is_file():
        raise ModelError(
            f"{name} contains an adapter (adapter_config.json), and its weights alone are another "
            "model: merge it with PeftModel.merge_and_unload() and save the result, "
            "or remove the file"
        )
    with name_damage(name, "config.json"):
        head = head_name(config)
    if head == ENCODER and not allow_encoder:
        raise ModelError(
            f"{name} is an encoder without a task: "
            f"train it with hf-rnn train --model_name_or_path {name}"
        )
    model = _load_weights(name, folder, config, head)
    return _move(name, model.eval(), device), tokenizer


def _load_weights(
    name: str, folder: FinishedFolder, config: RnnConfig, head: str
) -> PreTrainedModel:
    """Return the model with its weights, which must be of its shapes and finite."""
    import torch

    from ..models.auto import head_class

    with name_damage(name, "model.safetensors"), library_bars_off():
        model, report = head_class(head).from_pretrained(
            folder.root,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # refused below
            output_loading_info=True,
        )
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    keys = set().union(*(report[kind] for kind in kinds))
    wrong = min(map(str, keys), default=None)
    if wrong is not None:
        raise ModelError(
            f"{name}: model.safetensors and config.json do not belong together: "
            f"they differ in {wrong}"
        )
    for key, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise ModelError(
                f"{name} cannot be used: {key} in model.safetensors has NaN or infinite weights"
            )
    return model


def _move(name: str, model: PreTrainedModel, device: str | torch.device | None) -> PreTrainedModel:
    """Return a model on a device."""
    import torch

    if device is None:
        device = torch.accelerator.current_accelerator() or "cpu"
    try:
        return model.to(device)
    # unknown, missing, full, or reserved
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = f"{reason_of(error):.1000}. The device cpu always exists"
        raise ModelError(f"{name} cannot be moved to the device {device}: {reason}") from error


def load_without_weights(
    name: str, folder: FinishedFolder
) -> tuple[RnnConfig, PreTrainedTokenizerBase]:
    """Load configuration and tokenizer, whose ids must all have a row in the model."""
    config = read_config(name, folder.root, MODEL_TYPE)
    with name_damage(name, TOKENIZER):
        if folder.read_tokenizer_config().get("tokenizer_class") in FAST_TOKENIZERS:
            # without the Auto classes, whose import takes long
            from transformers import PreTrainedTokenizerFast

            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder.root)
        else:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(folder.root, trust_remote_code=False)
    check_tokenizer(name, tokenizer, config)
    return config, tokenizer


def check_sorts(name: str, config: PreTrainedConfig) -> None:
    """Check that a model assigns exactly one of several labels to a text."""
    if config.num_labels < 2 or config.problem_type not in (None, "single_label_classification"):
        problem = config.problem_type or "regression"
        raise ModelError(
            f"{name} does not assign exactly one label to a text: "
            f"it is a model of {config.num_labels} outputs, {problem}"
        )


def quiet() -> None:
    """Hide the libraries' progress bars and reports; call it before they are imported."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers reads it too
    for library in ("TRANSFORMERS", "HF_HUB"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
