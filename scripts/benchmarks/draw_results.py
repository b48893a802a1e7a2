"""Draw the table of results in the README: accuracy against speed, a point per model.

python scripts/benchmarks/draw_results.py
"""

import argparse
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLUE = "#0072B2"
GREY = "#999999"


def read_points(text: str) -> list[tuple[str, float, float]]:
    """Return name, accuracy and speed of the rows that have one number of each."""
    points = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.sub("[*`]", "", line).strip("|").split("|")]
        if len(cells) != 5 or not re.fullmatch(r"0\.\d+", cells[1]):
            continue
        if match := re.match(r"[\d.]+", cells[2]):
            points.append((cells[0].replace(",", ""), float(cells[1]), float(match[0])))
    return points


def main() -> None:
    """Write .github/results.png."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8.2, 4.6), layout="constrained")
    for name, accuracy, speed in read_points((ROOT / "README.md").read_text("utf-8")):
        colour = BLUE if name.startswith("hf-rnn") else GREY
        axes.plot(speed, accuracy, "o", color=colour, markersize=9)
        side = {"xytext": (9, 5)} if speed < 300 else {"xytext": (-4, -14), "ha": "right"}
        axes.annotate(name, (speed, accuracy), textcoords="offset points", color=colour, **side)
    axes.set(xscale="log", xlabel="speed from raw tweet to label, MiniLM-L6 in OpenVINO int8 = 1")
    axes.set(ylabel="mean accuracy on six data sets")
    axes.set_xlim(0.7, 1500)
    axes.margins(y=0.15)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(ROOT / ".github" / "results.png", dpi=110)


if __name__ == "__main__":
    main()
