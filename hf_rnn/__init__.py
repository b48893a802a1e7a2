"""Recurrent networks (RNN, GRU, LSTM, minGRU) for texts, as native Hugging Face models.

Importing the package and transformers, in either order, registers its models, so that `AutoConfig`, `AutoModel`,
`AutoModelForSequenceClassification` and `pipeline` load them. Everything else is imported on first use: a process that
only predicts loads neither Trainer nor datasets.
"""

import importlib
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "RnnConfig": "models.configuration_rnn",
    "RnnModel": "models.modeling_rnn",
    "RnnForSequenceClassification": "models.modeling_rnn",
    "RnnForCausalLM": "models.causal_lm_rnn",
    "RnnForTokenClassification": "models.token_classification_rnn",
    "train_tokenizer": "tokenizers.word_level",
    "load_tsv": "data",
    "load_conll": "data",
    "encode_tagged": "tasks.token_classification",
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
    "PRETRAINED": "hub.loading",
    "RnnClassifier": "training.sklearn",
    "RnnRegressor": "training.sklearn",
    "FastRnn": "inference",
    "SentenceEncoder": "inference.sentence_encoder",
    "pretrain": "training.pretraining",
    "PretrainingArguments": "training.arguments.pretraining_arguments",
    "Tagger": "inference",
    "BatchPredictor": "inference",
}
__all__ = ["__version__", "register", *_HOME]


def register() -> None:
    """Register the models with the Auto classes, and have their code saved with every checkpoint."""
    import transformers

    from .models.auto import HEADS, head_class
    from .models.configuration_rnn import RnnConfig

    transformers.AutoConfig.register(RnnConfig.model_type, RnnConfig, exist_ok=True)
    RnnConfig.register_for_auto_class()
    for name, (_, auto_class) in HEADS.items():
        model = head_class(name)
        getattr(transformers, auto_class).register(RnnConfig, model, exist_ok=True)
        model.register_for_auto_class(auto_class)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _RegisterWithTransformers(MetaPathFinder):
    """Call `register` as soon as transformers is imported; the models cannot be used before.

    An import here would also load torch, which takes seconds and hundreds of megabytes. `hf-rnn --help` and a service
    with `OnnxClassifier` need neither.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "transformers":
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec: Any = next(filter(None, others), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                _register_with_torch()

            spec.loader.exec_module = execute_and_register
        return spec


def _register_with_torch() -> None:
    """Register the models where torch is installed; transformers works without it too."""
    try:
        register()
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise


if sys.modules.get("transformers") is not None:
    _register_with_torch()
else:
    sys.meta_path.insert(0, _RegisterWithTransformers())
