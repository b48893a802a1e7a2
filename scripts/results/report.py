"""Report of reproduce_results.py: intervals, a paired bootstrap, a Markdown table and a figure."""

import importlib.util
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

RESAMPLES = 2000


def missing() -> list[str]:
    """Return the packages that the table and the figure need and that are not installed."""
    return [name for name in ("matplotlib", "scipy") if importlib.util.find_spec(name) is None]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half of the 95 % interval (Student's t); the latter is NaN for one value."""
    if len(values) < 2:
        return statistics.mean(values), math.nan
    from scipy.stats import t

    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), float(half)


def bootstrap(
    first: np.ndarray, second: np.ndarray, labels: np.ndarray, classes: int, seed: int = 0
) -> tuple[float, float, float]:
    """Return the difference in macro-recall of two models, and its 2.5 and 97.5 % quantiles over resampled rows.

    Args:
        first: Predictions `(S, N)` of S seeds; recalls are averaged over seeds.
        second: Predictions of the other model; its number of seeds may differ.
        labels: `(N,)`.
        classes: Number of classes.
        seed: Seed of the resampling.
    """
    generator = np.random.default_rng(seed)
    rows = len(labels)
    counts = np.stack([np.bincount(generator.integers(0, rows, rows), minlength=rows) for _ in range(RESAMPLES)])
    weights = np.concatenate([np.ones((1, rows), dtype=counts.dtype), counts]).astype(np.float64)  # (1 + R, N)
    in_class = (labels[:, None] == np.arange(classes)).astype(np.float64)  # (N, C)
    total = np.maximum(weights @ in_class, 1)

    def recall(predictions: np.ndarray) -> np.ndarray:
        right = (predictions == labels).mean(axis=0)  # (N,): mean over seeds
        return ((weights @ (in_class * right[:, None])) / total).mean(axis=1)

    differences = recall(first) - recall(second)
    low, high = np.quantile(differences[1:], (0.025, 0.975))
    return float(differences[0]), float(low), float(high)


def make_table(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Return the rows in their order, with the difference of each from the row above it."""
    by_class = ", ".join(name.replace("|", r"\|") for name in names)
    head = ["model", "accuracy", "macro-recall", "macro-F1", f"F1 of {by_class}", "training, s", "parameters", "bytes"]
    head += ["speed, TF-IDF words = 1", "texts/s", "macro-recall against the row above"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in results:
        by_class = ", ".join(f"{statistics.mean(values):.3f}" for values in row["f1_by_class"].values())
        above = row.get("above")
        cells = [
            row["name"],
            *(_with_interval(row[name]) for name in ("accuracy", "macro_recall", "macro_f1")),
            by_class,
            "" if row["seconds"] is None else f"{row['seconds']:.{0 if row['seconds'] >= 10 else 1}f}",
            f"{row['parameters']:,}",
            f"{row['bytes']:,}",
            _ratio(row["speed"]),
            _ratio(row.get("texts_per_second")),
            "" if above is None else f"{above[0]:+.3f} ({above[1]:+.3f} to {above[2]:+.3f})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _with_interval(values: Sequence[float]) -> str:
    mean, half = interval(values)
    return f"{mean:.3f}" if math.isnan(half) else f"{mean:.3f} ± {half:.3f}"


def _ratio(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


TFIDF = "TF-IDF over words with logistic regression"


def draw(
    results: Sequence[Mapping[str, Any]],
    title: str,
    path: Path,
    score: str = "macro_recall",
    label: str = "macro-recall",
    unit: str = TFIDF,
) -> None:
    """Draw a score against speed, each model a point with its name."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    chart, axes = pyplot.subplots(figsize=(8.6, 5.2), layout="constrained")
    drawn = [row for row in results if row["name"] != "majority class" and row["speed"] is not None]
    drawn.sort(key=lambda row: row["speed"])
    points = [(row, row["speed"], *interval(row[score])) for row in drawn]
    for row, speed, mean, half in points:
        axes.errorbar(
            speed,
            mean,
            yerr=None if math.isnan(half) else half,
            marker="o" if row["ours"] else "s",
            color="#0072b2" if row["ours"] else "#999999",
            markersize=7,
            capsize=3,
            linestyle="none",
        )
    obstacles = []
    for row in results:
        if row["name"] == "majority class":
            level = row[score][0]
            obstacles.append(axes.axhline(level, color="#222222", linestyle=":", linewidth=0.8))
            place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
            place |= {"xytext": (6, 4), "fontsize": 8, "color": "#666666"}
            obstacles.append(axes.annotate("majority class", (0, level), **place))
    axes.set_xscale("log")
    axes.set_xlabel(f"speed from raw text to label on one core, {unit} = 1")
    if rates := [row["texts_per_second"] / row["speed"] for row in drawn if row.get("texts_per_second")]:
        rate = statistics.median(rates)
        above = axes.secondary_xaxis("top", functions=(lambda speed: speed * rate, lambda texts: texts / rate))
        above.set_xlabel("texts per second on the machine that made this figure")
    axes.set_ylabel(label)
    axes.set_title(title, fontsize=10, loc="left")
    axes.margins(x=0.2, y=0.08)
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    _write_names(axes, points, obstacles)
    chart.savefig(path, dpi=130, metadata={"Software": None})  # the same figure is the same file
    pyplot.close(chart)


def _write_names(
    axes: Any, points: Sequence[tuple[Mapping[str, Any], float, float, float]], obstacles: Sequence[Any]
) -> None:
    """Write the name of each point beside it, in the first place that is free."""
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    axes.figure.canvas.draw()  # positions on the page are known after this
    renderer = axes.figure.canvas.get_renderer()
    taken = [other.get_window_extent(renderer).padded(1) for other in obstacles]
    for _, speed, mean, half in points:
        half = 0.0 if math.isnan(half) else half
        (x, low), (_, high) = axes.transData.transform([(speed, mean - half), (speed, mean + half)])
        y = (low + high) / 2
        taken += [Bbox.from_extents(x - 6, low, x + 6, high), Bbox.from_extents(x - 9, y - 9, x + 9, y + 9)]
    directions = [(1, 0), (-1, 0), (0, -1), (0, 1), (1, 0.7), (1, -0.7), (-1, 0.7), (-1, -0.7)]
    tried = list(itertools.product((8, 16, 26, 38, 52), directions))
    for row, speed, mean, _ in points:
        for number, (distance, (across, up)) in enumerate(tried, start=1):
            name = axes.annotate(
                row["name"].replace("`", ""),
                (speed, mean),
                xytext=(across * distance, up * distance),
                textcoords="offset points",
                ha={0: "center", 1: "left", -1: "right"}[across],
                va="center" if across else ("top" if up < 0 else "bottom"),
                fontsize=8,
                color="#222222" if row["ours"] else "#666666",
                arrowprops={"arrowstyle": "-", "color": "#bbbbbb", "linewidth": 0.6} if distance > 8 else None,
            )
            name.update_positions(renderer)
            box = Text.get_window_extent(name, renderer)
            inside = axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)
            if (inside and not any(box.overlaps(other) for other in taken)) or number == len(tried):
                taken.append(box)
                break
            name.remove()
