"""The pictures of the course, and the folder of its tweets: what the notebook uses and does not explain."""

import math
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

HERE = Path(__file__).resolve().parent  # scripts in a clone, share/hf_rnn beside an installed package
DATA = next(folder for folder in (HERE / "tweets", HERE.parent / "data" / "tweets") if folder.is_dir())
BLUE, ORANGE, GREEN, PURPLE, SKY, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#999999"
COLOURS = [BLUE, ORANGE, GREEN, PURPLE, SKY, GREY, "#000000", "#E69F00"]
plt.rcParams.update({"figure.dpi": 80, "font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
plt.rcParams.update({"axes.titlesize": 11, "axes.titlelocation": "left", "legend.frameon": False})


def show(name: str) -> None:
    """Show the current figure below the cell; a script saves it as a file."""
    plt.tight_layout()
    if "ipykernel" in sys.modules:
        plt.show()
    else:
        folder = Path("out/tutorial")
        folder.mkdir(parents=True, exist_ok=True)
        plt.savefig(folder / f"{name}.png")
        plt.close()


def draw_look_up(vocabulary: dict[str, int], table: Any, vectors: Any) -> None:
    """Draw the table (V, E), and the vectors (B, T, E) of texts as a box of sheets."""
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    colours: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -2.5, "vmax": 2.5, "aspect": "auto"}
    left.imshow(table, **colours)
    left.set(title=f"the table (V, E) = {tuple(table.shape)}", xticks=range(table.shape[1]), xlabel="column")
    left.set_yticks(range(len(vocabulary)), [f"{number}  {word}" for word, number in vocabulary.items()])
    texts, words, numbers = vectors.shape
    for text in reversed(range(texts)):
        x, y = 1.3 * text, 1.1 * text
        right.imshow(vectors[text], extent=(x, x + numbers, y, y + words), zorder=-text, **colours)
        right.add_patch(plt.Rectangle((x, y), numbers, words, fill=False, linewidth=1.5, zorder=-text + 0.1))
        right.text(x + numbers + 0.15, y + 0.5, f"text {text}", va="center")
    right.text(numbers / 2, -0.6, f"E = {numbers} numbers", ha="center")
    right.text(-0.5, words / 2, f"T = {words} words", va="center", ha="center", rotation=90)
    right.text(-0.7, words + 0.5, f"B = {texts} texts", rotation=38)
    right.set(xlim=(-1, numbers + 3.5), ylim=(-1, words + 3.5), title=f"the texts (B, T, E) = {tuple(vectors.shape)}")
    right.axis("off")
    show("1_look_up")


def draw_similarity(words: list[str], similarity: Any) -> None:
    """Draw how similar the vectors of words are."""
    plt.figure(figsize=(4.8, 3.9))
    plt.imshow(similarity, cmap="RdBu_r", vmin=-1, vmax=1)
    plt.xticks(range(len(words)), words, rotation=90)
    plt.yticks(range(len(words)), words)
    plt.colorbar(label="cosine similarity")
    show("1_similarity")


def draw_padding(orders: dict[str, list], lengths: list[int]) -> None:
    """Draw tokens and padding of 15 batches for each order of the tweets."""
    _, axes = plt.subplots(1, len(orders), figsize=(10, 3.4), sharex=True, sharey=True)
    for axis, (name, order) in zip(axes, orders.items(), strict=True):
        some = order[:: len(order) // 15][:15]
        longest = []
        for batch in some:
            longest += len(batch) * [max(lengths[index] for index in batch)]
        rows = range(len(longest))
        axis.barh(rows, longest, 1, color=ORANGE, label="padding")
        axis.barh(rows, [lengths[index] for index in sum(some, [])], 1, color=SKY, label="token")
        axis.set(title=name, xlabel="token")
    axes[0].set(ylabel="tweets of 15 batches", ylim=(len(longest), 0))
    axes[-1].legend(fontsize=8, loc="upper right")
    show("2_padding")


def draw_lines(
    name: str, lines: dict[str, Any], x: str, y: str, level: tuple[float, str] | None = None, log: bool = False
) -> None:
    """Draw a line per series, and a grey level with its meaning."""
    _, axis = plt.subplots(figsize=(6.5, 3.2))
    for number, (series, values) in enumerate(lines.items()):
        axis.plot(values, color=COLOURS[number % len(COLOURS)], label=series)
    if level:
        axis.axhline(level[0], color=GREY, linewidth=1)
        axis.annotate(
            level[1], (1, level[0]), (0, -14), ("axes fraction", "data"), "offset points", ha="right", fontsize=8
        )
    axis.set(xlabel=x, ylabel=y)
    if log:
        axis.set_yscale("log")
        axis.set_ylim(1e-12, 10)
    else:
        axis.set_ylim(0)
    if len(lines) > 1:
        axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    show(name)


def draw_curves(name: str, histories: dict[str, dict[str, list]], guess: float) -> None:
    """Draw loss and accuracy per epoch, a row per network, and the epoch of the lowest validation loss."""
    _, axes = plt.subplots(len(histories), 2, figsize=(9, 2.5 * len(histories)), squeeze=False)
    for row, (title, history) in zip(axes, histories.items(), strict=True):
        epochs, best = range(1, len(history["loss"]) + 1), int(np.argmin(history["loss"])) + 1
        for axis, quantity in zip(row, ("loss", "accuracy"), strict=True):
            axis.plot(epochs, history[f"train {quantity}"], "o--", markersize=3, color=BLUE, label="train")
            axis.plot(epochs, history[quantity], "s-", markersize=3, color=ORANGE, label="validation")
            axis.axvline(best, color=GREEN, linewidth=1, label="lowest validation loss")
            axis.set_ylabel(quantity)
        row[0].set(title=title, ylim=0)
        row[1].axhline(guess, color=GREY, linewidth=1)
        row[1].text(len(epochs), guess - 0.01, "most frequent class", fontsize=7, ha="right", va="top")
        row[1].set_ylim(0.3, 1.02)
    axes[0, 0].legend(fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    show(name)


def draw_gates(words: list[str], gates: dict[str, Any]) -> None:
    """Draw each gate (T, units) as a picture with a column per word."""
    figure, axes = plt.subplots(len(gates), 1, figsize=(8, 4.6), sharex=True)
    for axis, (name, gate) in zip(axes, gates.items(), strict=True):
        picture = axis.imshow(gate.T, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        axis.set(title=name, ylabel="unit", yticks=[])
        figure.colorbar(picture, ax=axis)
    axes[-1].set_xticks(range(len(words)), words, rotation=40, ha="right")
    show("5_gates")


def draw_story(curves: dict[str, list[float]], guess: float, linear: float) -> None:
    """Draw the validation accuracy per epoch of each step of a repair, with two models to compare with."""
    _, axis = plt.subplots(figsize=(6.5, 3.4))
    for colour, (title, values) in zip(COLOURS, curves.items(), strict=False):
        axis.plot(range(1, len(values) + 1), values, "o-", markersize=3, color=colour, label=title)
    for level, name in ((guess, "most frequent class"), (linear, "linear model")):
        axis.axhline(level, color=GREY, linewidth=1, linestyle="--")
        axis.text(1, level + 0.01, name, fontsize=8)
    axis.set(xlabel="epoch", ylabel="validation accuracy", ylim=(0, 1))
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    show("4_story")


def draw_cells(scores: dict[tuple[str, float], list[float]], guess: float, linear: float) -> None:
    """Draw the mean score of each cell and rate with its 95 % interval (Student's t for three runs)."""
    cells, rates = (list(dict.fromkeys(values)) for values in zip(*scores, strict=True))
    plt.figure(figsize=(6.5, 3.2))
    for shift, cell in enumerate(cells):
        runs = np.array([scores[cell, rate] for rate in rates])
        bars = 4.303 * runs.std(axis=1, ddof=1) / math.sqrt(runs.shape[1])
        x = np.arange(len(rates)) + 0.12 * (shift - 1.5)
        plt.errorbar(x, runs.mean(axis=1), bars, fmt="o", capsize=3, color=COLOURS[shift], label=cell)
    for level, name in ((guess, "most frequent class"), (linear, "linear model")):
        plt.axhline(level, color=GREY, linewidth=1, linestyle="--")
        plt.text(len(rates) - 0.9, level, name, fontsize=8, va="bottom")
    plt.xlim(-0.5, len(rates) - 0.2)
    plt.xticks(range(len(rates)), [f"rate {rate}" for rate in rates])
    plt.ylabel("validation accuracy")
    plt.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.18))
    show("5_cells")


def draw_attention(texts: list[list[str]], weights: Any, names: list[str]) -> None:
    """Draw the weight of each word of some texts, with a name per text."""
    _, axis = plt.subplots(figsize=(13, 0.45 * len(texts) + 0.6))
    axis.imshow(weights, cmap="Oranges", vmin=0, aspect="auto")
    for row, words in enumerate(texts):
        for place, word in enumerate(words):
            colour = "white" if weights[row, place] > weights.max() / 2 else "black"
            axis.text(place, row, word, ha="center", va="center", fontsize=7, color=colour)
    axis.set_yticks(range(len(texts)), names)
    axis.set_xticks([])
    show("6_attention")


# A diagram: places (x, y, text) by name, and the arrows between them; "a-b" has no head. A text that starts with $ is
# a vector, one sign an operation on each element, anything else a layer.
DIAGRAMS: dict[str, tuple[dict[str, tuple[float, float, str]], str]] = {
    "lstm": (
        {
            "c0": (0, 4, "$c_{t-1}$"), "keep": (2, 4, "×"), "add": (5, 4, "+"), "c1": (10, 4, "$c_t$"),
            "f": (2, 2, "f: keep\nσ"), "i": (4, 2, "i: write\nσ"), "g": (6, 2, "g: new\ntanh"),
            "o": (8, 2, "o: show\nσ"), "new": (5, 3, "×"), "tanh": (10, 3, "tanh"), "shown": (10, 2, "×"),
            "h1": (11.5, 2, "$h_t$"), "in": (0, 0.6, "$x_t, h_{t-1}$"), "1": (2, 0.6, ""), "2": (4, 0.6, ""),
            "3": (6, 0.6, ""), "4": (8, 0.6, ""),
        },
        "c0>keep keep>add add>c1 f>keep i>new g>new new>add c1>tanh tanh>shown o>shown shown>h1 "
        "in-1 1-2 2-3 3-4 1>f 2>i 3>g 4>o",
    ),
    "gru": (
        {
            "h0": (0, 4, "$h_{t-1}$"), "keep": (2, 4, "×"), "add": (8, 4, "+"), "h1": (10, 4, "$h_t$"),
            "z": (2, 1.2, "z: keep\nσ"), "split": (2, 2.6, ""), "not": (4, 2.6, "1−"), "new": (8, 2.6, "×"),
            "r": (4, 1.2, "r: reset\nσ"), "reset": (6, 1.2, "×"), "n": (8, 1.2, "n: new\ntanh"),
            "in": (0, 0, "$x_t, h_{t-1}$"), "1": (2, 0, ""), "2": (4, 0, ""), "3": (6, 0, ""), "4": (8, 0, ""),
            "old": (6.6, 0.4, "$U_n h_{t-1}$"), "word": (8.6, 0.4, "$W_n x_t$"),
        },
        "h0>keep keep>add add>h1 z-split split>keep split>not not>new new>add r>reset reset>n n>new "
        "in-1 1-2 2-3 3-4 1>z 2>r 3>reset 4>n",
    ),
    "block": (
        {
            "x": (0, 3, "$x$"), "0": (1, 3, ""), "norm": (1, 1.5, "norm"), "conv": (3, 1.5, "conv\n3 words"),
            "u": (4.4, 1.5, "$u$"), "fw": (6.2, 2.3, "minGRU →"), "bw": (6.2, 1.5, "minGRU ←"),
            "gate": (6.2, 0.7, "gate: SiLU"), "times": (8, 1.5, "×"), "out": (9.2, 1.5, "out $W_o$"),
            "add": (9.2, 3, "+"), "1": (10.4, 3, ""), "norm2": (10.4, 1.5, "norm"), "mlp": (12.2, 1.5, "MLP"),
            "add2": (12.2, 3, "+"), "y": (13.6, 3, "$x$"),
        },
        "x-0 0>add 0>norm norm>conv conv>u u>fw u>bw u>gate fw>times bw>times gate>times times>out out>add add-1 "
        "1>add2 1>norm2 norm2>mlp mlp>add2 add2>y",
    ),
}  # fmt: skip
for kind, layers, directions in (
    ("unrolled", 1, 1),
    ("two_layers", 2, 1),
    ("two_directions", 1, 2),
):  # over four words
    places: dict[str, tuple[float, float, str]] = {}
    arrows, top = "", 1.2 * (layers + directions)
    label = {"unrolled": "cell", "two_layers": "cell {}", "two_directions": "cell →"}[kind]
    for t, word in enumerate(["he", "is", "very", "nice"], 1):
        places |= {f"x{t}": (3 * t, 0, f"$x_{t}$: {word}"), f"h{t}": (3 * t, top, f"$h_{t}$")}
        below, left = f"x{t}", 3 * t - 0.6 * (directions - 1)
        for layer in range(layers):
            places.setdefault(f"{layer}0", (left - 1.6, 1.2 * (layer + 1), "$h_0$"))
            places[f"{layer}{t}"] = (left, 1.2 * (layer + 1), label.format(layer + 1))
            arrows += f"{below}>{layer}{t} {layer}{t - 1}>{layer}{t} "
            below = f"{layer}{t}"
        arrows += f"{below}>h{t} "
        if directions == 2:
            places[f"b{t}"] = (3 * t + 0.6, 2.4, "cell ←")
            arrows += f"x{t}>b{t} b{t}>h{t} b{t + 1}>b{t} "
    if directions == 2:
        places["b5"] = (14.2, 2.4, "$h_0$")
    DIAGRAMS[kind] = places, arrows


def draw_diagram(name: str) -> None:
    """Draw boxes and arrows."""
    places, arrows = DIAGRAMS[name]
    x, y, _ = zip(*places.values(), strict=True)
    _, axis = plt.subplots(figsize=(9, 0.75 * (max(y) - min(y)) + 0.8))
    axis.set(xlim=(min(x) - 1, max(x) + 1), ylim=(min(y) - 0.6, max(y) + 0.6))
    axis.axis("off")
    labels = {}
    for key, (left, height, text) in places.items():
        edge = ORANGE if len(text) <= 2 else BLUE
        box = {"boxstyle": "circle" if len(text) <= 2 else "round", "facecolor": "white", "edgecolor": edge}
        style = {} if text.startswith("$") or not text else {"bbox": box}
        labels[key] = axis.text(left, height, text, ha="center", va="center", fontsize=10, zorder=3, **style)
    for arrow in arrows.split():
        head = "-|>" if ">" in arrow else "-"
        start, end = arrow.replace(">", "-").split("-")
        shape: dict[str, Any] = {"arrowstyle": head, "color": "#444444"}
        for side, key in (("A", start), ("B", end)):
            boxed = labels[key].get_bbox_patch()
            shape[f"shrink{side}"] = (22 if "," in places[key][2] else 14) if places[key][2] and not boxed else 0
            if boxed:
                shape[f"patch{side}"] = boxed
        axis.annotate("", places[end][:2], places[start][:2], arrowprops=shape)
    show(f"diagram_{name}")
