"""Figures of a finished folder as PNG files: learning curve, confusion matrix, reliability diagram.

Figures are independent of displays, pyplot and the user's matplotlib settings. The same numbers give the same bytes.
Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which colour-blind readers can distinguish.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..hub.model_folder import FinishedFolder
from ..utils.errors import UserError, install_hint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

_BLUE, _ORANGE, _GREEN, _PURPLE, _INK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#333333"
_LONGEST_NAME, _SHORT_NAME = 32, 10  # characters of a class name: more are cut; more are turned
_WIDEST = 10.0  # inches of a confusion matrix, so that its letters stay readable on a page
_FEW_CLASSES, _MOST_CLASSES = 6, 100  # large cells up to the first, names and numbers up to the second
_SMALLEST_LETTERS = 4  # points; a number that does not fit its cell is left out
_FEW_POINTS = 30  # longer curves are thin lines without markers

_MOST_FONTS = 300  # that are searched for characters; these first
_LARGE_FONTS = ("CJK", "Emoji", "Hei", "Gothic", "Song", "Ming", "PingFang", "Unicode", "Unifont", "STIX")
_MOST_UNITS = 24  # rows of a picture of gates: those that change most

# Keys of the Trainer's log: label, colour, line style, marker.
_LOSSES = {"loss": ("train, with dropout", _BLUE, "--", "o"), "eval_loss": ("validation", _ORANGE, "-", "s")}
_SCORES = {
    "accuracy": ("accuracy, train, with dropout", _BLUE, "--", "o"),
    "train_accuracy": ("accuracy, train, with dropout", _BLUE, "--", "o"),
    "eval_accuracy": ("accuracy, validation", _ORANGE, "-", "s"),
    "eval_macro_f1": ("macro F1, validation", _GREEN, "-", "^"),
    "eval_macro_recall": ("macro recall, validation", _PURPLE, "-", "D"),
}


def draw_metrics(metrics: Mapping[str, Any], class_names: Sequence[str], folder: FinishedFolder) -> dict[str, str]:
    """Draw the confusion matrix, and the reliability diagram of a calibrated model, if `metrics.json` has them.

    Return their captions with their file names.
    """
    figures = {}
    split = "validation" if "validation" in metrics else "test"
    if matrix := metrics.get(split, {}).get("confusion_matrix"):
        plot_confusion_matrix(matrix, class_names, folder.confusion_matrix)
        figures[f"True and predicted classes on the {split} split"] = folder.confusion_matrix.name
    if calibration := metrics.get("calibration"):
        split = calibration["fitted_on"]
        scores = calibration["splits"][split]
        tables = {f"{when} calibration": scores[when]["reliability"] for when in ("before", "after")}
        plot_reliability(tables, folder.reliability)
        figures[f"Accuracy by confidence on the {split} split"] = folder.reliability.name
    return figures


def plot_learning_curve(
    log_history: Sequence[Mapping[str, Any]], path: str | Path, kept_step: int | None = None
) -> None:
    """Draw loss and, if there are any, metrics over epochs, with a line at the epoch that was kept.

    Args:
        log_history: `trainer.state.log_history`.
        path: The PNG file.
        kept_step: The step of the weights that were kept, `trainer.state.best_global_step`.

    Raises:
        UserError: When the log has no finite loss, or matplotlib is not installed.
    """
    curves = {key: _curve(log_history, key) for key in (*_LOSSES, *_SCORES)}
    losses = {key: curve for key, curve in curves.items() if key in _LOSSES and len(curve)}
    scores = {key: curve for key, curve in curves.items() if key in _SCORES and len(curve)}
    if not losses:
        raise UserError("no learning curve: the training log has no loss")
    kept = [entry["epoch"] for entry in log_history if "eval_loss" in entry and entry.get("step") == kept_step]
    with _figure((9.0 if scores else 5.0, 4.2), path) as (figure, _):
        panels = figure.subplots(1, 2 if scores else 1, squeeze=False)[0]
        _draw_curves(panels[0], losses, _LOSSES, "loss", kept)
        if scores:
            _draw_curves(panels[1], scores, _SCORES, "score", kept)


def _curve(log_history: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """Return the finite (epoch, value) points of a key, the last one per epoch (P x 2)."""
    points = {entry["epoch"]: entry[key] for entry in log_history if key in entry and "epoch" in entry}
    curve = np.array(sorted(points.items()), dtype=float).reshape(-1, 2)
    return curve[np.isfinite(curve).all(axis=1)]


def _draw_curves(
    axes: Axes,
    curves: Mapping[str, np.ndarray],
    styles: Mapping[str, tuple[str, str, str, str]],
    quantity: str,
    kept: Sequence[float],
) -> None:
    from matplotlib.ticker import MaxNLocator

    for key, curve in curves.items():
        label, colour, line, marker = styles[key]
        few: dict[str, Any] = {"linestyle": line, "marker": marker, "markersize": 4.5, "linewidth": 1.8}
        style = few if len(curve) <= _FEW_POINTS else {"linewidth": 0.7, "alpha": 0.8}
        axes.plot(*curve.T, color=colour, label=label, **style)
    for epoch in kept[:1]:
        axes.axvline(epoch, color=_INK, linewidth=0.9, linestyle=":", label=f"kept: epoch {epoch:g}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _label_axes(axes, "epoch", quantity)
    axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def _label_axes(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def plot_confusion_matrix(matrix: Sequence[Sequence[int]], class_names: Sequence[str], path: str | Path) -> None:
    """Draw true against predicted classes: counts other than 0 as numbers, shares of the true class as colour.

    Args:
        matrix: Counts by true class (rows) and predicted class (columns), C x C.
        class_names: Names by id, shown beside the ids up to 100 classes, if a font has their characters.
        path: The PNG file.

    Raises:
        UserError: When matplotlib is not installed.
    """
    counts, size = np.asarray(matrix), len(class_names)
    rates = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    large, named = size <= _FEW_CLASSES, size <= _MOST_CLASSES
    names = [_shorten(name) if named else "" for name in class_names]
    cell = 0.9 if large else min(0.5, _WIDEST / size)  # inches
    with _figure((cell * size + 4.5, cell * size + 1.9), path, names) as (figure, can_show):
        shown = [name if can_show(name) else "" for name in names]
        axes = figure.subplots()
        image = axes.imshow(rates, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts if named else np.zeros((0, 0))):
            letters = 11 if large else min(8.5, 85 * cell / len(str(count)))
            if count and letters >= _SMALLEST_LETTERS:
                colour, text = "white" if rates[row, column] > 0.5 else _INK, f"{count:,}" if large else str(count)
                axes.text(column, row, text, ha="center", va="center", fontsize=letters, color=colour)
        every, letters = range(0, size, 1 if named else 5), min(9.0, 50 * cell) if named else 9.0
        rows = columns = [f"{shown[number]}  {number}".strip() for number in every]
        turned: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
        if not large or max(map(len, shown)) <= _SHORT_NAME:
            turned = {}
            columns = [f"{number}\n{shown[number]}".strip() if large else str(number) for number in every]
        axes.set_yticks(every, rows, parse_math=False, fontsize=letters)
        axes.set_xticks(every, columns, parse_math=False, fontsize=letters, **turned)
        for draw in (axes.hlines, axes.vlines):
            draw(np.arange(1, size) - 0.5, -0.5, size - 0.5, color="#e4e4e4", linewidth=0.4)
        axes.tick_params(length=0)
        ids = "" if all(shown) else " id, as in the table of labels"
        axes.set_xlabel(f"predicted class{ids}")
        axes.set_ylabel(f"true class{ids}")
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.03)
        bar.set_label("share of the true class")
        bar.outline.set_visible(False)


def _shorten(name: str) -> str:
    """Return a class name on one line, cut in the middle because names often differ at either end."""
    name = " ".join(name.replace("\ufe0f", "").split())
    half = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[:half]}…{name[1 - half :]}"


def _find_fonts(texts: Sequence[str]) -> tuple[list[str], set[str]]:
    """Return the fonts for the characters of texts, matplotlib's own first, and the characters that no font has."""
    from matplotlib.font_manager import findfont, fontManager, get_font

    families = ["DejaVu Sans"]
    missing = set("".join(texts)) - set(map(chr, get_font(findfont(families[0])).get_charmap())) - set(" \n\t\r")
    fonts = [font for font in fontManager.ttflist if font.size == "scalable" and "Last Resort" not in font.name]
    fonts.sort(key=lambda font: not any(kind in font.name for kind in _LARGE_FONTS))
    for font in fonts[:_MOST_FONTS] if missing else ():
        if covered := missing & set(map(chr, get_font(font.fname).get_charmap())):
            families.append(font.name)
            missing -= covered
    return families, missing


