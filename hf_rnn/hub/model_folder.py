"""The files of a finished folder by name, and the model that they make; or one message that names the damaged part.

Training writes this folder, the Hub stores it, every command reads it. Nothing here writes files.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..utils.errors import UserError, reason_of
from ..utils.process import after_import

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from ..models.configuration_rnn import RnnConfig

# They load a model where the package is not installed.
MODELLING_FILES = tuple(sorted(path.name for path in (Path(__file__).parents[1] / "models").glob("*_rnn.py")))
PRETRAINED = Path(__file__).parent / "pretrained"  # encoders of this package by name
_REPO_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
TOKENIZER = "tokenizer.json or tokenizer_config.json"
MODEL_TYPE = "hf_rnn"
FAST_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast", "TaggerTokenizer")
UNFINISHED = ".unfinished-"  # the prefix of the subfolder where a run writes and replaces a model


def read_mapping(path: Path, content: bytes) -> dict[str, Any]:
    """Return the content of a JSON file that must contain an object."""
    try:
        read = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(read, dict):
        raise UserError(f"{path} must contain a JSON object, found {str(read)!r:.40}")
    return read


def _refuse_constant(name: str) -> None:
    raise ValueError(f"found {name}. Did the training diverge? Train again with a lower learning_rate")


def find_built_in(name: str | os.PathLike[str] | None) -> Path | None:
    """Return the folder of an encoder of this package, or None; `./NAME` and a `Path` are local folders."""
    encoders = {path.name: path for path in PRETRAINED.glob("*/")}
    return encoders.get(name) if isinstance(name, str) else None


def check_name(name: str | Path, what: str) -> None:
    """Check that the name of `what` is a folder or could be a repo id, before the Hub is asked."""
    if not str(name):  # a path would mean the current folder
        raise UserError(f"the name is empty: give the folder of {what}, or its id on the Hub")
    path = Path(name)
    if not path.is_dir() and (not _REPO_ID.fullmatch(str(name)) or path.parent.is_dir()):
        raise UserError(f"there is no folder {name}: give the folder of {what}, or its id on the Hub")


@contextmanager
def name_damage(name: str, file: str) -> Iterator[None]:
    """Turn any error of a library into a `UserError` that names the damaged part of a model."""
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # damaged files make the libraries raise anything, such as a panic of Rust
        cause: BaseException | None = error
        while cause is not None and getattr(cause, "name", None) is None:
            cause = cause.__cause__ or cause.__context__
        if isinstance(cause, ModuleNotFoundError):
            package = str(cause.name).partition(".")[0]
            raise UserError(f"{name} cannot be loaded: {package} is missing. Type: pip install {package}") from error
        raise UserError(f"{name} cannot be loaded, because of {file}: {reason_of(error):.1000}") from error


def read_settings(name: str, folder: Path, model_type: str | None = None) -> dict[str, Any]:
    """Return the content of the `config.json` of a transformers model, of one type if given."""
    path = folder / "config.json"
    with name_damage(name, path.name):
        settings = read_mapping(path, path.read_bytes())
        stored = settings.get("model_type")
        if model_type is not None and stored != model_type:
            raise UserError(f"{name} is a {stored!r:.80} model: this command runs {model_type!r} models")
        return settings


def read_config(name: str, folder: Path, model_type: str | None = None) -> PreTrainedConfig:
    """Return the configuration of a transformers model, of one type if given, without running code of its repo."""
    read_settings(name, folder, model_type)
    with name_damage(name, "config.json"):
        if model_type is not None:
            from ..models.configuration_rnn import RnnConfig

            return RnnConfig.from_pretrained(folder)
        from transformers import AutoConfig

        # an explicit False: otherwise transformers asks at the terminal whether to run the repo's code
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def check_tokenizer(name: str, tokenizer: Any, config: PreTrainedConfig | SimpleNamespace) -> None:
    """Check that a tokenizer encodes texts, and that the model has a row for each of its ids."""
    with name_damage(name, TOKENIZER):
        ids = [id for text in tokenizer(["", "a word"])["input_ids"] for id in text]
        largest = max([*ids, *tokenizer.get_vocab().values()], default=-1)
    if largest >= config.vocab_size:
        raise UserError(
            f"{name}: tokenizer.json and model.safetensors do not belong together: the tokenizer has ids up to "
            f"{largest}, the model a table of {config.vocab_size} rows (vocab_size)"
        )


def check_max_length(where: str, length: object) -> None:
    """Raise a [`UserError`] for a `model_max_length` that is not a number of tokens; None means any length."""
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 1):
        raise UserError(f"{where}: model_max_length must be a whole number of tokens: found {length!r:.40}")


class _Entry:
    """A path in a finished folder, as an attribute."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: FinishedFolder, owner: type) -> Path:
        return folder.root / self.name


