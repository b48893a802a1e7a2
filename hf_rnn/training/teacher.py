"""Shared by `distill` and `pretrain`: the teacher, and texts without labels."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from ..data.columns import read_column
from ..data.errors import BadRow
from ..hub.client import fetch
from ..hub.model_folder import check_name, name_damage, read_config
from ..settings.training_arguments import RnnTrainingArguments
from ..tokenizers import NO_LENGTH_LIMIT
from ..utils.errors import DataError, ModelError
from ..utils.hashing import digest

logger = logging.getLogger(__name__)

_NO_TABLE = 2  # models without a table of positions report at most this number


@dataclass(frozen=True)
class Teacher:
    """A model of transformers whose weights stay on disk until needed; its code is never run."""

    title: str  # for messages
    name: str  # folder name or repo id
    folder: Path
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    max_length: int | None  # tokens per text, including special ones; None means unlimited
    training: RnnTrainingArguments  # decides device, precision and processes
    auto_class: ClassVar[Any]  # loads the model

    @classmethod
    def open(
        cls, name_or_path: str, max_length: int | None, training: RnnTrainingArguments
    ) -> Self:
        """Find a teacher, a folder or a repo id of the Hub, and read everything except its weights.

        Texts are truncated to `max_length` tokens, or to the teacher's own limit if that is
        smaller. Raises a [`UserError`] if it does not exist, cannot be read, or has another model's
        tokenizer.
        """
        check_name(name_or_path, "a teacher")
        title = f"the teacher {name_or_path}"
        is_local = Path(name_or_path).is_dir()
        folder = Path(name_or_path) if is_local else fetch(name_or_path)
        config = read_config(title, folder)
        with name_damage(title, "its tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        # made up if its files are missing
        if not tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens):
            raise ModelError(
                f"{title} has a tokenizer without words: add its files, such as tokenizer.json"
            )
        limits = [tokenizer.model_max_length, max_length]
        positions = getattr(config, "max_position_embeddings", None)
        if isinstance(positions, int) and positions > _NO_TABLE:
            # models like RoBERTa count from their padding on
            limits.append(positions - 2 if config.pad_token_id == 1 else positions)
        limit = min(
            (size for size in limits if size is not None and size < NO_LENGTH_LIMIT), default=None
        )
        name = folder.resolve().name if is_local else name_or_path
        return cls(title, name, folder, config, tokenizer, limit, training)

    @cached_property
    def hash(self) -> str:
        """A hash of all that decides its answers: weights, configuration, tokenizer, settings."""
        parts: list[Any] = [repr((self.max_length, self.training.bf16))]
        for path in sorted(self.folder.glob("*.*")):
            if path.suffix not in (".safetensors", ".json", ".txt", ".model"):
                continue
            with path.open("rb") as file:
                parts.append(hashlib.file_digest(file, "sha256").digest())
        return digest(*parts)

    @cached_property
    def model(self) -> Any:
        """The model, ready to predict; a [`UserError`] if weights are damaged or missing."""
        with name_damage(self.title, "its weights"):
            model, report = self.auto_class.from_pretrained(
                self.folder,
                config=self.config,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        # no state depends on it
        missing = [name for name in report["missing_keys"] if not name.startswith("pooler.")]
        if missing:
            raise ModelError(f"{self.title} has no weights for {', '.join(sorted(missing)[:3])}")
        return model.to(self.training.device).eval()


def read_unlabeled(
    paths: Iterable[str | Path],
    column: str | None = None,
    *,
    fault: Callable[[str], str | None],
    cut: Callable[[str], Iterable[str]] = lambda text: [text],
    most: int | None = None,
    encoding: str | None = None,
) -> tuple[list[str], dict[str, int]]:
    """Return each distinct text of files, one a line or from a column, and log the omitted ones.

    `cut` splits a row into texts. `fault` returns why a text is left out, or None. Reading stops at
    `most` texts. The counts have `kept`, `repeated` and `refused` texts, those of each fault, and
    their sum `lines`. Raises a [`UserError`] for a file that cannot be read, and without any text.
    """
    texts: dict[str, None] = {}
    uses: Counter[str] = Counter()
    read = partial(read_column, column=column, encoding=encoding)
    for row in chain.from_iterable(map(read, paths)):
        if isinstance(row, BadRow):
            if not uses["refused"]:
                logger.warning("rejected: %s", row.describe())
            uses["refused"] += 1
            continue
        for text in cut(row):
            use = fault(text) or ("repeated" if text in texts else "kept")
            uses[use] += 1
            if use == "kept":
                texts[text] = None
        if most is not None and len(texts) >= most:
            break

    counts = {"lines": uses.total(), **uses}
    summary = describe_counts(counts)
    if not texts:
        raise DataError(f"{', '.join(map(str, paths))}: no text to learn from: found {summary}")
    logger.info("texts without labels: %s", summary)
    return list(texts), counts


def describe_counts(counts: Mapping[str, int]) -> str:
    """Return numbers of texts by their use, in words."""
    return ", ".join(f"{count:,} {use.replace('_', ' ')}" for use, count in counts.items())
