"""The figures of a finished folder: learning curve, confusion matrix and reliability, as PNG files.

Drawn on canvases of their own, so that no display, no pyplot state and no personal matplotlib settings take part, and
with the same bytes for the same numbers. Colours are Okabe and Ito's (https://jfly.uni-koeln.de/color/), which
colour-blind readers tell apart; line styles and markers say the same again for print in grey.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..utils.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

_BLUE, _ORANGE, _GREEN, _PURPLE, _INK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#333333"
_LONGEST_NAME = 24  # characters of a class name that a figure shows
_WIDEST = 10.0  # inches of a matrix: what a page shows, so that its letters can be read there
_FEW_CLASSES, _MOST_CLASSES = 6, 40  # large cells up to the first, names and numbers up to the second
_FEW_POINTS = 30  # more, such as one a step, are drawn as a thin line

# Keys of the Trainer's log: what the legend calls them, colour, line style, marker.
_LOSSES = {
    "loss": ("train", _BLUE, "--", "o"),
    "eval_loss": ("validation", _ORANGE, "-", "s"),
}
_SCORES = {
    "accuracy": ("accuracy, train", _BLUE, "--", "o"),
    "train_accuracy": ("accuracy, train", _BLUE, "--", "o"),
    "eval_accuracy": ("accuracy, validation", _ORANGE, "-", "s"),
    "eval_macro_f1": ("macro F1, validation", _GREEN, "-", "^"),
    "eval_macro_recall": ("macro recall, validation", _PURPLE, "-", "D"),
}


def plot_learning_curve(log_history: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draw loss and metrics over epochs.

    Args:
        log_history: `trainer.state.log_history`. Taken are `loss` and `eval_loss` (left), `accuracy` or
            `train_accuracy`, `eval_accuracy`, `eval_macro_f1` and `eval_macro_recall` (right, left out when there are
            none).
        path: Where the PNG file goes.

    Raises:
        UserError: When there is no loss in the log, or matplotlib is not installed.
    """
    losses, scores = (
        {key: curve for key in keys if len(curve := _curve(log_history, key))} for keys in (_LOSSES, _SCORES)
    )
    if not losses:
        raise UserError("the training log holds no loss, so there is no learning curve to draw: was anything trained?")
    with _figure((9.0 if scores else 5.0, 3.8), path) as figure:
        panels = figure.subplots(1, 2 if scores else 1, squeeze=False)[0]
        _draw_curves(panels[0], losses, _LOSSES, "loss")
        if scores:
            _draw_curves(panels[1], scores, _SCORES, "score")


def _curve(log_history: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """Return the finite (epoch, value) points of a key, one for an epoch: the last one logged (P x 2)."""
    points = {entry["epoch"]: entry[key] for entry in log_history if key in entry and "epoch" in entry}
    curve = np.array(sorted(points.items()), dtype=float).reshape(-1, 2)
    return curve[np.isfinite(curve).all(axis=1)]


def _draw_curves(
    axes: Axes, curves: Mapping[str, np.ndarray], looks: Mapping[str, tuple[str, str, str, str]], quantity: str
) -> None:
    from matplotlib.ticker import MaxNLocator

    for key, curve in curves.items():
        label, colour, line, marker = looks[key]
        if len(curve) <= _FEW_POINTS:
            axes.plot(
                *curve.T, color=colour, linestyle=line, marker=marker, markersize=4.5, linewidth=1.8, label=label
            )
        else:
            axes.plot(*curve.T, color=colour, linewidth=0.7, alpha=0.8, label=label)
    axes.set_xlabel("epoch")
    axes.set_ylabel(quantity)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def plot_confusion_matrix(matrix: Sequence[Sequence[int]], class_names: Sequence[str], path: str | Path) -> None:
    """Draw true against predicted classes: counts as numbers, shares of the true class as colour.

    Args:
        matrix: Counts by true class (rows) and predicted class (columns), C x C.
        class_names: Names by id; long ones are cut in the middle. Over 40 classes ids stand instead and no numbers,
            and ids where no installed font has the characters.
        path: Where the PNG file goes.

    Raises:
        UserError: When the matrix and the names do not fit each other, or matplotlib is not installed.
    """
    counts, size = np.asarray(matrix), len(class_names)
    if counts.shape != (size, size) or not size:
        raise UserError(f"a confusion matrix of shape {counts.shape} does not fit {size} class names")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [_shown(name) for name in class_names]
    if len(set(names)) < size:  # they differ where they are cut
        names = [f"{index}: {name}" for index, name in enumerate(names)]
    family, told = _fonts_for("".join(names)), "class" if size <= _MOST_CLASSES else "class id"
    if family is None:
        logger.warning(
            "no font here has all characters of the class names: the figure of the confusion matrix shows their ids"
        )
        names, family, told = [str(index) for index in range(size)], [], "class id"
    large = size <= _FEW_CLASSES
    cell = 0.8 if large else min(0.55, _WIDEST / size)  # inches
    with _figure((cell * size + 2.6, cell * size + 1.9), path, family) as figure:
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        if size <= _MOST_CLASSES:
            for (row, column), count in np.ndenumerate(counts):
                axes.text(
                    column,
                    row,
                    f"{count:,}" if large else str(count),
                    ha="center",
                    va="center",
                    fontsize=11 if large else min(8, 100 * cell / len(str(counts.max()))),
                    color="white" if shares[row, column] > 0.5 else _INK,
                )
            upright = size <= 4 and max(map(_width, names)) <= 10
            axes.set_xticks(range(size), names, parse_math=False, **({} if upright else _SLANTED))
            axes.set_yticks(range(size), names, parse_math=False)
        axes.tick_params(length=0)
        axes.set_xlabel(f"predicted {told}")
        axes.set_ylabel(f"true {told}")
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.03)
        bar.set_label("share of the true class")
        bar.outline.set_visible(False)