@dataclass(frozen=True)
class FinishedFolder:
    """The folder that training writes, complete or not. Each attribute is a path that may not exist."""

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))

    config = _Entry("config.json")
    weights = _Entry("model.safetensors")
    weights_index = _Entry("model.safetensors.index.json")  # if they are in several files (`max_shard_size`)
    generation_config = _Entry("generation_config.json")  # for language models
    tokenizer = _Entry("tokenizer.json")
    tokenizer_config = _Entry("tokenizer_config.json")
    card = _Entry("README.md")
    card_facts = _Entry("card_facts.json")
    metrics = _Entry("metrics.json")  # every metric by split
    training_args = _Entry("training_args.json")  # the settings that repeat the run
    pretraining = _Entry("pretraining.json")  # figures of an encoder's texts
    learning_curve = _Entry("learning_curve.png")  # the figures need matplotlib
    streaming = _Entry("streaming.png")
    confusion_matrix = _Entry("confusion_matrix.png")
    onnx_model = _Entry("onnx/model.onnx")  # from `hf-rnn export`
    web = _Entry("web")  # from `hf-rnn export --web`; never shared
    transformers_js = _Entry("transformers_js")  # from `hf-rnn export`; never shared
    training_rows = _Entry("training_rows.npy")  # hashes of the rows that trained the model; never shared
    checkpoints = _Entry("checkpoints")  # the Trainer's; never shared

    def named_files(self) -> list[Path]:
        """Return every path that has a name here, the folder of the checkpoints included, existing or not."""
        return [self.root / entry.name for entry in vars(FinishedFolder).values() if isinstance(entry, _Entry)]

    def read_tokenizer_config(self) -> dict[str, Any]:
        """Return the settings of the tokenizer; raise a [`UserError`] for an invalid `model_max_length`."""
        settings = read_mapping(self.tokenizer_config, self.tokenizer_config.read_bytes())
        check_max_length(str(self.tokenizer_config), settings.get("model_max_length"))
        return settings

    def weight_files(self) -> list[Path]:
        """Return the file of the weights, or the files that the index names.

        Raises:
            UserError: If there are both, as `save_pretrained(max_shard_size=...)` leaves them in a folder of a model.
        """
        if not self.weights_index.is_file():
            return [self.weights]
        with name_damage(str(self.root), self.weights_index.name):
            places = read_mapping(self.weights_index, self.weights_index.read_bytes())["weight_map"].values()
            shards = [self.root / Path(name).name for name in sorted(set(places))]
        if not self.weights.is_file():
            return shards
        if all(path.is_file() for path in shards):
            both = f"found {self.weights.name} and {self.weights_index.name}; remove the older ones"
            raise UserError(f"{self.root} has weights twice: {both}")
        return [self.weights]

    def read_data_record(self) -> dict[str, Any]:
        """Return the record of the training data in `metrics.json`, empty in older folders."""
        if not self.metrics.is_file():
            return {}
        return read_mapping(self.metrics, self.metrics.read_bytes()).get("data") or {}

    def missing_to_load(self) -> list[Path]:
        """Return the missing files that the model or its tokenizer needs."""
        needed = [self.config, *self.weight_files(), self.tokenizer_config]  # some tokenizers have no tokenizer.json
        return [path for path in needed if not path.is_file()]

    def check(self) -> None:
        """Check that all files of the model and its tokenizer exist."""
        self._require(self.missing_to_load())

    def check_finished(self) -> None:
        """Check that training finished here and its records are valid, so that the folder can be shared."""
        recorded = [self.card, self.metrics, self.training_args]
        self._require(self.missing_to_load() + [path for path in recorded if not path.is_file()])
        for path in (self.metrics, self.training_args):
            read_mapping(path, path.read_bytes())

    def _require(self, missing: list[Path]) -> None:
        if not self.root.is_dir():
            raise UserError(f"{self.root} is not a folder: give the one that `hf-rnn train --output_dir` made")
        if missing:
            names = ", ".join(path.name for path in missing) if self.config.is_file() else self.config.name
            raise UserError(f"{self.root} has no {names}. {self._advice()}")

    def _advice(self) -> str:
        for config in sorted(self.root.glob(f"{UNFINISHED}*/*/config.json")):
            if not FinishedFolder(config.parent).missing_to_load():
                return f"A run was killed while it replaced the model: move {config.parent}/* to {self.root}"
        if any(self.checkpoints.glob("checkpoint-*")):
            return f"Training did not finish: repeat its command with --resume, or use a folder of {self.checkpoints}"
        if (nested := nested_model(self.root)) is not None:
            return f"Did you mean {nested}?"
        return "Give the folder of a trained model, or restore the missing files"


def nested_model(folder: Path) -> Path | None:
    """Return the first subfolder that contains a model, for a user who gave its parent, or None."""
    return min((path.parent for path in folder.glob("*/config.json")), default=None)


# ---- loading ----


