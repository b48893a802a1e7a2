"""Recurrent text classifiers (RNN, GRU, LSTM) as native Hugging Face models.

Importing the package makes `AutoConfig`, `AutoModel`, `AutoModelForSequenceClassification` and `pipeline` know its
models. Everything beyond the models is imported when it is first used, so that a process that only predicts loads
neither Trainer nor datasets.
"""

import importlib
import sys
from pathlib import PurePath
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "RnnConfig": "models.configuration_rnn",
    "RnnModel": "models.modeling_rnn",
    "RnnForSequenceClassification": "models.modeling_rnn",
    "train_tokenizer": "tokenizers.word_level",
    "load_tsv": "data",
    "encode": "data",
    "load_vectors": "data.vectors",
    "classification_metrics": "evaluation",
    "RnnTrainer": "training.trainer",
    "RnnTrainingArguments": "training.arguments.training_arguments",
    "ModelArguments": "training.arguments.run_arguments",
    "DataArguments": "training.arguments.text_arguments",
    "train": "training.train",
    "distill": "training.distillation",
    "DistillationArguments": "training.arguments.distillation_arguments",
    "push": "hub.push",
    "RnnClassifier": "sklearn",
    "FastRnn": "inference",
}
__all__ = ["__version__", "register", *_HOME]


def register() -> None:
    """Make the Auto classes know the models, and let the modelling files travel with every checkpoint."""
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

    from .models.configuration_rnn import RnnConfig
    from .models.modeling_rnn import RnnForSequenceClassification, RnnModel

    AutoConfig.register(RnnConfig.model_type, RnnConfig, exist_ok=True)
    AutoModel.register(RnnConfig, RnnModel, exist_ok=True)
    AutoModelForSequenceClassification.register(RnnConfig, RnnForSequenceClassification, exist_ok=True)
    RnnConfig.register_for_auto_class()
    RnnModel.register_for_auto_class("AutoModel")
    RnnForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# The console command answers `--help` without loading torch; its verbs register for themselves.
if PurePath(sys.argv[0] if sys.argv else "").name not in ("hf-rnn", "hf-rnn.exe"):
    register()
