"""What a finished folder holds, by name: the one place that spells its files.

Training leaves this folder, the Hub gets it, every command reads it. Paths, whether they exist, and what the records
of the training say; nothing here reads weights or writes files.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.errors import UserError, reason_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# The files that load a model where the package is not installed; others of that kind in a folder are somebody's own.
MODELLING_FILES = tuple(sorted(path.name for path in (Path(__file__).parents[1] / "models").glob("*_rnn.py")))

_MAX_LABELS = 100_000  # transformers needs 600 bytes per label that has no name
UNFINISHED = ".unfinished-"  # the prefix of the subfolder in which a run writes and replaces a model


def read_mapping(path: Path, content: bytes) -> dict[str, Any]:
    """Return what a JSON file of a finished folder says by name.

    Args:
        path: Of the file, for messages.
        content: What stands in it.

    Raises:
        UserError: When that is something else.
    """
    try:
        read = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(read, dict):
        raise UserError(f"{path} must hold values by name, found {str(read)!r:.40}")
    return read


def read_config(name: str, folder: Path, model_type: str | None = None) -> PreTrainedConfig:
    """Return the configuration of any transformers model, without running code of its repo.

    The JSON is checked first, because transformers builds a name for every label before it can be asked anything.

    Args:
        name: The model's name in messages.
        folder: Contains `config.json`.
        model_type: The only accepted type; None accepts all.

    Raises:
        UserError: If the file is damaged, has another `model_type`, or too many labels.
    """
    path = folder / "config.json"
    try:
        told = read_mapping(path, path.read_bytes())
        if model_type is not None and (found := told.get("model_type")) != model_type:
            raise UserError(f"{name} is a {found!r:.80} model: this command runs {model_type!r} models")
        labels = told.get("num_labels")
        if isinstance(labels, int) and labels > _MAX_LABELS:
            raise UserError(f"{name}: num_labels in config.json must be at most {_MAX_LABELS:,}, found {labels}")
        from transformers import AutoConfig

        # an explicit False: otherwise transformers asks at the terminal whether to run the repo's code
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except UserError:
        raise
    except Exception as error:  # damaged files make the libraries raise anything, including `Exception` itself
        raise UserError(f"{name} cannot be loaded, because of config.json: {reason_of(error):.1000}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}. Did the training diverge? Train again with a lower learning_rate")


@dataclass(frozen=True)
class FinishedFolder:
    """A folder that training leaves, complete or not.

    Attributes:
        root: The folder.
    """

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))

    @property
    def config(self) -> Path:
        """Architecture and labels."""
        return self.root / "config.json"

    @property
    def weights(self) -> Path:
        """The weights of the best epoch."""
        return self.root / "model.safetensors"

    @property
    def tokenizer(self) -> Path:
        """Vocabulary, normaliser and splitting rules."""
        return self.root / "tokenizer.json"

    @property
    def tokenizer_config(self) -> Path:
        """The tokenizer's class, special tokens and greatest length."""
        return self.root / "tokenizer_config.json"

    @property
    def card(self) -> Path:
        """The model card."""
        return self.root / "README.md"

    @property
    def card_facts(self) -> Path:
        """What the card is made of, for programs."""
        return self.root / "card_facts.json"

    @property
    def metrics(self) -> Path:
        """Every metric by split."""
        return self.root / "metrics.json"

    @property
    def training_args(self) -> Path:
        """The settings that repeat the run."""
        return self.root / "training_args.json"

    @property
    def learning_curve(self) -> Path:
        """Figure: loss and metrics over epochs. Drawn where matplotlib is installed."""
        return self.root / "learning_curve.png"

    @property
    def confusion_matrix(self) -> Path:
        """Figure: true against predicted classes. Drawn where matplotlib is installed."""
        return self.root / "confusion_matrix.png"

    @property
    def reliability(self) -> Path:
        """Figure: accuracy by confidence. Drawn where matplotlib is installed and the scores were calibrated."""
        return self.root / "reliability.png"

    @property
    def onnx_model(self) -> Path:
        """The model for ONNX Runtime. Made by `hf-rnn export`."""
        return self.root / "onnx" / "model.onnx"

    @property
    def onnx_model_int8(self) -> Path:
        """The same with its weights in 8 bits."""
        return self.root / "onnx" / "model_int8.onnx"

    @property
    def checkpoints(self) -> Path:
        """The Trainer's checkpoints: never shared, may be deleted once training is done."""
        return self.root / "checkpoints"

    def named_files(self) -> list[Path]:
        """Return all that stands here by name, there or not: the files, and the folder of the checkpoints."""
        return [getattr(self, name) for name, kind in vars(FinishedFolder).items() if isinstance(kind, property)]

    def missing_to_load(self) -> list[Path]:
        """Return the files that the model or its tokenizer cannot be loaded without and that are not there."""
        needed = [self.config, self.weights, self.tokenizer_config]
        if self._tokenizer_is_one_file():
            needed.insert(2, self.tokenizer)
        return [path for path in needed if not path.is_file()]

    def missing(self) -> list[Path]:
        """Return the files that training writes last, or that loading needs, and that are not there.

        Figures are not among them (they need matplotlib), nor are the modelling files (only models that load without
        the package need them).
        """
        recorded = [self.card, self.metrics, self.training_args]
        return self.missing_to_load() + [path for path in recorded if not path.is_file()]

    def _tokenizer_is_one_file(self) -> bool:
        """Whether the tokenizer keeps its vocabulary in `tokenizer.json`; ByT5's, for one, has none."""
        try:
            backend = json.loads(self.tokenizer_config.read_text(encoding="utf-8")).get("backend", "tokenizers")
        except (OSError, ValueError, AttributeError, RecursionError):
            return True
        return backend == "tokenizers"

    def check(self) -> None:
        """Make sure that the model and its tokenizer can be loaded, as far as files can tell.

        Raises:
            UserError: When the folder or one of these files is not there; says what is missing and what to type.
        """
        self._refuse(self.missing_to_load())

    def check_finished(self) -> None:
        """Make sure that training came to its end here, so that the folder can be shared.

        Raises:
            UserError: As [`check`], and for a record of the training that is not there, or is no record.
        """
        self._refuse(self.missing())
        for path in (self.metrics, self.training_args, self.card_facts):
            if path.is_file():
                read_mapping(path, path.read_bytes())

    def _refuse(self, missing: list[Path]) -> None:
        if not self.root.is_dir():
            what = "is a file" if self.root.exists() else "does not exist"
            raise UserError(f"{self.root} {what}: give the folder that `hf-rnn train --output_dir {self.root}` makes")
        if missing:
            names = ", ".join(path.name for path in missing)
            raise UserError(f"{self.root} has no {names}. {self._advice()}")

    def _advice(self) -> str:
        if self.weights.with_name(f"{self.weights.name}.index.json").is_file():
            return "Its weights are cut into several files: load it with transformers, and save it in one piece"
        for config in sorted(self.root.glob(f"{UNFINISHED}*/*/config.json")):
            if not FinishedFolder(config.parent).missing():
                return (
                    f"A run was killed while it replaced the model: move the files of {config.parent} to {self.root}"
                )
        checkpoints = sorted(self.checkpoints.glob("checkpoint-*"), key=_step)
        if checkpoints:
            whole = [path for path in checkpoints if not FinishedFolder(path).missing_to_load()]
            other = f", or take the model as it was at {whole[-1]}" if whole else ""
            return f"Training did not come to its end: repeat its command with --resume to go on{other}"
        if self.root.name == self.checkpoints.name and FinishedFolder(self.root.parent).config.is_file():
            return f"Did you mean {self.root.parent}?"
        nested = nested_model(self.root)
        if nested is not None:
            return f"Did you mean {nested}?"
        return "If it was made by hf-rnn, restore what is missing; to make a new one, train into another folder"


def nested_model(folder: Path) -> Path | None:
    """Return the first of the folders just below that hold a model, for whoever gave the one above; None without."""
    return min((path.parent for path in folder.glob("*/config.json")), default=None)


def because_of_damage(folder: Path) -> str:
    """Return, for a message, which JSON file of a folder is none: libraries tell its line only; else nothing."""
    for path in sorted(folder.glob("*.json")):
        try:
            json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            return f", because of {path.name}"
    return ""


def _step(checkpoint: Path) -> int:
    digits = re.search(r"\d+$", checkpoint.name)
    return int(digits.group()) if digits else -1
