# %% [markdown]
"""# Lesson 1: Text becomes numbers.

**After this lesson** you can turn texts into ids, ids into vectors, and vectors into batches that a network reads, and you know what padding costs.

**You need** Python, and [tensors of torch](https://docs.pytorch.org/tutorials/beginner/basics/tensorqs_tutorial.html).

Five lessons lead from a table of word vectors to a model that answers in a browser. Before each result there is a **Prediction** to make: write down what you expect, then run the cell. An `assert` checks what the text states. Nothing is concluded from one lucky run: whatever depends on random numbers is repeated with five seeds, and every seed is shown. Three exercises end each lesson; their solutions are in `scripts/lesson_solutions.py`. How to open a lesson, here or on Colab: `scripts/README.md`.

Letters in shapes: B batch (texts), T time (tokens), E embedding, H hidden, L layers, D directions, V vocabulary, C classes, S seeds.
"""

# %%
import os
import sys

if (
    "google.colab" in sys.modules
):  # the package is on no index yet: write the address of the repository here
    os.system(
        "git clone -q https://github.com/YOUR-NAME/hf-rnn && pip install -q './hf-rnn[plots]'"
    )
    sys.path.append("hf-rnn/scripts")

import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import lesson_helpers as course
import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer

import hf_rnn
from hf_rnn import RnnConfig, RnnModel
from hf_rnn.hub.model_folder import PRETRAINED

# other random numbers: set COURSE_SEED=1 before Python starts
SEED = course.SEED
SEEDS = course.SEEDS
workspace = Path(tempfile.mkdtemp())
torch.sparse.check_sparse_tensor_invariants.disable()  # torch warns until this is chosen

# %% [markdown]
# ## 1.1 An embedding is a table, and embedding a word is a look-up
# A network computes with numbers. So every word gets an id, and every id is a row of a table $\mathbf{W}$ with V rows and E columns, the *embedding* ([`nn.Embedding`](https://docs.pytorch.org/docs/stable/generated/torch.nn.Embedding.html)). A sentence of T words is a list of T ids; its T rows form a matrix (T, E). Two sentences of the same length form a box of numbers, a tensor (B, T, E): which text, which word of it, which number of its vector.
#
# **Prediction.** "is" occurs in both sentences. Does it have the same vector in both?

# %%
torch.manual_seed(SEED)
sentences = ["he is very nice", "she is very kind"]
vocabulary = {"<unk>": 0, "<pad>": 1}
rows = []
for sentence in sentences:
    rows.append([vocabulary.setdefault(word, len(vocabulary)) for word in sentence.split()])
V = len(vocabulary)
E = 6
embedding = nn.Embedding(V, E)
ids = torch.tensor(rows)
vectors = embedding(ids)
print("ids", ids.tolist(), tuple(ids.shape), "-> vectors", tuple(vectors.shape))
print(
    "first word of every text",
    tuple(vectors[:, 0].shape),
    " two numbers of 'kind'",
    vectors[1, 3, :2].tolist(),
)
course.draw_look_up(vocabulary, embedding.weight.detach(), vectors.detach())
assert torch.equal(vectors, embedding.weight[ids])  # it is indexing, nothing else
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
# So the shorter text is filled up with the id of `<pad>`. `padding_idx` does two things to this row of the table: it starts as zeros, and it never gets a gradient, so it stays zero.

# %%
UNK = 0
PAD = 1
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
# A row of zeros looks harmless. Lesson 2 shows what a recurrent network does when it reads one.
#
# This gradient is a whole table, although most of its rows are zeros: a batch has few words. With `sparse=True` the gradient holds the rows of these words only. `SGD`, `SparseAdam` and `Adagrad` read such gradients.
#
# **Prediction.** For which optimizer does that matter more, SGD or Adam, with a table of 3,333 x 300? Adam also keeps two running averages of each weight.

# %%
sparse = nn.Embedding(V, E, padding_idx=PAD, sparse=True)
sparse(padded).sum().backward()
rows_of_batch = sparse.weight.grad.coalesce()
print("rows", rows_of_batch.indices().tolist(), "in the table", tuple(sparse.weight.shape))
assert set(rows_of_batch.indices()[0].tolist()) == set(padded.flatten().tolist()) - {PAD}
milliseconds = {}
for optimizer, is_sparse in (
    ("SGD", False),
    ("SGD", True),
    ("Adam", False),
    ("SparseAdam", True),
    ("Adagrad", True),
):
    table = nn.Embedding(3333, 300, sparse=is_sparse)
    times = []
    steps = getattr(torch.optim, optimizer)(table.parameters(), lr=0.1)
    for _ in range(30):
        start = time.perf_counter()
        table(torch.randint(3333, (4, 20))).sum().backward()
        steps.step()
        steps.zero_grad()
        times.append(1000 * (time.perf_counter() - start))
    milliseconds[optimizer, is_sparse] = np.median(times)
    print(
        f"{optimizer:10} {'sparse' if is_sparse else 'dense':6} {np.median(times):6.2f} ms per step"
    )
