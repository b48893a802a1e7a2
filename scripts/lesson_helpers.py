"""The parts that all lessons share: settings, the tweets of lesson 1 as batches, pictures."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import datasets
import matplotlib.pyplot as plt
import numpy as np
import torch
import transformers
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

import hf_rnn

datasets.disable_progress_bars()
transformers.logging.disable_progress_bar()
transformers.logging.set_verbosity_error()
HERE = Path(__file__).resolve().parent
SAMPLE = HERE.parent / "data" / "tweets"
DATA = Path(os.environ.get("COURSE_DATA", SAMPLE))  # the lessons say how to set both
SEED = int(os.environ.get("COURSE_SEED", 0))
SEEDS = range(5 * SEED, 5 * SEED + 5)
UNK = 0
PAD = 1
DROPOUT = {"word_dropout": 0.2, "embedding_dropout": 0.5, "classifier_dropout": 0.5}
BLUE = "#0072B2"
ORANGE = "#D55E00"
GREEN = "#009E73"
PURPLE = "#CC79A7"
SKY = "#56B4E9"
GREY = "#999999"
COLOURS = [BLUE, ORANGE, GREEN, PURPLE, SKY, GREY, "#000000", "#E69F00"]
plt.rcParams.update(
    {"figure.dpi": 150, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
)
plt.rcParams.update({"axes.titlesize": 10, "axes.titlelocation": "left", "legend.frameon": False})


def most(answers: Any) -> bool:
    """Return whether a statement holds for at least four of five seeds."""
    answers = [bool(answer) for answer in answers]
    return sum(answers) >= 0.8 * len(answers)


def points(values: Any) -> str:
    """Return the value of each seed and their mean, as text."""
    numbers = list(map(float, values))
    return f"{' '.join(f'{number:.3f}' for number in numbers)}   mean {np.mean(numbers):.3f}"


class Tweets:
    """Labelled texts as lesson 1 makes them: splits, class names, tokenizer and batches."""

    def __init__(self, folder: Path = DATA) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.data = hf_rnn.load_tsv(folder)
        self.is_sample = folder == SAMPLE  # statements about scores are about these tweets
        self.class_names = self.data["train"].features["label"].names
        self.texts = {split: part["text"][:] for split, part in self.data.items()}
        self.tokenizer = hf_rnn.train_tokenizer(
            self.texts["train"], 2, min_texts=2, normalizer="tweet"
        )
        encoded = hf_rnn.encode(self.data, self.tokenizer)
        self.ids: dict[str, list[Any]] = {}
        self.labels: dict[str, Any] = {}
        self.lengths: dict[str, list[int]] = {}
        for split, part in encoded.items():
            self.ids[split] = list(map(torch.tensor, part["input_ids"]))
            self.labels[split] = torch.tensor(part["labels"][:])
            self.lengths[split] = list(map(len, part["input_ids"]))
        counts = self.labels["validation"].bincount(minlength=len(self.class_names))
        # accuracy of always answering the most frequent class
        self.guess = (counts.max() / counts.sum()).item()

    def words(self, text: str) -> list[str]:
        """Return the words of a text as the tokenizer sees them."""
        backend = self.tokenizer.backend_tokenizer
        return [
            word
            for word, _ in backend.pre_tokenizer.pre_tokenize_str(
                backend.normalizer.normalize_str(text)
            )
        ]

    def order(self, split: str, size: int, seed: int | None = None) -> list[list[int]]:
        """Return batches of similar lengths, in random order with a seed, else the shortest first."""
        draw = np.random.default_rng(seed)
        lengths = self.lengths[split]
        ties: Any = np.arange(len(lengths)) if seed is None else draw.random(len(lengths))
        order = np.lexsort((ties, lengths)).tolist()
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        if seed is not None:
            draw.shuffle(batches)
        return batches

    def batch(self, split: str, indices: list[int]) -> dict[str, Any]:
        """Return ids (B, T), attention mask (B, T) and labels (B) of these texts."""
        ids = pad_sequence(
            [self.ids[split][index] for index in indices], batch_first=True, padding_value=PAD
        )
        batch = {
            "input_ids": ids,
            "attention_mask": (ids != PAD).long(),
            "labels": self.labels[split][indices],
        }
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def make_linear(self) -> Any:
        """Return the linear model of lesson 3: logistic regression on words, pairs and pieces."""
        rewrite = self.tokenizer.backend_tokenizer.normalizer.normalize_str
        words = TfidfVectorizer(
            ngram_range=(1, 2), token_pattern=r"\S+", preprocessor=rewrite, sublinear_tf=True
        )
        pieces = TfidfVectorizer(
            analyzer="char_wb", ngram_range=(2, 5), min_df=2, sublinear_tf=True
        )
        return make_pipeline(make_union(words, pieces), LogisticRegression(C=10, max_iter=1000))

    def fit(self, seed: int, rate: float, epochs: int, **settings: Any) -> Any:
        """Return a new classifier in one direction, trained by the loop of lesson 3 with AdamW."""
        torch.manual_seed(seed)
        settings |= {"embedding_size": 50, "hidden_size": 50, "bidirectional": False}
        settings |= {
            "vocab_size": len(self.tokenizer),
            "id2label": dict(enumerate(self.class_names)),
        }
        model = hf_rnn.RnnForSequenceClassification(hf_rnn.RnnConfig(**settings)).to(self.device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
        for epoch in range(epochs):
            model.train()
            for indices in self.order("train", 32, 100 * seed + epoch):
                model(**self.batch("train", indices)).loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        return model

    def predict(
        self, model: Any, split: str = "validation", read_padding: bool = False, order: Any = None
    ) -> Any:
        """Return the logits (N, C) of a split; with `read_padding` as plain nn.RNN, with padding."""
        model.eval().to(self.device)
        logits = torch.empty(len(self.ids[split]), len(self.class_names))
        with torch.no_grad():
            for indices in order or self.order(split, 64):
                batch = self.batch(split, indices)
                mask = batch["attention_mask"] | read_padding
                logits[indices] = model(batch["input_ids"], mask).logits.cpu()
        return logits

    def score(self, logits: Any, split: str = "validation") -> tuple[float, float]:
        """Return the loss and the accuracy of logits (N, C)."""
        labels = self.labels[split]
        return cross_entropy(logits, labels).item(), (
            logits.argmax(-1) == labels
        ).float().mean().item()


def learn(model: Any, make_batch: Any, steps: int, rate: float) -> tuple[float, int]:
    """Train a classifier on fresh batches (ids, labels) to an accuracy of .95 over twenty steps.

    Return this accuracy, and the number of steps.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    accuracies = [0.0] * 20
    while len(accuracies) < 20 + steps and np.mean(accuracies[-20:]) < 0.95:
        ids, labels = make_batch()
        result = model(ids, labels=labels)
        result.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        accuracies.append((result.logits.argmax(-1) == labels).float().mean().item())
    return float(np.mean(accuracies[-20:])), len(accuracies) - 20


