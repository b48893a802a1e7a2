"""Recurrent networks (RNN, GRU, LSTM, minGRU) for texts, as native Hugging Face models.

After an import of the package `AutoConfig`, `AutoModel`, `AutoModelForSequenceClassification` and
`pipeline` load its models, whichever of the two packages is imported first. Everything else is
imported on first use: a process that only predicts loads neither Trainer nor datasets, and `hf-rnn
--help` neither torch nor transformers.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .utils.process import after_import

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .data.conll import load_conll as load_conll
    from .data.encode import encode as encode
    from .data.load import load_tsv as load_tsv
    from .data.vectors import load_vectors as load_vectors
    from .desk.labeller import Labeller as Labeller
    from .evaluation import classification_metrics as classification_metrics
    from .hub.model_folder import PRETRAINED as PRETRAINED
    from .hub.push import push as push
    from .inference.batches import BatchPredictor as BatchPredictor
    from .inference.evaluate import evaluate as evaluate
    from .inference.predict import FastRnn as FastRnn
    from .inference.predict import SentenceEncoder as SentenceEncoder
    from .inference.predict import Tagger as Tagger
    from .models.causal_lm_rnn import RnnForCausalLM as RnnForCausalLM
    from .models.configuration_rnn import RnnConfig as RnnConfig
    from .models.modeling_rnn import RnnForSequenceClassification as RnnForSequenceClassification
    from .models.modeling_rnn import RnnModel as RnnModel
    from .models.token_classification_rnn import (
        RnnForTokenClassification as RnnForTokenClassification,
    )
    from .settings.training_arguments import RnnTrainingArguments as RnnTrainingArguments
    from .tasks.token_classification import encode_tagged as encode_tagged
    from .tokenizers.word_level import train_tokenizer as train_tokenizer
    from .training.distill import distill as distill
    from .training.pretrain import pretrain as pretrain
    from .training.sklearn import RnnClassifier as RnnClassifier
    from .training.sklearn import RnnRegressor as RnnRegressor
    from .training.train import train as train
    from .training.trainer import RnnTrainer as RnnTrainer
else:
    _HOME = {  # the same names, imported on first use
        "RnnConfig": "models.configuration_rnn",
        "RnnModel": "models.modeling_rnn",
        "RnnForSequenceClassification": "models.modeling_rnn",
        "RnnForCausalLM": "models.causal_lm_rnn",
        "RnnForTokenClassification": "models.token_classification_rnn",
        "train_tokenizer": "tokenizers.word_level",
        "load_tsv": "data.load",
        "load_conll": "data.conll",
        "encode_tagged": "tasks.token_classification",
        "encode": "data.encode",
        "load_vectors": "data.vectors",
        "classification_metrics": "evaluation",
        "RnnTrainer": "training.trainer",
        "RnnTrainingArguments": "settings.training_arguments",
        "train": "training.train",
        "distill": "training.distill",
        "push": "hub.push",
        "PRETRAINED": "hub.model_folder",
        "RnnClassifier": "training.sklearn",
        "RnnRegressor": "training.sklearn",
        "evaluate": "inference.evaluate",
        "FastRnn": "inference.predict",
        "SentenceEncoder": "inference.predict",
        "pretrain": "training.pretrain",
        "Tagger": "inference.predict",
        "BatchPredictor": "inference.batches",
        "Labeller": "desk.labeller",
    }
    __all__ = ["__version__", *_HOME]

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


def _register_config(auto: ModuleType) -> None:
    """Let `AutoConfig` know the configuration."""
    from .models.configuration_rnn import RnnConfig

    auto.AutoConfig.register(RnnConfig.model_type, RnnConfig, exist_ok=True)


def _register_heads(_: ModuleType) -> None:
    """Let the other Auto classes know the heads.

    One that is still being imported calls this again at its end.
    """
    from .models.auto import HEADS, register_heads

    modules = ((sys.modules.get(str(module)), name) for name, (module, _) in HEADS.items())
    if all(module is None or hasattr(module, name) for module, name in modules):
        register_heads()


def _register_tokenizer(auto: ModuleType) -> None:
    """Let `AutoTokenizer` know the tokenizer of taggers."""
    from .models.configuration_rnn import RnnConfig

    fast = import_module(".tokenizers.word_level", __name__).TaggerTokenizer
    auto.AutoTokenizer.register(RnnConfig, fast_tokenizer_class=fast, exist_ok=True)


after_import("transformers.models.auto.configuration_auto", _register_config)
after_import("transformers.models.auto.tokenization_auto", _register_tokenizer)
after_import("transformers.models.auto.modeling_auto", _register_heads)
# they import the Auto classes
for _name in ("modeling_rnn", "token_classification_rnn", "causal_lm_rnn"):
    after_import(f"{__name__}.models.{_name}", _register_heads)
