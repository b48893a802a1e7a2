"""Pretrained vectors as part of a training run."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.vectors import Vectors, load_vectors, widen_vocabulary
from ..utils.errors import UserError
from .arguments.run_arguments import Arguments, ModelArguments

logger = logging.getLogger(__name__)


def prepare_vectors(
    arguments: Arguments, tokenizer: PreTrainedTokenizerBase, texts: Iterable[str] | None
) -> tuple[Arguments, PreTrainedTokenizerBase, Vectors | None]:
    """Load the vectors that the settings name and log their coverage of the vocabulary.

    Args:
        arguments: Settings of the run.
        tokenizer: Tokenizer of the training texts.
        texts: The training texts, to count how many of their tokens are covered; None skips the count.

    Returns:
        The arguments with the vectors' `embedding_size`, the tokenizer, widened if the settings say so, and the
        vectors. Without vectors in the settings: the given arguments and tokenizer, and None.

    Raises:
        UserError: For vectors that cannot be used, or an `embedding_size` that is not theirs.
    """
    source = arguments.data.vectors
    if source is None:
        return arguments, tokenizer, None
    if arguments.data.widen_vocabulary is not None:
        tokenizer = widen_vocabulary(tokenizer, source, arguments.data.widen_vocabulary)
    vectors = load_vectors(source, tokenizer, texts=texts, seed=arguments.training.seed)
    logger.info("vectors of %s: %s", vectors.name, vectors.coverage)
    size, asked = vectors.matrix.shape[1], arguments.model.embedding_size
    if asked not in (size, ModelArguments().embedding_size):
        raise UserError(
            f"embedding_size is {asked}, and the vectors of {source} have {size} numbers: leave embedding_size out"
        )
    if size != asked:
        logger.info("embedding_size is %d, that of the vectors", size)
    model_args = dataclasses.replace(arguments.model, **{"embedding_size": size})
    return arguments._replace(model=model_args), tokenizer, vectors


@torch.no_grad()
def put_vectors(model: PreTrainedModel, vectors: Vectors) -> None:
    """Copy the vectors into the embedding of a model with the same ids and embedding size."""
    model.get_input_embeddings().weight.copy_(vectors.matrix)
