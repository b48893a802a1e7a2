"""The result of a training run, and how notebooks show it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from ..evaluation.classification import SCORES
from ..hub.card import CardFacts
from ..hub.model_folder import FinishedFolder


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training run.

    Attributes:
        folder: The finished folder.
        metrics: Contents of its `metrics.json`: `validation` and, if there is one, `test`, each as
            [`evaluate_logits`] returns them; `training` with numbers of the run; `calibration` and `teacher` if used.
        card: The facts of its card; None in a process that does not write it.
        url: Its page on the Hub, if `push_to_hub` asked for one.
    """

    folder: Path
    metrics: dict[str, Any]
    card: CardFacts | None = None
    url: str | None = None

    def __repr__(self) -> str:
        """Return the folder and the main scores."""
        parts = [f"folder={str(self.folder)!r}"]
        for split, scores in self._scores().items():
            parts.append(f"{split}: {', '.join(f'{name} {value:.3f}' for name, value in scores.items())}")
        parts += [] if self.url is None else [f"url={self.url!r}"]
        return f"{type(self).__name__}({'; '.join(parts)})"

    def _repr_html_(self) -> str:
        """Return scores, learning curve and confusion matrix for a notebook."""
        scores = self._scores()
        parts = [f"<p><code>{escape(str(self.folder))}</code></p>"]
        if self.url is not None:
            parts[0] = f'<p><a href="{escape(self.url)}">{escape(self.url)}</a></p>'
        rows = [[split, *(f"{found[name]:.3f}" for name in SCORES)] for split, found in scores.items()]
        parts.append(_table(["", *SCORES], rows))
        folder = FinishedFolder(self.folder)
        parts += [_image(path) for path in (folder.learning_curve, folder.confusion_matrix) if path.is_file()]
        matrix = self.metrics[next(iter(scores))].get("confusion_matrix") if scores else None
        if matrix and self.card is not None and not folder.confusion_matrix.is_file():
            names = list(self.card.class_counts)
            parts.append(
                _table(["true \\ predicted", *names], ([name, *row] for name, row in zip(names, matrix, strict=True)))
            )
        return "\n".join(parts)

    def _scores(self) -> dict[str, dict[str, float]]:
        found = {split: self.metrics.get(split, {}) for split in ("validation", "test")}
        return {split: {name: scores[name] for name in SCORES} for split, scores in found.items() if scores}


def _table(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["".join(f"<th>{escape(str(cell))}</th>" for cell in header)]
    lines += ["".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _image(path: Path) -> str:
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{path.stem}" src="data:image/png;base64,{content}">'