def with_weights_of(plain: Any, cell_type: Any, embedding: Any) -> hf_rnn.RnnModel:
    """Return an RnnModel with the weights of a layer of torch and of an embedding."""
    sizes: dict[str, Any] = {
        "vocab_size": embedding.num_embeddings,
        "embedding_size": plain.input_size,
    }
    sizes |= {
        "hidden_size": plain.hidden_size,
        "num_hidden_layers": plain.num_layers,
        "pad_token_id": PAD,
    }
    config = hf_rnn.RnnConfig(cell_type=cell_type, bidirectional=plain.bidirectional, **sizes)
    model = hf_rnn.RnnModel(config).eval()
    model.embedding.load_state_dict(embedding.state_dict())
    for number, layer in enumerate(model.layers):
        for direction, ending in zip(
            layer.directions, (f"_l{number}", f"_l{number}_reverse"), strict=False
        ):
            weights = {
                name: value for name, value in plain.state_dict().items() if name.endswith(ending)
            }
            renamed = {name.removesuffix(ending) + "_l0": value for name, value in weights.items()}
            direction.cell.load_state_dict(renamed)
    return model


def show(name: str) -> None:
    """Show the current figure below the cell; a script saves it as a file."""
    plt.tight_layout()
    if "ipykernel" in sys.modules:
        plt.show()
    else:
        folder = Path("out/lessons")
        folder.mkdir(parents=True, exist_ok=True)
        plt.savefig(folder / f"{name}.png")
        plt.close()


