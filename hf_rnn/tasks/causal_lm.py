"""The next token of continuous text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import datasets
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data import DataReport
from ..data.continuous_text import encode_text, evaluation_streams, load_text
from ..evaluation.language_model import sum_losses, text_metrics
from ..utils.errors import UserError
from .base import Splits, Task


class CausalLM(Task):
    """Predict the next token of a text."""

    name = "causal-lm"
    architecture = "RnnForCausalLM"
    pipeline = "text-generation"
    output_layer = "lm_head."
    recipe = "lm"
    trainer = "language_model.LanguageModelTrainer"
    tokenizer_options = {"exact": True, "model_max_length": 10**30}
    verb = "generate"
    audits = False

    def read(self, arguments: Any, *, report: DataReport, data: Any = None, **options: Any) -> Splits:
        """Read continuous text: `train.txt`, `dev.txt` and `test.txt`, or one text file."""
        if data is not None or arguments.data_dir is None:
            raise UserError(f"{self.name} reads text files: give data_dir, a folder with train.txt, or a text file")
        if options.get("streaming"):
            raise UserError(f"{self.name} reads the whole text at once: leave out streaming")
        kept = {name: options[name] for name in ("splits", "rejected_path") if name in options}
        return load_text(arguments.data_dir, max_bad_rows=arguments.max_bad_rows, report=report, **kept)

    def vocabulary_texts(self, rows: Any) -> Iterable[str]:
        """Return the lines."""
        return rows["text"]

    def encode(self, texts: Splits, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Splits:
        """Return the token ids of each line, whole."""
        assert isinstance(texts, datasets.DatasetDict)
        return encode_text(texts, tokenizer)

    def config_fields(self, texts: Splits) -> dict[str, Any]:
        """Return nothing: the tokenizer decides what is predicted."""
        return {}

    def chance_loss(self, config: PreTrainedConfig) -> float:
        """Return ln(vocabulary)."""
        return math.log(config.vocab_size)

    def check_settings(self, model: Any, training: Any) -> None:
        """Refuse settings of classifiers."""
        if model.bidirectional:
            raise UserError(f"{self.name} reads in one direction: set bidirectional to false, as recipe lm does")
        for name in ("calibrate", "class_weight_power", "label_smoothing_factor", "tokens_per_batch"):
            if found := getattr(training, name):
                raise UserError(f"{name} is for classifiers: found {found} with {self.name}; leave it out")

    def predict(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Any) -> Any:
        """Return the sum of the losses, the tokens and the characters of a split."""
        return sum_losses(model, evaluation_streams(rows, model.config.pad_token_id))

    def evaluate(self, predictions: Any, labels: Any, config: PreTrainedConfig) -> dict[str, Any]:
        """Return loss, perplexity and bits per character."""
        return text_metrics(predictions)