assert milliseconds["Adam", False] > 2 * milliseconds["SparseAdam", True]

# %% [markdown]
# ## 1.3 How the vectors start, how to freeze them, and vectors that know something
# torch draws the table from $\mathcal{N}(0, 1)$; training then moves the rows of the words that it sees. Vectors that are good already can be *frozen*: no gradient, no change. `freeze_embedding` does this and, unlike `requires_grad`, is saved with the model.

# %%
for seed in SEEDS:
    torch.manual_seed(seed)
    drawn = nn.Embedding(2000, 100).weight.detach()
    assert abs(drawn.mean()) < 0.02 and abs(drawn.std() - 1) < 0.02
RnnModel(RnnConfig(vocab_size=2000, embedding_size=100, freeze_embedding=True)).save_pretrained(
    workspace / "frozen"
)
reloaded = RnnModel.from_pretrained(workspace / "frozen")
assert not reloaded.get_input_embeddings().weight.requires_grad
assert reloaded.layers[0].directions[0].cell.weight_hh_l0.requires_grad

# %% [markdown]
# Random vectors know nothing: all words are equally far apart. Vectors that were trained on many texts make words of similar use neighbours: "good" is near "bad", and far from "monday". The classics are **word2vec** (predict a word's neighbours), **GloVe** (factorise the table of neighbours) and **fastText** (a word's vector is the sum of those of its pieces). All three are published as files with a word and its numbers on each line. Such a file knows the words that are in it and no others; fastText can also build the vector of an unknown word, but only from its larger file of pieces. The lines enter a network as rows of the table, frozen or as a start: `hf-rnn train --vectors FILE`.

# %%
lines = ["good 0.9 0.8 0.1", "bad 0.8 0.9 0.2", "monday 0.1 0.0 0.9"]  # as in a file of GloVe
known = {word: list(map(float, numbers)) for word, *numbers in map(str.split, lines)}
frozen = nn.Embedding.from_pretrained(torch.tensor(list(known.values())), freeze=True)
start = nn.Embedding.from_pretrained(torch.tensor(list(known.values())), freeze=False)
assert not frozen.weight.requires_grad and start.weight.requires_grad
(workspace / "vectors.txt").write_text("\n".join(lines))
words = hf_rnn.train_tokenizer(["good bad monday"] * 2, min_frequency=1)
ours = hf_rnn.load_vectors(str(workspace / "vectors.txt"), words)
assert torch.equal(
    ours.matrix[words.convert_tokens_to_ids(["good", "bad", "monday"])], frozen.weight
)
print(ours.coverage)

# %% [markdown]
# The English encoder of this package has a table of such vectors. It learned them from a *teacher*, a transformer (lesson 5), and more than a million texts; the record beside its card has the number.
#
# **Prediction.** Which group is the tightest: words of praise and blame, days, or cities?

# %%
WORDS = ["good", "great", "nice", "bad", "awful", "terrible"]
WORDS += ["monday", "friday", "sunday", "london", "paris", "rome"]
record = json.loads((PRETRAINED / "english" / "pretraining.json").read_text())
print(f"the encoder learned from {record['texts']['learned']:,} texts")
word_ids = AutoTokenizer.from_pretrained(PRETRAINED / "english").convert_tokens_to_ids(WORDS)
table = (
    RnnModel.from_pretrained(PRETRAINED / "english")
    .get_input_embeddings()
    .weight[word_ids]
    .detach()
    .float()
)
similarity = nn.functional.cosine_similarity(table[:, None], table[None], dim=-1)
course.draw_similarity(WORDS, similarity)
groups = {"judgements": slice(0, 6), "days": slice(6, 9), "cities": slice(9, 12)}
inside = {}
for name, group in groups.items():
    block = similarity[group, group]
    inside[name] = (
        block[~torch.eye(len(block), dtype=torch.bool)].mean().item()
    )  # without each word with itself
across = similarity[:6, 6:].mean().item()
print(
    "mean similarity",
    {name: round(value, 2) for name, value in inside.items()},
    "across",
    round(across, 2),
)
assert min(inside.values()) > across + 0.2
assert (
    similarity[0, 3] > across + 0.2
)  # "good" and "bad": vectors know the use of a word, not whether it praises

# %% [markdown]
# ## 1.4 The data
# One tweet per line, a tab, its label. `load_tsv` returns splits whose labels are numbered alike. **Your own texts**, in any language: set `COURSE_DATA` to a folder with `train.tsv`, `dev.tsv` and `test.tsv` before Python starts, or write the folder below. Sixty training rows are enough for all cells to run; statements about scores are checked for the sample only. The splits are small: with 169 validation tweets, an accuracy of .80 has a 95 % interval of about .74 to .86. Keep this in mind when numbers differ by less.

# %%
tweets = course.Tweets(course.DATA)  # or your own folder
data = tweets.data
class_names = tweets.class_names
C = len(tweets.class_names)
for row in data["train"].select(range(5)):
    print(f"{class_names[row['label']]:9} {row['text'][:100]}")
