"""Figures as PNG files: learning curve, answers of a stream, confusion matrix.

They do not depend on displays, pyplot or the user's matplotlib settings. A `UserError` reports a
missing matplotlib. Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which
colour-blind readers can distinguish.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..utils.errors import UserError, install_hint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK = "#333333"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", _INK)
_SCORES = (
    "accuracy",
    "f1",
    "macro_f1",
    "macro_recall",
    "micro_f1",
    "average_precision",
    "pearson",
    "spearman",
)
_MARK: dict[str, Any] = {"color": _INK, "linewidth": 0.9, "linestyle": ":"}
_WIDTH = 8.2  # inches, 1,200 pixels
_MOST_CLASSES = 100  # with names and numbers
_HALF_NAME = 16  # characters of a class name
_MOST_MARKS = 50  # points of a line that are marked
# for other scripts
_FONTS = re.compile("CJK|Emoji|Hei|Gothic|Song|Ming|PingFang|Unifont")


def plot_learning_curve(
    log_history: Sequence[Mapping[str, float]],
    path: str | Path,
    kept_step: int | None = None,
    smoothing: float = 0.0,
) -> str:
    """Draw loss and scores of `trainer.state.log_history` over epochs; return the caption.

    A line marks the epoch of `kept_step`. The training loss has label `smoothing`, the validation
    loss has not.
    """

    def read(name: str) -> list[tuple[float, float]]:
        return list({entry["epoch"]: entry[name] for entry in log_history if name in entry}.items())

    caption = "Loss and scores over epochs"
    train = "train, with dropout"
    if smoothing:
        train += " and label smoothing"
        caption += (
            f". Label smoothing of {smoothing:g} raises the training loss, not the validation loss"
        )
    panels = {
        "loss": {train: read("loss"), "validation": read("eval_loss")},
        "score": {
            f"{name.replace('_', ' ')}, validation": read(f"eval_{name}") for name in _SCORES
        },
    }
    if not any(panels["loss"].values()):
        raise UserError("no learning curve: the training log has no loss")
    if not any(panels["score"].values()):
        del panels["score"]
    kept = [
        entry["epoch"]
        for entry in log_history
        if "eval_loss" in entry and entry.get("step", -1) == kept_step
    ]

    with _figure((_WIDTH * len(panels) / 2, 4.2), path) as figure:
        for number, (quantity, lines) in enumerate(panels.items(), 1):
            axes = figure.add_subplot(1, len(panels), number)
            if kept:
                axes.axvline(kept[0], **_MARK, label=f"kept: epoch {kept[0]:g}")
            _draw_lines(axes, lines, "epoch", quantity, {})
            axes.locator_params(axis="x", integer=True, min_n_ticks=1)

    return caption


def plot_lines(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    x_label: str,
    y_label: str,
    path: str | Path,
    points: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> None:
    """Draw lines by their names, each a list of points (x, y), and points that no line joins."""
    points = points or {}
    with _figure((_WIDTH / 2, 3.8), path, [*lines, *points]) as figure:
        _draw_lines(figure.subplots(), lines, x_label, y_label, points)


def _draw_lines(
    axes: Axes,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    x_label: str,
    y_label: str,
    points: Mapping[str, Sequence[tuple[float, float]]],
) -> None:
    drawn = {name: marks for name, marks in {**points, **lines}.items() if marks}
    for (name, marks), colour in zip(drawn.items(), _COLOURS, strict=False):
        style = "o-" if len(marks) < _MOST_MARKS else "-"
        if name in points:
            style = "o"
        axes.plot(*zip(*marks, strict=True), style, color=colour, label=name, markersize=4)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16))


def plot_confusion_matrix(
    matrix: Sequence[Sequence[int]], class_names: Sequence[str], path: str | Path
) -> None:
    """Draw counts of true (rows) and predicted classes (columns).

    Colours are shares of the true class. Long names are cut in the middle, because they often
    differ at either end. Above 100 classes only ids are shown.
    """
    counts = np.asarray(matrix)
    rates = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = len(class_names)
    cell = min(0.8, 10 / size)  # inches
    with _figure((cell * size + 4.5, cell * size + 3.4), path, class_names) as figure:
        axes = figure.subplots()
        image = axes.imshow(rates, cmap="Blues", vmin=0, vmax=1)
        if size <= _MOST_CLASSES:
            _write_counts(axes, counts, rates, cell)
            names = [_shorten(name) for name in class_names]
            numbered = [f"{name}  {number}" for number, name in enumerate(names)]
            style: dict[str, Any] = {"parse_math": False, "fontsize": min(9, 50 * cell)}
            axes.set_yticks(range(size), numbered, **style)
            axes.set_xticks(range(size), names, rotation=90, **style)
        axes.set(xlabel="predicted class", ylabel="true class")
        figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")


def _write_counts(axes: Axes, counts: np.ndarray, rates: np.ndarray, cell: float) -> None:
    for row, column in np.argwhere(counts):
        number = f"{counts[row, column]:,}"
        color = "white" if rates[row, column] > 0.5 else _INK
        size = min(11, 85 * cell / len(number))
        axes.text(column, row, number, fontsize=size, color=color, ha="center", va="center")


def _shorten(name: str) -> str:
    """Return a name in one line, cut in the middle if it is long."""
    name = " ".join(name.split())
    if len(name) <= 2 * _HALF_NAME:
        return name
    return f"{name[:_HALF_NAME]}…{name[1 - _HALF_NAME :]}"


@contextmanager
def _figure(
    size: tuple[float, float], path: str | Path, texts: Sequence[str] = ()
) -> Iterator[Figure]:
    """Yield an empty figure of a size in inches, with fonts for `texts`, then write it as PNG."""
    try:
        import matplotlib.style
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.font_manager import fontManager
    except ImportError as error:
        raise UserError(f"matplotlib is not installed: {install_hint('plots')}") from error
    style: dict[str, Any] = {
        "font.family": ["DejaVu Sans"],
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    if not "".join(texts).isascii():
        fonts = {font.name for font in fontManager.ttflist}
        style["font.family"] += sorted(filter(_FONTS.search, fonts))
    with matplotlib.style.context("default"), matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # a letter that no font has is a box; names have ids beside them
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")
            figure.savefig(
                path, format="png", dpi=144, bbox_inches="tight", metadata={"Software": None}
            )