def draw_look_up(vocabulary: dict[str, int], table: Any, vectors: Any) -> None:
    """Draw the table (V, E), and the vectors (B, T, E) of texts as a box of sheets."""
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    colours: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -2.5, "vmax": 2.5, "aspect": "auto"}
    left.imshow(table, **colours)
    left.set(
        title=f"the table (V, E) = {tuple(table.shape)}",
        xticks=range(table.shape[1]),
        xlabel="column",
    )
    left.set_yticks(
        range(len(vocabulary)), [f"{number}  {word}" for word, number in vocabulary.items()]
    )
    texts, words, numbers = vectors.shape
    for text in reversed(range(texts)):
        x = 1.3 * text
        y = 1.1 * text
        right.imshow(vectors[text], extent=(x, x + numbers, y, y + words), zorder=-text, **colours)
        right.add_patch(
            plt.Rectangle((x, y), numbers, words, fill=False, linewidth=1.5, zorder=-text + 0.1)
        )
        right.text(x + numbers + 0.15, y + 0.5, f"text {text}", va="center")
    right.text(numbers / 2, -0.6, f"E = {numbers} numbers", ha="center")
    right.text(-0.5, words / 2, f"T = {words} words", va="center", ha="center", rotation=90)
    right.text(-0.7, words + 0.5, f"B = {texts} texts", rotation=38)
    right.set(
        xlim=(-1, numbers + 3.5),
        ylim=(-1, words + 3.5),
        title=f"the texts (B, T, E) = {tuple(vectors.shape)}",
    )
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
        some = order[:: max(1, len(order) // 15)][:15]
        longest = []
        for batch in some:
            longest += len(batch) * [max(lengths[index] for index in batch)]
        rows = range(len(longest))
        axis.barh(rows, longest, 1, color=ORANGE, label="padding")
        axis.barh(rows, [lengths[index] for index in sum(some, [])], 1, color=SKY, label="token")
        axis.set(title=name, xlabel="token")
    axes[0].set(ylabel="tweets of some batches", ylim=(len(longest), 0))
    axes[-1].legend(fontsize=8, loc="upper right")
    show("2_padding")


def draw_lines(name: str, lines: dict[str, Any], x: str, y: str, log: bool = False) -> None:
    """Draw a line per series."""
    _, axis = plt.subplots(figsize=(6.5, 3.2))
    for number, (series, values) in enumerate(lines.items()):
        axis.plot(values, color=COLOURS[number % len(COLOURS)], label=series)
    axis.set(xlabel=x, ylabel=y)
    if log:
        axis.set(yscale="log", ylim=(1e-12, 10))
    else:
        axis.set_ylim(0)
    if len(lines) > 1:
        axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    show(name)


def draw_points(
    name: str, groups: dict[str, Any], y: str, levels: dict[str, float] | None = None
) -> None:
    """Draw a point per seed and a line at their mean, a column per group."""
    _, axis = plt.subplots(figsize=(max(5.0, 1.15 * len(groups)), 3))
    for column, (colour, values) in enumerate(zip(COLOURS * 4, groups.values(), strict=False)):
        values = np.asarray([float(value) for value in values])
        axis.plot(
            column + np.linspace(-0.18, 0.18, len(values)),
            values,
            "o",
            color=colour,
            markersize=5,
            alpha=0.75,
        )
        axis.plot([column - 0.3, column + 0.3], 2 * [values.mean()], color=colour, linewidth=1.5)
    for text, level in (levels or {}).items():
        axis.axhline(level, color=GREY, linewidth=1, linestyle="--", zorder=0)
        axis.text(len(groups) - 0.4, level, text, fontsize=7, va="center")
    axis.set_xticks(range(len(groups)), [group.replace(", ", "\n") for group in groups], fontsize=8)
    axis.set(ylabel=y, ylim=(-0.03 * axis.get_ylim()[1], None), xlim=(-0.5, len(groups) - 0.45))
    show(name)


def draw_memory(accuracies: dict[tuple[float, int], list[float]]) -> None:
    """Draw the accuracy of runs by what the forget gate leaves of the first token."""

    def share_left(run: tuple[float, int]) -> float:
        bias, distance = run
        return (1 / (1 + np.exp(-bias))) ** distance

    _, axis = plt.subplots(figsize=(8, 3.2))
    ordered = sorted(accuracies, key=share_left)
    distances = sorted({distance for _, distance in ordered})
    for number, distance in enumerate(distances):
        axis.plot([], [], "o", color=COLOURS[number], label=f"distance {distance}")
    titles: list[str] = []
    for column, run in enumerate(ordered):
        bias, distance = run
        values = accuracies[run]
        places = column + np.linspace(-0.25, 0.25, len(values))
        colour = COLOURS[distances.index(distance)]
        axis.plot(places, values, "o", color=colour, markersize=5, alpha=0.75)
        titles.append(f"{share_left(run):.0e}\nbias {bias}")
    axis.axhline(0.25, color=GREY, linewidth=1, linestyle="--", zorder=0)
    axis.set_xticks(range(len(ordered)), titles, fontsize=8)
    axis.set(ylim=(0, 1.05), xlabel="share of the first token that is left", ylabel="accuracy")
    axis.legend(fontsize=8, loc="upper left")
    show("4_memory")


def draw_gates(name: str, words: list[str], gates: dict[str, Any]) -> None:
    """Draw each gate (T, units) as a picture with a column per word."""
    figure, axes = plt.subplots(len(gates), 1, figsize=(7, 3.6), sharex=True)
    for axis, (title, gate) in zip(axes, gates.items(), strict=True):
        picture = axis.imshow(gate.T, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        axis.set(title=title, ylabel="unit", yticks=[])
        figure.colorbar(picture, ax=axis)
    axes[-1].set_xticks(range(len(words)), words, rotation=40, ha="right")
    show(name)


def draw_diagram(name: str) -> None:
    """Draw a diagram: places (x, y, text) by name, and arrows between them; "a-b" has no head.

    A text that starts with $ is a vector, one sign an operation on each element, anything else a
    layer.
    """
    diagram = json.loads((HERE / "lesson_diagrams.json").read_text("utf-8"))[name]
    places = diagram["places"]
    x, y, _ = zip(*places.values(), strict=True)
    _, axis = plt.subplots(figsize=(9, 0.75 * (max(y) - min(y)) + 0.8))
    axis.set(xlim=(min(x) - 1, max(x) + 1), ylim=(min(y) - 0.6, max(y) + 0.6))
    axis.axis("off")
    labels = {key: _draw_place(axis, *place) for key, place in places.items()}
    for arrow in diagram["arrows"].split():
        start, end = arrow.replace(">", "-").split("-")
        shape = {"arrowstyle": "-|>" if ">" in arrow else "-", "color": "#444444"}
        shape |= _end_arrow("A", labels[start]) | _end_arrow("B", labels[end])
        axis.annotate("", places[end][:2], places[start][:2], arrowprops=shape)
    show(f"diagram_{name}")


def _draw_place(axis: Any, left: float, height: float, text: str) -> Any:
    """Draw the text of a place, in a circle or a box where it is not a vector."""
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 10, "zorder": 3}
    if text and not text.startswith("$"):
        is_sign = len(text) <= 2
        style["bbox"] = {
            "boxstyle": "circle" if is_sign else "round",
            "facecolor": "white",
            "edgecolor": ORANGE if is_sign else BLUE,
        }
    return axis.text(left, height, text, **style)


def _end_arrow(side: str, label: Any) -> dict[str, Any]:
    """Return where an arrow ends: at the box of a text, or at some distance from a text."""
    box = label.get_bbox_patch()
    if box:
        return {f"patch{side}": box, f"shrink{side}": 0}
    text = label.get_text()
    if not text:
        return {f"shrink{side}": 0}
    return {f"shrink{side}": 22 if "," in text else 14}
