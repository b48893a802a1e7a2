"""`FastRnn`: a model that answers texts, tables and texts that grow, also called `Tagger`.

`SentenceEncoder` gives vectors of texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from ..data.tokens import FastTokenizer
from ..tasks import Answer
from ..utils.errors import UserError
from .engines import DEFAULTS, Backend, Engine, InferenceOptions, Precision
from .engines.open import open_engine
from .predictor import Predictor

if TYPE_CHECKING:
    from ..data.tokens import Tokenizer
    from .stream import TextStream

Table = TypeVar("Table")


class FastRnn(Predictor):
    """From texts, tables and texts that grow to the answers of a model; see [`Predictor`].

    Example:
        >>> classifier = FastRnn.from_pretrained("out/tweets")
        >>> classifier.predict(["best concert of my life!"])
        [{'label': 'positive', 'score': 0.9}]
    """

    def predict_table(self, table: Table, **settings: Any) -> Table:
        """Return a frame of pandas or polars, or a table of Arrow, with the columns of answers.

        A row whose text is missing keeps its place, with the reason in a column `error`.

        Args:
            table: The frame; it does not change.
            settings: `text_column` and `text_pair_column`, by default those with usual names such
                as `text`; `prefix` of the new columns, by default `predicted_` if the table has one
                of their names; `all_scores` adds a column per class, such as `scores.positive`.

        Raises:
            UserError: For a missing column, whose message lists the columns.
        """
        # needs pyarrow, which a service does not have
        from .tables import TableSettings, answer_frame

        if not hasattr(table, "__arrow_c_stream__"):
            found = type(table).__name__
            raise UserError(
                f"predict_table reads a frame of pandas, polars or Arrow: found {found}"
            )
        return answer_frame(self, table, "the table", TableSettings(**settings), {}, is_batch=False)

    def explain(self, text: str, most: int = 8) -> Answer:
        """Return the answer to a text, and the words and phrases that count most for it.

        The numbers are in units of the logit of the label; with one label per text, of its
        distance to the mean of all labels. The share of an n-gram in the linear part is exact. For
        the network the number of a word is its loss when the word is left out.

        Args:
            text: The text; its first 256 words are left out one by one.
            most: The number of phrases.

        Returns:
            The answer of [`predict`], with `because`: a list of `[phrase, number]`, the largest
            numbers first; those below zero speak against the label.

        Raises:
            UserError: For a tagger, a model of text pairs, and the backend `onnx`.
        """
        from .explain import explain_spans

        explanation = explain_spans(self, text)
        answer = self.answer_scores(explanation.scores)[0]
        return {**answer, "because": explanation.phrases(most)}

    def stream(self, state: bytes | None = None, target: float | None = None) -> TextStream:
        """Return a stream that reads a text piece by piece; see [`TextStream`].

        Args:
            state: From `TextStream.save`, to continue its text with its own target.
            target: As in [`predict`]; its thresholds were chosen for whole texts.

        Raises:
            UserError: For a model that was not trained with `streaming`, and a damaged or foreign
                state.
        """
        if self.task.per_token:
            raise UserError("a tagger does not stream: tag the last sentence again when it grows")
        if not getattr(self.config, "streaming", False):
            raise UserError(
                "the model does not stream: train one with `hf-rnn train DATA OUT --streaming`"
            )
        if state is not None and target is not None:
            raise UserError("a state has its own target: leave it out")
        from .stream import TextStream

        if target is not None:
            self.read_thresholds(target)
        stream = TextStream(self, target)
        if state is not None:
            stream.restore(state)
        return stream


Tagger = FastRnn


class SentenceEncoder:
    """The vectors of `SentenceTransformer` for an encoder of `hf-rnn pretrain`, without torch.

    Example:
        >>> encoder = SentenceEncoder.from_pretrained("encoder")
        >>> encoder.encode(["so good", "so bad"]).shape
        (2, 384)
    """

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, options: InferenceOptions = DEFAULTS
    ) -> None:
        self.engine = engine
        self.options = options
        self._encode = FastTokenizer(tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        revision: str | None = None,
        precision: Precision = "float32",
        backend: Backend = "torch",
    ) -> Self:
        """Load an encoder: a folder, or a repo of the Hub; the arguments are those of [`FastRnn`].

        Raises:
            UserError: For a folder without an encoder's projection.
        """
        options = InferenceOptions(revision, precision, backend=backend)
        opened = open_engine(name_or_path, options, is_encoder=True)
        return cls(opened.engine, opened.tokenizer, options)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return the unit vectors `(N, S)` of texts in float32, in their order."""
        vectors = self.engine.run(self._encode(texts), self.options)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
