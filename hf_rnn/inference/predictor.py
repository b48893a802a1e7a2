"""[`Predictor`]: texts → answers of any task, by any engine.

`tokens` makes ids from texts, an engine logits from ids, and the task of the model answers from
logits. `fast.py` adds tables and streams.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

import numpy as np

from ..data.tokens import FastTokenizer
from ..hub.model_folder import FinishedFolder
from ..tasks import Answer, check_answers, compute_scores, score_kind, task_of
from ..utils.errors import UserError, find_text_error, list_texts
from .engines import Backend, Engine, InferenceOptions, Precision, TokenIds
from .engines.open import choose_engine, open_engine
from .engines.stored import absolute_name

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ..data.errors import BadRow
    from ..data.tokens import Tokenizer


class Predictor:
    """From texts to the answers of a model's task, whichever engine computes its logits.

    On a CPU the network runs in C, without torch. The plain model predicts where that is not
    possible: on an accelerator, without the compiled kernel, and for a model with hooks, adapters
    or modules from outside this package, which the log says. After further training of a model make
    a new predictor.

    A classifier labels texts, a tagger finds entities in texts of any length. For a model of text
    pairs, each text is a pair `(first, second)`.

    Args:
        model: In evaluation mode; or an engine.
        tokenizer: The tokenizer of the model; texts are truncated to its `model_max_length`.
        precision: `"float32"` answers as the model does (logits within 1e-5). `"int16"` computes
            the products of matrices in 16 bits, which is faster: logits within 3e-3. `"int8"` is
            the fastest on processors with AVX-512 VNNI, and int16 on others: logits within about
            0.1, so that labels near a tie change. Without AVX2, as on ARM, both are float32.
        tokens_per_batch: About how many tokens the plain model or ONNX Runtime reads at once.
        threads: Threads for many texts, which do not change the answers; None is `OMP_NUM_THREADS`,
            or all processors.

    Raises:
        UserError: For an unknown `precision`, and for a language model.
        ValueError: When the model is in training mode.
    """

    def __init__(
        self,
        model: PreTrainedModel | Engine,
        tokenizer: Tokenizer,
        precision: Precision = "float32",
        tokens_per_batch: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.options = InferenceOptions(
            precision=precision, tokens_per_batch=tokens_per_batch, threads=threads
        )
        if not isinstance(model, Engine):
            model = choose_engine(model, tokenizer, self.options)
        self.engine = model
        self.config = model.config
        self.tokenizer = tokenizer
        check_answers(self.config)
        self.task = task_of(self.config)
        self._is_paired = getattr(self.config, "sep_token_id", None) is not None
        self.tokenize = FastTokenizer(tokenizer, self._is_paired)  # texts → token ids
        self._chooses_one = score_kind(self.config) == "softmax" and not self.task.per_token
        # about a model from a folder or a repo, as it was loaded
        self._name: str | None = None
        self._thresholds: bytes | None = None  # the content of `thresholds.json`
        self._fingerprint: str | None = None
        self._by_target: dict[float, dict[str, float | None]] = {}

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        revision: str | None = None,
        precision: Precision = "float32",
        tokens_per_batch: int | None = None,
        device: str | torch.device | None = "cpu",
        threads: int | None = None,
        backend: Backend = "torch",
    ) -> Self:
        """Load a finished folder, or a repo of the Hub by its id.

        The `revision` is a branch, tag or commit of a repo. With the `device` None the model is on
        the accelerator, if there is one. The `backend` `"onnx"` runs the file of `hf-rnn export`,
        which gives the model's numbers within 1e-4. The other arguments are those of [`FastRnn`].

        Raises:
            UserError: For an incomplete model, named in the message, and for an unknown or missing
                device.
        """
        options = InferenceOptions(revision, precision, tokens_per_batch, device, threads, backend)
        opened = open_engine(name_or_path, options)
        predictor = cls(opened.engine, opened.tokenizer, precision, tokens_per_batch, threads)
        predictor._name = absolute_name(name_or_path)
        predictor._thresholds = opened.folder.read_thresholds()
        return predictor

    @property
    def fingerprint(self) -> str:
        """A hash of all weights as they were loaded, for thresholds and states of streams."""
        return self._fingerprint or self.engine.fingerprint

    def __reduce__(self) -> tuple[object, ...]:
        options = self.options.precision, self.options.tokens_per_batch, self.options.threads
        state = {"_name": self._name, "_thresholds": self._thresholds}
        if self.engine.model is not None:  # whose weights may be rounded otherwise than the stored
            state["_fingerprint"] = self.fingerprint
        arguments = self.engine.model or self.engine, self.tokenizer, *options
        return type(self), arguments, state

    def predict(
        self,
        texts: Sequence[str],
        all_scores: bool = False,
        top_k: int = 1,
        target: float | None = None,
    ) -> list[Answer]:
        """Return the answer to each text, in order.

        It is `{"label": ..., "score": ...}` of the best class. For multi-label it is `{"labels":
        [...], "scores": {label: score}}`, with the labels above their thresholds; for regression
        `{"values": {name: number}}`; of a tagger `{"entities": [...]}`, with their places in the
        text. `all_scores` adds `scores` where they are not an answer already, `top_k` the next
        labels, as `label_2`, `score_2` and so on. With a `target` such as 0.95 each answer has
        `for_a_person`: False if it needs no person, as answers like it are right at this rate, by
        the thresholds that `hf-rnn evaluate --target` chose.

        Raises:
            UserError: For an invalid list of texts, here and in the next methods; for scores of a
                tagger that are not finite; for a `top_k` above the number of classes; for a target
                without thresholds.
        """
        if target is not None:
            self.read_thresholds(target)
        if top_k > 1 and not (self._chooses_one and top_k <= self.config.num_labels):
            found = f"top_k is {top_k}: the model does not choose one of at least {top_k} labels"
            raise UserError(f"{found}; leave it out")
        if self.task.per_token:
            return self._tag(list_texts(texts))
        scores = self.predict_proba(texts)
        answers = self.answer_scores(scores, target)
        if self._chooses_one and (all_scores or top_k > 1):
            self._add_labels(answers, scores, all_scores, top_k)
        return answers

    def _tag(self, texts: list[str]) -> list[Answer]:
        """Return the answers of a tagger."""
        from ..evaluation.scores import check_finite_logits

        encoded = self.tokenizer(
            texts, return_offsets_mapping=True, return_attention_mask=False, verbose=False
        )
        logits = self.logits(encoded["input_ids"])
        check_finite_logits(logits.reshape(-1, self.config.num_labels))
        return self.task.answers(logits, self.config, texts, encoded)

    def _add_labels(
        self, answers: list[Answer], scores: np.ndarray, all_scores: bool, top_k: int
    ) -> None:
        """Add to answers the scores of all labels, and the next ones after the best."""
        names = list(self.config.id2label.values())
        for answer, row in zip(answers, scores, strict=True):
            if all_scores:
                answer["scores"] = dict(zip(names, row.tolist(), strict=True))
            following = np.argsort(-row, kind="stable")[1:top_k].tolist()
            for rank, number in enumerate(following, 2):
                answer[f"label_{rank}"] = names[number]
                answer[f"score_{rank}"] = float(row[number])

    def answer_each(
        self,
        rows: Sequence[object],
        all_scores: bool = False,
        top_k: int = 1,
        target: float | None = None,
    ) -> list[Answer | str]:
        """Return the answer to each row as [`predict`] does, or the reason why it is missing.

        A row is a text, a tuple of two for a model of text pairs, or a [`BadRow`]; other objects
        have no answer.
        """
        results = [self._find_fault(row) for row in rows]
        valid = [place for place, fault in enumerate(results) if not fault]
        texts = cast("list[str]", [rows[place] for place in valid])
        answers = self.predict(texts, all_scores, top_k, target)
        answered: list[Answer | str] = [*results]
        for place, answer in zip(valid, answers, strict=True):
            numbers = answer.get("values") or answer.get("scores") or {}
            is_finite = all(map(math.isfinite, [answer.get("score", 0.0), *numbers.values()]))
            answered[place] = answer
            if not is_finite:
                answered[place] = "score not finite: did the training of the model diverge?"
        return answered

    def _find_fault(self, row: object) -> str:
        """Return why a row has no answer, or an empty string."""
        size = 2 if self._is_paired else 1
        texts = row if isinstance(row, tuple) else (row,)
        for text in texts:
            if hasattr(text, "fault"):
                bad = cast("BadRow", text)
                return f"{bad.fault.reason}: {bad.fault.detail}: found {bad.excerpt}"
        if len(texts) != size:
            amount = "few" if len(texts) < size else "many"
            return f"too {amount} fields: found {len(texts)} of {size} texts"
        return next(filter(None, map(find_text_error, texts)), "")

    def answer_scores(self, scores: np.ndarray, target: float | None = None) -> list[Answer]:
        """Return the answers to texts by their scores `(N, C)`."""
        answers = self.task.answers(scores, self.config)
        if target is not None:
            from ..evaluation.decisions import needs_person

            names = list(self.config.id2label.values())
            waiting = needs_person(self.read_thresholds(target), names, scores)
            for answer, waits in zip(answers, waiting.tolist(), strict=True):
                answer["for_a_person"] = waits
        return answers

    def read_thresholds(self, target: float) -> dict[str, float | None]:
        """Return by label the lowest score of an answer that needs no person, for a target.

        They are those of `thresholds.json` when the model was loaded.

        Raises:
            UserError: Unless the folder of the model has thresholds of its weights for this target.
        """
        if target in self._by_target:
            return self._by_target[target]
        from ..evaluation.decisions import check_target, parse_thresholds

        check_target(target)
        if not self._chooses_one:
            raise UserError("target is for models that choose one label for a text: leave it out")
        if self._name is None:
            raise UserError("target needs the folder of the model: load it by from_pretrained")
        path = FinishedFolder(Path(self._name)).thresholds
        by_target = parse_thresholds(self._thresholds, path, self.fingerprint)
        chosen = by_target.get(f"{target:g}")
        if chosen is None:
            those = f"thresholds for {', '.join(by_target)} alone" if by_target else "no thresholds"
            command = f"hf-rnn evaluate {shlex.quote(self._name)} DATA --target {target:g}"
            raise UserError(
                f"{self._name} has {those}: for {target:g} type {command}, with rows of their own"
            )
        self._by_target[target] = chosen.by_label
        return chosen.by_label

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return the scores `(N, C)` in float32, in the order of the texts and of `id2label`.

        They are probabilities: of the classes (softmax), or of each label (sigmoid, for
        multi-label); for regression they are the values themselves.

        Raises:
            UserError: For a tagger, which has scores of tokens.
        """
        if self.task.per_token:
            raise UserError("a tagger has scores of tokens, not of texts: call predict")
        return compute_scores(self.text_logits(texts), self.config)

    def text_logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return the logits `(N, C)` in float32, in the order of the texts."""
        return self.logits(self.tokenize(texts))

    def logits(self, input_ids: TokenIds) -> np.ndarray:
        """Return the logits `(N, C)` of token ids by text, also of padding; see [`Engine.run`]."""
        return self.engine.run(input_ids, self.options)
