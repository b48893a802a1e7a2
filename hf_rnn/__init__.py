"""Recurrent networks (RNN, GRU, LSTM, minGRU) for texts, as native Hugging Face models.

After an import of the package `AutoConfig`, `AutoModel`, `AutoModelForSequenceClassification` and `pipeline` load its
models, whichever of the two packages is imported first. Everything else is imported on first use: a process that only
predicts loads neither Trainer nor datasets, and `hf-rnn --help` neither torch nor transformers.
"""

from importlib import import_module
from types import ModuleType
from typing import Any

import wrapt

__version__ = "0.1.0"

_HOME = {
    "RnnConfig": "models.configuration_rnn",
    "RnnModel": "models.modeling_rnn",
    "RnnForSequenceClassification": "models.modeling_rnn",
    "RnnForCausalLM": "models.causal_lm_rnn",
    "RnnForTokenClassification": "models.token_classification_rnn",
    "train_tokenizer": "tokenizers.word_level",
    "load_tsv": "data.loading",
    "load_conll": "data.conll",
    "encode_tagged": "tasks.token_classification",
    "encode": "data.encoding",
    "load_vectors": "data.vectors",
    "classification_metrics": "evaluation",
    "RnnTrainer": "training.trainer",
    "RnnTrainingArguments": "training.training_arguments",
    "train": "training.train",
    "distill": "training.distillation",
    "push": "hub.push",
    "PRETRAINED": "hub.model_folder",
    "RnnClassifier": "training.sklearn",
    "RnnRegressor": "training.sklearn",
    "FastRnn": "inference.predictor",
    "SentenceEncoder": "inference.sentence_encoder",
    "pretrain": "training.pretrain",
    "Tagger": "inference.predictor",
    "BatchPredictor": "inference.batch_predictor",
    "OnnxClassifier": "inference.onnx.runtime",
    "OnnxModel": "inference.onnx.runtime",
}
__all__ = ["__version__", *_HOME]


def _register_config(auto: ModuleType) -> None:
    """Let `AutoConfig` know the configuration."""
    from .models.configuration_rnn import RnnConfig

    auto.AutoConfig.register(RnnConfig.model_type, RnnConfig, exist_ok=True)


def _register_models(auto: ModuleType) -> None:
    """Let the other Auto classes know the models."""
    from .models.auto import HEADS, head_class
    from .models.configuration_rnn import RnnConfig

    for name, (_, auto_class) in HEADS.items():
        getattr(auto, auto_class).register(RnnConfig, head_class(name), exist_ok=True)


# They run when transformers imports its Auto classes, or now.
wrapt.register_post_import_hook(_register_config, "transformers.models.auto.configuration_auto")
wrapt.register_post_import_hook(_register_models, "transformers.models.auto.modeling_auto")


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
