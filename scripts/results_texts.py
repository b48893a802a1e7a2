"""What the models of reproduce_results.py learn from, what they leave, and how it is scored."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Texts:
    """A data set.

    Attributes:
        folder: With `train.tsv` and `dev.tsv`.
        normalizer: That of the recurrent models; the linear ones and fastText read what it makes of the texts.
        max_bad_rows: Rows that may be refused: a count, or a share such as "0.1%".
    """

    folder: Path
    normalizer: str
    max_bad_rows: str = "0"

    def __post_init__(self) -> None:
        """Read it."""
        from hf_rnn import load_tsv, train_tokenizer

        splits = load_tsv(self.folder, max_bad_rows=self.max_bad_rows)
        self.names: list[str] = splits["train"].features["label"].names
        self.texts, self.labels = list(splits["train"]["text"]), list(splits["train"]["label"])
        self.dev_texts, self.dev_labels = list(splits["validation"]["text"]), list(splits["validation"]["label"])
        tokenizer = train_tokenizer(self.texts, normalizer=self.normalizer)
        self.normalize: Callable[[str], str] = tokenizer.backend_tokenizer.normalizer.normalize_str

    def title(self) -> str:
        """The name of the folder and how many rows it has."""
        rows = f"{len(self.texts):,} rows to train on, {len(self.dev_texts):,} to choose and score on"
        return f"{self.folder.resolve().name}: {rows}"


@dataclass
class Learned:
    """What a training left.

    Attributes:
        classify: Texts to class ids.
        seconds: The training took, without what was tried before its settings were chosen.
        parameters: Numbers that are stored.
        bytes: Of what has to be kept to answer.
        settings: Chosen on the validation split.
    """

    classify: Callable[[Sequence[str]], Any]
    seconds: float
    parameters: int
    bytes: int
    settings: dict[str, Any] = field(default_factory=dict)


def score(texts: Texts, predictions: Any) -> dict[str, Any]:
    """All numbers on the validation split."""
    from hf_rnn import classification_metrics

    return classification_metrics(predictions, texts.dev_labels, texts.names)


@contextlib.contextmanager
def clock(seconds: list[float]) -> Iterator[None]:
    """Append what the block took."""
    start = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - start)
