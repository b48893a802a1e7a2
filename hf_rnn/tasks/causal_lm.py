"""The next token of continuous text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..models.settings_rnn import IGNORED_LABEL
from ..tokenizers import NO_LENGTH_LIMIT
from ..utils.errors import UserError
from . import Config, Metrics, Outputs, Splits, Task

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..data import TableArguments
    from ..data.report import DataReport
    from ..models.configuration_rnn import RnnConfig
    from ..models.settings_rnn import RnnSettings

BLOCK_SIZE = 256  # tokens
_STREAMS = 16  # parts of a text that are read side by side
_STREAM_TOKENS = 4096  # their least length


class CausalLM(Task):
    """Predict the next token of a text."""

    name = "causal-lm"
    architecture = "RnnForCausalLM"
    recipe = "lm"
    tokenizer_options = {"exact": True, "model_max_length": NO_LENGTH_LIMIT}
    generates = True

    def read(self, arguments: TableArguments, *, report: DataReport, **options: Any) -> Splits:
        """Read continuous text: `train.txt`, `dev.txt` and `test.txt`, or one text file."""
        from ..data.continuous_text import load_text

        if options.get("data") is not None or arguments.data_dir is None:
            raise UserError(
                f"{self.name} reads text files: give data_dir, "
                "a folder with train.txt, or a text file"
            )
        return load_text(
            arguments.data_dir,
            splits=options.get("splits"),
            encoding=arguments.encoding,
            report=report,
        )

    def vocabulary_texts(self, rows: datasets.Dataset) -> Iterable[str]:
        return rows["text"]

    def encode(
        self, texts: Splits, tokenizer: PreTrainedTokenizerBase, max_length: int | None
    ) -> Splits:
        """Return the tokens in blocks of `max_length`, by default 256."""
        from ..data.encode import encode_blocks

        return encode_blocks(texts, tokenizer, max_length or BLOCK_SIZE)

    def config_fields(self, texts: Splits) -> dict[str, Any]:
        """Return nothing: the tokenizer decides what is predicted."""
        return {}

    def chance_loss(self, config: RnnConfig) -> float:
        return math.log(config.vocab_size)

    def check_settings(self, model: RnnSettings, training: object) -> None:
        if model.bidirectional:
            raise UserError(
                f"{self.name} reads in one direction: set bidirectional to false, as recipe lm does"
            )
        for name in ("calibrate", "class_weight_power", "label_smoothing_factor"):
            value = getattr(training, name)
            if value:
                raise UserError(
                    f"{name} is for classifiers: found {value} with {self.name}; leave it out"
                )

    def evaluate(self, predictions: Outputs, labels: Outputs, config: Config) -> Metrics:
        """Return loss in nats per token, perplexity and bits per character.

        `predictions` is the result of [`sum_losses`].
        """
        total, tokens, characters = map(float, predictions)
        loss = total / tokens
        bits = total / math.log(2) / characters
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "bits_per_character": bits}


def sum_losses(model: PreTrainedModel, blocks: datasets.Dataset) -> np.ndarray:
    """Read a text with a language model.

    `blocks` are those of `encode_blocks`, which make one text. The model is in evaluation mode. Its
    state is carried, so almost every token has the whole text before it as context.

    Returns the sum of the losses in nats, the number of predicted tokens, and of their characters.
    """
    import torch

    ids = torch.cat([torch.as_tensor(block) for block in blocks["input_ids"]])
    tokens = len(ids) - 1
    rows = max(1, min(_STREAMS, tokens // _STREAM_TOKENS))
    length = -(-tokens // rows)
    # inputs beside labels
    inputs = ids.new_full((2, rows * length), IGNORED_LABEL)
    inputs[0] = ids[-1]
    inputs[:, :tokens] = torch.stack([ids[:-1], ids[1:]])

    total = 0.0
    cache = None
    streams = inputs.view(2, rows, length).to(model.device)
    with torch.inference_mode():
        for batch, targets in streams.split(BLOCK_SIZE, dim=2):
            output = model(
                batch,
                torch.ones_like(batch),
                shift_labels=targets,
                cache=cache,
                use_cache=True,
                num_items_in_batch=1,
            )
            total += output.loss.item()
            cache = output.cache
    return np.array([total, tokens, sum(blocks["characters"]) * tokens / (tokens + 1)])