def plot_reliability(tables: Mapping[str, Mapping[str, Sequence[float | None]]], path: str | Path) -> None:
    """Draw accuracy against confidence; calibrated scores are on the diagonal.

    Args:
        tables: Results of [`~hf_rnn.evaluation.reliability_table`] by label, two at most; points grow with their rows.
        path: The PNG file.

    Raises:
        UserError: When matplotlib is not installed.
    """
    with _figure((4.6, 4.4), path) as (figure, _):
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle=":", label="calibrated")
        styles = ((_ORANGE, "--", "s"), (_BLUE, "-", "o"))
        for (name, table), (colour, line, marker) in zip(tables.items(), styles, strict=False):
            rows = zip(table["confidence"], table["accuracy"], table["share"], strict=True)
            confidence, accuracy, share = np.array([row for row in rows if row[2]], dtype=float).reshape(-1, 3).T
            look: dict[str, Any] = {"color": colour, "marker": marker, "clip_on": False}
            axes.plot(confidence, accuracy, linestyle=line, markersize=4.5, label=name, **look)
            axes.scatter(confidence, accuracy, s=20 + 400 * share, alpha=0.5, **look)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        _label_axes(axes, "confidence (larger points: more rows)", "accuracy")
        axes.legend(frameon=False, fontsize=9, loc="lower right")