def find_folder(name_or_path: str | Path, revision: str | None = None, token: str | None = None) -> Path:
    """Return the folder of a model: the given one, or that of the cache after a download.

    Args:
        name_or_path: A finished folder, a checkpoint, the name of an encoder of this package (`english` or
            `multilingual`), or a repo id of the Hub. Downloads are found again offline.
        revision: Branch, tag or commit, for a repo id; None is `main`.
        token: For a private repo; None takes the stored one.
    """
    if (built_in := find_built_in(name_or_path)) is not None:
        return built_in
    name_or_path = os.path.expanduser(name_or_path)
    check_name(name_or_path, "a trained model")
    path, name = Path(name_or_path), str(name_or_path)
    if path.is_dir():
        if revision is not None:
            raise UserError(f"{name} is a folder here, which has no revision {revision!r}: leave it out")
        FinishedFolder(path).check()
        return path
    from .client import fetch

    folder = FinishedFolder(fetch(name, revision, token, only=("config.json",)))
    if folder.config.is_file():  # before a download of weights that may be large and useless
        read_config(name, folder.root, MODEL_TYPE)
    folder = FinishedFolder(fetch(name, folder.root.name, token))
    if missing := folder.missing_to_load():
        raise UserError(f"{name} on the Hub has no {missing[0].name}: it is not a model of this package")
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
        UserError: If it cannot be found, a part of it is missing or damaged, or the device is not available.
    """
    import torch

    from ..models.auto import ENCODER, head_name, model_class

    name, target = str(name_or_path), _find_device(device)
    folder = FinishedFolder(find_folder(name_or_path, revision))
    config = read_config(name, folder.root, MODEL_TYPE)
    if (folder.root / "adapter_config.json").is_file():
        raise UserError(
            f"{name} contains an adapter (adapter_config.json), and its weights alone are another model: merge it "
            "with PeftModel.merge_and_unload() and save the result, or remove the file"
        )
    with name_damage(name, "config.json"):
        head = model_class(config)
    if head_name(config) == ENCODER and not allow_encoder:
        raise UserError(f"{name} is an encoder without a task: train it with hf-rnn train --model_name_or_path {name}")
    with name_damage(name, "model.safetensors"):
        folder.weight_files()
        how: dict[str, Any] = {"ignore_mismatched_sizes": True, "output_loading_info": True}  # they are refused below
        model, report = head.from_pretrained(folder.root, config=config, dtype=torch.float32, **how)
    if wrong := sorted(str(key) for kind in ("missing", "unexpected", "mismatched") for key in report[f"{kind}_keys"]):
        raise UserError(f"{name}: model.safetensors and config.json do not belong together: they differ in {wrong[0]}")
    if damaged := [key for key, weight in model.named_parameters() if not weight.isfinite().all()]:
        raise UserError(f"{name} cannot be used: {damaged[0]} in model.safetensors has NaN or infinite weights")
    with name_damage(name, TOKENIZER):
        tokenizer = _load_tokenizer(name, folder, config)
        rows = [{"input_ids": ids} for ids in tokenizer(["", "a word"], truncation=True)["input_ids"]]
        tokenizer.pad(rows)["attention_mask"]
    try:
        return model.eval().to(target), tokenizer
    except (RuntimeError, AssertionError, ImportError) as error:  # missing, full, or reserved by another program
        reason = f"{reason_of(error):.1000}. The device cpu always exists"
        raise UserError(f"{name} cannot be moved to {target}: {reason}") from error


def load_without_weights(name: str, folder: FinishedFolder) -> tuple[RnnConfig, PreTrainedTokenizerBase]:
    """Load configuration and tokenizer, for a program that runs the model from another file."""
    config = read_config(name, folder.root, MODEL_TYPE)
    with name_damage(name, TOKENIZER):
        return config, _load_tokenizer(name, folder, config)


def check_sorts(name: str, config: PreTrainedConfig) -> None:
    """Check that a model assigns exactly one of several labels to a text."""
    if config.num_labels < 2 or config.problem_type not in (None, "single_label_classification"):
        kind = config.problem_type or "regression"
        kind = f"it is a model of {config.num_labels} outputs, {kind}"
        raise UserError(f"{name} does not assign exactly one label to a text: {kind}")


def _find_device(device: str | torch.device | None) -> torch.device:
    import torch

    if device is None:
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"device must be cpu, cuda, cuda:1, mps or another of torch's, found {device!r}") from error


def _load_tokenizer(name: str, folder: FinishedFolder, config: RnnConfig) -> PreTrainedTokenizerBase:
    """Load the tokenizer, and check that the model has a row for each of its ids."""
    kind = folder.read_tokenizer_config().get("tokenizer_class")
    if kind in FAST_TOKENIZERS:  # without the Auto classes, whose import takes long
        from transformers import PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder.root)
    else:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder.root, trust_remote_code=False)
    check_tokenizer(name, tokenizer, config)
    return tokenizer


def quiet() -> None:
    """Hide the libraries' progress bars and reports, from when they are imported; errors are raised, not logged."""

    def quiet_transformers(logging: ModuleType) -> None:
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def quiet_hub(utils: ModuleType) -> None:
        utils.logging.set_verbosity_error()
        utils.disable_progress_bars()

    after_import("transformers.utils.logging", quiet_transformers)
    after_import("huggingface_hub.utils", quiet_hub)
