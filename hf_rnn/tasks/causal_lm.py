"""The next token of continuous text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..utils.errors import UserError
from .base import Splits, Task

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from ..data.row_errors import DataReport


BLOCK_SIZE = 256  # tokens


class CausalLM(Task):
    """Predict the next token of a text."""

    name = "causal-lm"
    architecture = "RnnForCausalLM"
    recipe = "lm"
    tokenizer_options = {"exact": True, "model_max_length": 10**30}
    verb = "generate"

    def read(self, arguments: Any, *, report: DataReport, data: Any = None, **options: Any) -> Splits:
        """Read continuous text: `train.txt`, `dev.txt` and `test.txt`, or one text file."""
        from ..data.loading import load_text

        if data is not None or arguments.data_dir is None:
            raise UserError(f"{self.name} reads text files: give data_dir, a folder with train.txt, or a text file")
        return load_text(arguments.data_dir, splits=options.get("splits"), report=report)

    def vocabulary_texts(self, rows: Any) -> Iterable[str]:
        """Return the lines."""
        return rows["text"]

    def encode(self, texts: Splits, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Splits:
        """Return the tokens in blocks of `max_length`, by default 256."""
        from ..data.encoding import encode_blocks

        return encode_blocks(texts, tokenizer, max_length or BLOCK_SIZE)

    def audit_view(self, texts: datasets.DatasetDict) -> None:
        """Return None: lines of a text repeat."""

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
        for name in ("calibrate", "class_weight_power", "label_smoothing_factor"):
            if found := getattr(training, name):
                raise UserError(f"{name} is for classifiers: found {found} with {self.name}; leave it out")

    def evaluate(self, predictions: Any, labels: Any, config: PreTrainedConfig) -> dict[str, Any]:
        """Return loss, perplexity and bits per character, from the result of `sum_losses`."""
        from ..evaluation.language_model import text_metrics

        return text_metrics(predictions)
