"""Figures as PNG files: learning curve, answers of a stream, confusion matrix.

They do not depend on displays, pyplot or the user's matplotlib settings. A `UserError` reports a missing matplotlib.
Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which colour-blind readers can distinguish.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..utils.errors import UserError, install_hint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BLUE, _ORANGE, _INK = "#0072B2", "#D55E00", "#333333"
_COLOURS = (_BLUE, _ORANGE, "#009E73", "#CC79A7", _INK)
_SCORES = ("accuracy", "f1", "macro_f1", "macro_recall", "micro_f1", "average_precision", "pearson", "spearman")
_WIDTH = 8.2  # inches, 1,200 pixels
_FEW_CLASSES, _MOST_CLASSES = 6, 100  # large cells up to the first, names and numbers up to the second
_LONGEST_NAME = 32  # characters of a class name
_MOST_MARKS = 50  # points of a line that are marked
_FONTS = ("CJK", "Emoji", "Hei", "Gothic", "Song", "Ming", "PingFang", "Unifont")  # for other scripts


def plot_learning_curve(
    log_history: Sequence[Mapping[str, float]], path: str | Path, kept_step: int | None = None, smoothing: float = 0.0
) -> str:
    """Draw loss and scores of `trainer.state.log_history` over epochs; return the caption.

    A line marks the epoch of `kept_step`. The training loss has label `smoothing`, the validation loss has not.
    """
    import pandas as pd

    log = pd.DataFrame(log_history, columns=sorted({"epoch"}.union(*log_history))).groupby("epoch").last()
    train = "train, with dropout and label smoothing" if smoothing else "train, with dropout"
    names = {f"eval_{name}": f"{name.replace('_', ' ')}, validation" for name in _SCORES}
    panels = {"loss": {"loss": train, "eval_loss": "validation"}, "score": names}
    log = log.dropna(axis="columns", how="all")
    panels = {name: {key: curves[key] for key in curves if key in log} for name, curves in panels.items()}
    if not panels["loss"]:
        raise UserError("no learning curve: the training log has no loss")
    kept = [entry["epoch"] for entry in log_history if "eval_loss" in entry and entry.get("step", -1) == kept_step]
    count = len(list(filter(None, panels.values())))
    with _figure((_WIDTH * count / 2, 4.2), path) as figure:
        for axes, (quantity, curves) in zip(figure.subplots(1, count, squeeze=False)[0], panels.items(), strict=False):
            for (key, label), colour in zip(curves.items(), _COLOURS, strict=False):
                style = "o--" if key == "loss" else "s-"
                axes.plot(log[key].dropna(), style[len(log) > 40 :], color=colour, label=label)
            for epoch in kept[:1]:
                axes.axvline(epoch, color=_INK, linewidth=0.9, linestyle=":", label=f"kept: epoch {epoch:g}")
            axes.set(xlabel="epoch", ylabel=quantity)
            axes.locator_params(axis="x", integer=True, min_n_ticks=1)
            axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    more = f". Label smoothing of {smoothing:g} raises the training loss, not the validation loss"
    return f"Loss and scores over epochs{more if smoothing else ''}"


def plot_lines(
    lines: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str, path: str | Path
) -> None:
    """Draw lines by their names; each is a list of points (x, y)."""
    with _figure((_WIDTH / 2, 3.8), path, [*lines]) as figure:
        axes = figure.subplots()
        for (name, points), colour in zip(lines.items(), _COLOURS, strict=False):
            style = "o-" if len(points) < _MOST_MARKS else "-"
            axes.plot([x for x, _ in points], [y for _, y in points], style, color=colour, label=name, markersize=4)
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18))


def plot_streaming(by_share: Sequence[Mapping[str, float]], path: str | Path) -> str:
    """Draw the scores of a streaming model against the share of the text read; return the caption."""
    names = [name for name in _SCORES if name in by_share[0]]
    lines = {name.replace("_", " "): [(100 * row["share"], row[name]) for row in by_share] for name in names}
    plot_lines(lines, "share of the text read, %", "score", path)
    return "Scores of the answers while a text is read"


def plot_confusion_matrix(matrix: Sequence[Sequence[int]], class_names: Sequence[str], path: str | Path) -> None:
    """Draw true (rows) and predicted classes (columns): counts as numbers, shares of the true class as colour."""
    counts, size = np.asarray(matrix), len(class_names)
    rates = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    large, named = size <= _FEW_CLASSES, size <= _MOST_CLASSES
    cell = 0.9 if large else min(0.5, 10 / size)  # inches
    letters = min(9.0, 50 * cell) if named else 9.0
    with _figure((cell * size + 4.5, cell * size + (1.9 if large else 3.4)), path, class_names) as figure:
        axes = figure.subplots()
        image = axes.imshow(rates, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.argwhere(counts) if named else ():
            number = f"{counts[row, column]:,}" if large else f"{counts[row, column]}"
            height = min(11 if large else 8.5, 85 * cell / len(number))
            color = "white" if rates[row, column] > 0.5 else _INK
            axes.text(column, row, number, fontsize=height, color=color, ha="center", va="center")
        every = range(0, size, 1 if named else 5)
        names = [_shorten(class_names[number]) if named else str(number) for number in every]
        rows = [f"{name}  {number}" if named else name for name, number in zip(names, every, strict=True)]
        axes.set_yticks(every, rows, parse_math=False, fontsize=letters)
        turned: dict[str, Any] = {"rotation": 30 if large else 90, "ha": "right", "rotation_mode": "anchor"}
        turned |= {} if large else {"va": "center"}
        axes.set_xticks(every, names, parse_math=False, fontsize=letters, **(turned if named else {}))
        axes.set(xlabel="predicted class", ylabel="true class")
        axes.tick_params(length=0)
        figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")


def _shorten(name: str) -> str:
    """Return a class name on one line, cut in the middle because names often differ at either end."""
    name, half = " ".join(name.split()), _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[:half]}…{name[1 - half :]}"


@contextmanager
def _figure(size: tuple[float, float], path: str | Path, texts: Sequence[str] = ()) -> Iterator[Figure]:
    """Yield an empty figure of this size in inches, with fonts for `texts`, then write it to a PNG file."""
    try:
        import matplotlib.style
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.font_manager import fontManager
    except ImportError as error:
        raise UserError(f"matplotlib is not installed: {install_hint('plots')}") from error
    style: dict[str, Any] = {"font.family": ["DejaVu Sans"], "axes.spines.top": False, "axes.spines.right": False}
    if not "".join(texts).isascii():
        fonts = {font.name for font in fontManager.ttflist if any(kind in font.name for kind in _FONTS)}
        style["font.family"] += sorted(fonts)
    with matplotlib.style.context("default"), matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():  # a letter that no font has is a box; names have ids beside them
            warnings.filterwarnings("ignore", "Glyph")
            figure.savefig(path, format="png", dpi=144, bbox_inches="tight", metadata={"Software": None})