def plot_reliability(tables: Mapping[str, Mapping[str, Sequence[float | None]]], path: str | Path) -> None:
    """Draw how often answers are right against how sure they were; calibrated scores lie on the diagonal.

    Args:
        tables: What [`~hf_rnn.evaluation.reliability_table`] returned, by what the legend calls it, two at most. The
            size of a point is the share of the rows in its bin.
        path: Where the PNG file goes.

    Raises:
        UserError: When there is nothing to draw, or matplotlib is not installed.
    """
    if not any(any(table["share"]) for table in tables.values()):
        raise UserError("there is no row whose confidence could be drawn")
    with _figure((4.6, 4.4), path) as figure:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle=":", label="as sure as right")
        looks = ((_ORANGE, "--", "s"), (_BLUE, "-", "o"))
        for (name, table), (colour, line, marker) in zip(tables.items(), looks, strict=False):
            rows = zip(table["confidence"], table["accuracy"], table["share"], strict=True)
            points = np.array([row for row in rows if row[2]], dtype=float).reshape(-1, 3)
            axes.plot(
                *points[:, :2].T,
                color=colour,
                linestyle=line,
                marker=marker,
                markersize=4.5,
                label=name,
                clip_on=False,
            )
            confidence, accuracy, share = points.T
            axes.scatter(
                confidence, accuracy, s=20 + 400 * share, color=colour, marker=marker, alpha=0.5, clip_on=False
            )
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_aspect("equal")
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9, loc="lower right")  # few points lie there


_SLANTED: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}


def _shown(name: str) -> str:
    """Return a class name on one line, cut in the middle because names often differ at either end."""
    name = " ".join(name.split())
    half = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[:half]}…{name[1 - half :]}"


def _width(name: str) -> int:
    """Return how many letters wide a name is: those of East Asia take the room of two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in name)


def _fonts_for(text: str) -> list[str] | None:
    """Return installed fonts to take beside matplotlib's own for all characters of a text; None if there are none."""
    with _needed():
        from matplotlib.font_manager import findfont, fontManager, get_font

    def lacking(path: str, characters: set[str]) -> set[str]:
        known = get_font(path).get_charmap()
        return {character for character in characters if ord(character) not in known}

    left = lacking(findfont("DejaVu Sans"), set(text))
    family: list[str] = []
    for font in sorted(fontManager.ttflist, key=lambda font: (font.name, font.fname)):
        if not left:
            break
        if font.name.startswith("Last Resort") or font.style != "normal":  # a box for every character there is
            continue
        try:
            still = lacking(font.fname, left)
        except (OSError, RuntimeError):  # gone or broken since matplotlib listed it
            continue
        if len(still) < len(left):
            left, family = still, [*family, font.name]
    return None if left else family


@contextmanager
def _needed() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise UserError("figures need matplotlib. Type: pip install 'hf-rnn[plots]'") from error


@contextmanager
def _figure(size: tuple[float, float], path: str | Path, family: Sequence[str] = ()) -> Iterator[Figure]:
    """Hand out an empty figure and write it to a PNG file afterwards.

    Args:
        size: In inches.
        path: Of the file.
        family: Fonts to take where matplotlib's own lacks a character.
    """
    with _needed():
        import matplotlib.style
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    with matplotlib.style.context(["default", {"font.family": ["DejaVu Sans", *family]}]):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(path, format="png", dpi=144, bbox_inches="tight", pad_inches=0.12, metadata={"Software": None})