def plot_states(panels: Sequence[tuple[str, str, np.ndarray]], tokens: Sequence[str], path: str | Path) -> None:
    """Draw gates and states over a text: the 24 units that change most as rows, by their mean; tokens as columns.

    The line is the mean of a gate, or the norm of the states as a share of the largest one, over all units.

    Args:
        panels: Title of the column, name of the row, and the values `(T, H)`, for each picture. A name that ends with
            `gate` has values from 0 to 1.
        tokens: The T tokens, as readers know them.
        path: The PNG file.

    Raises:
        UserError: For a text without tokens, or when matplotlib is not installed.
    """
    if not tokens:
        raise UserError("no figure: the text has no tokens of the model; give another text")
    columns = list(dict.fromkeys(title for title, _, _ in panels))
    rows = list(dict.fromkeys(row for _, row, _ in panels))
    width = min(max(0.36 * len(tokens), 3.4), 14.0) + 1.6
    with _figure((width * len(columns), 2.3 * len(rows) + 1.2), path, tokens) as (figure, can_show):
        grid = figure.subplots(len(rows), len(columns), squeeze=False, sharex=True)
        for column, row, values in panels:
            axes, is_gate = grid[rows.index(row)][columns.index(column)], row.endswith("gate")
            units = np.sort(values.std(axis=0).argsort(kind="stable")[-_MOST_UNITS:])
            units = units[values[:, units].mean(axis=0).argsort(kind="stable")]
            largest = 1.0 if is_gate else max(np.quantile(np.abs(values[:, units]), 0.99), 1e-9)
            look = {"cmap": "Blues", "vmin": 0, "vmax": 1} if is_gate else {"cmap": "RdBu_r", "vmin": -largest}
            place = (-0.5, len(tokens) - 0.5, 0, len(units))
            image = axes.imshow(
                values[:, units].T, aspect="auto", extent=place, origin="lower", **{"vmax": largest, **look}
            )
            norms = np.linalg.norm(values, axis=1)
            line = values.mean(axis=1) if is_gate else norms / max(1.05 * norms.max(), 1e-9)
            axes.plot(line * len(units), color=_ORANGE if is_gate else _INK, linewidth=1.6, marker="o", markersize=3)
            axes.set_ylabel(f"{row}\nunit (line: {'mean' if is_gate else 'norm'})", fontsize=9)
            axes.set_yticks(np.arange(len(units)) + 0.5, map(str, units), fontsize=5)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            figure.colorbar(image, ax=axes, pad=0.01, aspect=12).outline.set_visible(False)
        for title, axes in zip(columns, grid[0], strict=True):
            axes.set_title(title, fontsize=10)
        named = [token if can_show(token) else str(number) for number, token in enumerate(tokens)]
        every = max(1, len(tokens) // 40)
        for axes in grid[-1]:
            places = range(0, len(tokens), every)
            axes.set_xticks(places, named[::every], rotation=55, ha="right", rotation_mode="anchor", parse_math=False)
            axes.tick_params(axis="x", labelsize=10)


@contextmanager
def _figure(
    size: tuple[float, float], path: str | Path, texts: Sequence[str] = ()
) -> Iterator[tuple[Figure, Callable[[str], bool]]]:
    """Yield an empty figure of this size in inches, then write it to a PNG file.

    The fonts are those of `texts`; a second value decides whether they have all characters of one of them.
    """
    try:
        import matplotlib.style
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(f"matplotlib is not installed: {install_hint('plots')}") from error
    families, missing = _find_fonts(texts)
    if missing:
        logger.warning("the figure shows numbers in place of names: no font has the character %r", min(missing))
    with matplotlib.style.context("default"), matplotlib.rc_context({"font.family": families}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, missing.isdisjoint
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", dpi=144, bbox_inches="tight", pad_inches=0.12, metadata={"Software": None})