for split, part in data.items():
    count = np.bincount(part["label"][:], minlength=C).tolist()
    print(f"{split:11} {len(part):4} texts:", dict(zip(class_names, count, strict=True)))
print(f"always the most frequent class: {tweets.guess:.3f} right in validation")

# %% [markdown]
# ## 1.5 The vocabulary
# The training tweets decide which words the network knows: those that occur twice or more, and in two tweets or more, the most frequent first. (So a name that one author repeats does not enter.) All other words share `<unk>`. `normalizer="tweet"` first replaces links, handles and numbers by `<url>`, `<user>`, `<number>`; placeholders of tweets that were prepared elsewhere, such as `<<<MENTION>>>`, remain one word.
#
# **Prediction.** What share of the different words is in the vocabulary, and what share of the running words?

# %%
texts = data["train"]["text"][:]
tokenizer = hf_rnn.train_tokenizer(texts, min_frequency=2, min_texts=2, normalizer="tweet")
V = len(tokenizer)
frequency: Counter[str] = Counter()
tweets_with: Counter[str] = Counter()
for text in texts:
    frequency.update(tweets.words(text))
    tweets_with.update(set(tweets.words(text)))
kept = [frequency[word] for word, count in tweets_with.items() if count >= 2]
print(
    f"{len(frequency)} different words, {len(kept)} of them ({len(kept) / len(frequency):.0%}) in two tweets"
)
print(
    f"V = {V}; {sum(kept) / frequency.total():.0%} of the running words are in the vocabulary; the most frequent:"
)
print(", ".join(f"{word} {count}" for word, count in frequency.most_common(15)))
assert len(kept) + 2 == V or not tweets.is_sample
assert tokenizer.convert_tokens_to_ids("qwertyuiop") == UNK
assert tweets.words("<<<MENTION>>> thanks") == ["<<<mention>>>", "thanks"]

# %% [markdown]
# ## 1.6 The order decides how much padding there is
# A batch is padded to its longest tweet. Three orders: that of the file; shuffled batches of similar lengths; all tweets sorted from the shortest to the longest, the same in every epoch, as in the tutorial that this course grew from. The shuffle depends on random numbers, so there are five of them.
#
# **Prediction.** What share of each order is padding, with four tweets per batch?


# %%
def padding_share(lengths: list[int], batches: list[list[int]]) -> float:
    """Return the share of padding in the batches."""
    places = 0
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        places += len(batch) * longest
    return 1 - sum(lengths) / places


BATCH = 4
lengths = tweets.lengths["train"]
numbers = list(range(len(lengths)))
in_file = [numbers[start : start + BATCH] for start in range(0, len(numbers), BATCH)]
shuffled = [tweets.order("train", BATCH, seed) for seed in SEEDS]
by_length = sorted(numbers, key=lengths.__getitem__)
in_order = [by_length[start : start + BATCH] for start in range(0, len(numbers), BATCH)]
assert in_order == tweets.order("train", BATCH)
shares = [padding_share(lengths, order) for order in (in_file, *shuffled, in_order)]
orders = {
    "order of the file": in_file,
    "similar lengths, shuffled": shuffled[0],
    "sorted by length": in_order,
}
titles = [
    f"{name}\n{share:.1%} padding"
    for name, share in zip(orders, (shares[0], shares[1], shares[-1]), strict=True)
]
course.draw_padding(dict(zip(titles, orders.values(), strict=True)), lengths)
print("five shuffles:", course.points(shares[1:-1]))
assert shares[0] > 5 * max(shares[1:]) or not tweets.is_sample
for order in (in_file, *shuffled, in_order):
    assert sorted(sum(order, [])) == numbers  # each tweet once

# %% [markdown]
# A batch as the network sees it: ids (B, T), the words behind them, and the *attention mask*, 1 at words and 0 at padding. The later lessons get such batches from `tweets.batch`.

# %%
ids = pad_sequence(
    [torch.tensor(tokenizer(texts[index])["input_ids"]) for index in in_file[0]], True, PAD
)
mask = (ids != PAD).long()
for row, row_mask in zip(ids, mask, strict=True):
    print(int(row_mask.sum()), *tokenizer.convert_ids_to_tokens(row))
assert mask.sum(dim=1).tolist() == lengths[: len(ids)]
batch = tweets.batch("train", in_file[0])
assert torch.equal(batch["input_ids"].cpu(), ids) and torch.equal(
    batch["attention_mask"].cpu(), mask
)

# %% [markdown]
# **Exercises**
#
# 1.1 A one-hot vector is all zeros except for a one at the id. Show that embedding a text is its matrix of one-hot vectors times the table, and say why nobody computes it this way.
#
# 1.2 Build the vocabulary in plain Python (counted words, the most frequent first, ties by alphabet) and compare it with `train_tokenizer(..., normalizer="none")`.
#
# 1.3 For `min_frequency` 1, 2, 3 and 5, print V and the share of the running words of the *validation* tweets that are `<unk>`. Which would you choose, and what would change your mind?
