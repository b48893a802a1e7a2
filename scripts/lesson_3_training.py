# %% [markdown]
"""# Lesson 3: Training, and what fails.

**After this lesson** you can write the training loop, save and resume it, recognise a run that learns nothing, test what causes it, and stop a network before it learns its tweets by heart.

**You need** [lesson 2](lesson_2_network_padding_loss.ipynb). Letters in shapes: S seeds, B batch, T time, E embedding, H hidden, V vocabulary, C classes.
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

import math
import tempfile
from pathlib import Path
from typing import Any

import lesson_helpers as course
import numpy as np
import torch
from torch import nn

from hf_rnn import RnnConfig, RnnForSequenceClassification

# other random numbers: set COURSE_SEED=1 before Python starts
SEED = course.SEED
SEEDS = course.SEEDS
tweets = course.Tweets(course.DATA)  # or a folder of your own, as in lesson 1
C = len(tweets.class_names)
V = len(tweets.tokenizer)
E = 100
H = 50
PAD = course.PAD
labels = tweets.labels
workspace = Path(tempfile.mkdtemp())
print("on", tweets.device)

# %% [markdown]
# ## 3.1 A linear model first
# Before any network, the simplest good model (`make_linear` in `lesson_helpers.py`): count words, pairs of words and pieces of words (*TF-IDF* makes rare ones weigh more), and draw one line per class (*logistic regression*). It knows which two words are neighbours, and nothing else of their order. It learns in a second. A network that stays below its score is not worth the electricity.

# %%
linear = tweets.make_linear().fit(tweets.texts["train"], labels["train"])
LINEAR = linear.score(tweets.texts["validation"], labels["validation"])
LEVELS = {"most frequent\nclass": tweets.guess, "linear model": LINEAR}
print(
    f"linear model: validation accuracy {LINEAR:.3f}; always the most frequent class {tweets.guess:.3f}"
)
assert tweets.guess < LINEAR or not tweets.is_sample

# %% [markdown]
# ## 3.2 The loop, and a checkpoint after each epoch
# Batch by batch: predict, take the loss, differentiate, move each weight against its gradient, forget the gradients. How far a weight moves is the *learning rate*. Numbers like it, which you choose and training does not, are *hyperparameters*: the width of the states, the size of a batch, the number of epochs. They are compared on the validation tweets, which the network never trains on. `train()` switches dropout on, `eval()` off.


# %%
def train_epoch(
    model: Any, optimizer: Any, batches: list[list[int]], clip: float = math.inf
) -> None:
    """Train on each batch once."""
    model.train().to(tweets.device)
    for indices in batches:
        model(**tweets.batch("train", indices)).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)  # 3.5 explains it
        optimizer.step()
        optimizer.zero_grad()


SETTINGS = {
    "cell_type": "rnn_tanh", "vocab_size": V, "embedding_size": E, "hidden_size": H, "num_hidden_layers": 2,
    "bidirectional": False, "pooling": "last", "classifier_activation": "relu",
    "id2label": dict(enumerate(tweets.class_names)),
}  # fmt: skip


def new_network(seed: int, **changes: Any) -> Any:
    """Return the classifier of lesson 2 with new random weights."""
    torch.manual_seed(seed)
    return RnnForSequenceClassification(RnnConfig(**{**SETTINGS, **changes})).to(tweets.device)


# %% [markdown]
# A run that may be stopped saves a *checkpoint* after each epoch: the weights and the state of the optimizer (its running averages).
#
# **Prediction.** Two epochs in one go, and one epoch, saved and loaded for the second: are the weights equal in the end?

# %%
epochs = [tweets.order("train", 16, seed) for seed in (SEED, SEED + 1)]
whole, first, second = (new_network(SEED) for _ in range(3))
optimizer = torch.optim.AdamW(whole.parameters(), lr=1e-3)
for batches in epochs:
    train_epoch(whole, optimizer, batches)
optimizer = torch.optim.AdamW(first.parameters(), lr=1e-3)
train_epoch(first, optimizer, epochs[0])
checkpoint = {"epoch": 1, "model": first.state_dict(), "optimizer": optimizer.state_dict()}
torch.save(checkpoint, workspace / "checkpoint.pt")
loaded = torch.load(workspace / "checkpoint.pt", weights_only=True)  # in the next process
second.load_state_dict(loaded["model"])
optimizer = torch.optim.AdamW(second.parameters(), lr=1e-3)
optimizer.load_state_dict(loaded["optimizer"])  # without this line the weights would differ
train_epoch(second, optimizer, epochs[loaded["epoch"]])
assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))
print("the resumed run has the weights of the undisturbed one")

# %% [markdown]
# The Trainer of transformers, which `hf-rnn train` uses, saves and resumes in this way.
#
# ## 3.3 A run that learns nothing
# The tutorial that this course grew from trains two layers of the tanh RNN with SGD, rate 0.3, four tweets per batch, sorted by length, for five epochs. On its tweets the validation accuracy was .4217 after each epoch, which is the share of the most frequent class. This lesson does the same with other tweets, the 972 invented ones of the sample, and with word vectors of 100 numbers in place of 300: what it finds out is true of these.
#
# **Prediction.** What will the validation accuracy be after each epoch?

# %%
network = new_network(SEED)
optimizer = torch.optim.SGD(network.parameters(), lr=0.3)
for epoch in range(1, 6):
    train_epoch(network, optimizer, tweets.order("train", 4))
    loss, accuracy = tweets.score(tweets.predict(network))
    print(f"epoch {epoch}: validation loss {loss:.3f}, accuracy {accuracy:.3f}")
print(f"always the most frequent class: {tweets.guess:.3f}")

# %% [markdown]
# Is that bad luck? Five networks with other first weights answer that. They train side by side: the equation of lesson 2 stays the same if each weight gets one more axis in front, S for the seed. This saves time and changes no result, which the last line checks.


# %%
class FiveNetworks(nn.Module):
    """The classifier of lesson 2 with S sets of weights: ids (S, B, T) in, logits (S, B, C) out."""

    def __init__(self, seeds: Any) -> None:
        super().__init__()
        self.models = [new_network(seed).cpu() for seed in seeds]
        self.count = len(self.models)
        (self.names, _) = zip(*self.models[0].named_parameters(), strict=True)
        for name, weights in torch.func.stack_module_state(self.models)[0].items():
            self.register_parameter(name.replace(".", "_"), nn.Parameter(weights.detach()))

    def weight(self, name: str) -> torch.Tensor:
        """Return a weight (S, rows, columns), or a bias (S, 1, columns)."""
        weight = getattr(self, name.replace(".", "_"))
        return weight.unsqueeze(1) if weight.dim() == 2 else weight

    def forward(
        self, ids: torch.Tensor, pooling: str = "last", inputs: list | None = None
    ) -> torch.Tensor:
        """Return the logits; the word vectors (S, B, T, E) are added to `inputs`."""
        x = self.weight("rnn.embedding.weight")[torch.arange(self.count)[:, None, None], ids]
        if inputs is not None:
            x.retain_grad()
            inputs.append(x)
        is_word = (ids != PAD).float().unsqueeze(-1)  # (S, B, T, 1)
        for layer in (0, 1):
            x = read_layer(self, layer, x, is_word)
        pooled = x[:, :, -1]
        if pooling == "mean":
            pooled = (x * is_word).sum(2) / is_word.sum(2)
        return pooled.relu() @ self.weight("classifier.weight").mT + self.weight("classifier.bias")


# %%
def read_layer(
    five: FiveNetworks, layer: int, x: torch.Tensor, is_word: torch.Tensor
) -> torch.Tensor:
    """Return the states (S, B, T, H) of a layer that reads x (S, B, T, E)."""
    cell = f"rnn.layers.{layer}.directions.0.cell"
    W = five.weight(f"{cell}.weight_ih_l0")
    U = five.weight(f"{cell}.weight_hh_l0")
    sums = x.flatten(1, 2) @ W.mT
    sums = sums + five.weight(f"{cell}.bias_ih_l0") + five.weight(f"{cell}.bias_hh_l0")
    a = sums.view(*x.shape[:3], H)
    state = torch.zeros(five.count, x.shape[1], H)
    states = []
    for a_t, keep in zip(a.unbind(2), is_word.unbind(2), strict=True):
        # padding leaves the state alone
        state = torch.lerp(state, torch.tanh(a_t + state @ U.mT), keep)
        states.append(state)
    return torch.stack(states, dim=2)


def unstack(five: FiveNetworks) -> list[Any]:
    """Return the S networks as models of the package."""
    for number, model in enumerate(five.models):
        weights = {
            name: getattr(five, name.replace(".", "_"))[number].detach() for name in five.names
        }
        model.load_state_dict(weights, strict=False)
    return five.models


five = FiveNetworks(SEEDS)
ids = tweets.batch("train", list(range(4)))["input_ids"].cpu()
for logits, model in zip(five(ids.expand(5, -1, -1)), unstack(five), strict=True):
    torch.testing.assert_close(logits, model(ids, (ids != PAD).long()).logits, atol=1e-5, rtol=0)

# %% [markdown]
# **Prediction.** After five epochs, will the training loss be above or below the entropy of the labels? How many different answers will a network give?


# %%
def compute_gradients(
    five: FiveNetworks, indices: tuple, pooling: str, watch: list | None
) -> torch.Tensor:
    """Compute the gradients of a batch of each network; return their norms (S)."""
    count = min(map(len, indices))  # the last batch may have fewer tweets
    rows = sum((tweets_of_one[:count] for tweets_of_one in indices), [])
    batch = tweets.batch("train", rows)
    ids = batch["input_ids"].cpu().view(5, count, -1)
    inputs = []
    logits = five(ids, pooling, inputs if watch is not None else None)
    targets = batch["labels"].cpu()
    losses = nn.functional.cross_entropy(logits.flatten(0, 1), targets, reduction="none")
    # each network has its own loss and gradient
    losses.view(5, count).mean(dim=1).sum().backward()
    norms = sum(weight.grad.flatten(1).square().sum(1) for weight in five.parameters()).sqrt()
    if watch is not None:
        sizes = inputs[0].grad.norm(dim=-1)  # (S, B, T), by the distance from the first word
        last = (ids != PAD).sum(-1, keepdim=True) - 1
        watch.append((norms, sizes[..., 0].mean(1), sizes.gather(2, last)[..., 0].mean(1)))
    return norms


# %%
def score(five: FiveNetworks, pooling: str) -> dict[str, Any]:
    """Return losses and accuracies on both splits, and how common the commonest answer is."""
    result: dict[str, Any] = {}
    for split in ("train", "validation"):
        logits = torch.empty(5, len(labels[split]), C)
        for indices in tweets.order(split, 64):
            ids = tweets.batch(split, indices)["input_ids"].cpu().expand(5, -1, -1)
            with torch.no_grad():
                logits[:, indices] = five(ids, pooling)
        scores = [tweets.score(some, split) for some in logits]
        result[f"{split} loss"], result[f"{split} accuracy"] = zip(*scores, strict=True)
    counts = [some.argmax(-1).bincount().max().item() for some in logits]
    result["commonest answer"] = [count / len(labels["validation"]) for count in counts]
    return result


# %%
def run(title: str, rate: float = 0.3, clip: float = math.inf, is_shuffled: bool = False, adamw: bool = False,
        pooling: str = "last", watch: list | None = None) -> FiveNetworks:  # fmt: skip
    """Train five networks for five epochs, print and keep their results; `watch` gets the sizes of gradients."""
    five = FiveNetworks(SEEDS)
    optimizer = torch.optim.SGD(five.parameters(), rate)
    if adamw:
        optimizer = torch.optim.AdamW(five.parameters(), rate, fused=True)
    for epoch in range(5):
        orders = [
            tweets.order("train", 4, 100 * seed + epoch if is_shuffled else None) for seed in SEEDS
        ]
        for indices in zip(*orders, strict=True):
            norms = compute_gradients(five, indices, pooling, watch)
            for weight in five.parameters():
                weight.grad.mul_((clip / norms).clamp(max=1).view(-1, *[1] * (weight.dim() - 1)))
            optimizer.step()
            optimizer.zero_grad()
    results[title] = score(five, pooling)
    print(f"{title:22} validation accuracy {course.points(results[title]['validation accuracy'])}")
    return five


# %%
results: dict[str, dict[str, Any]] = {}
watched: list[Any] = []
run("as in the source", watch=watched)
failed = results["as in the source"]
shares = labels["train"].bincount(minlength=C) / len(labels["train"])
entropy = -torch.special.xlogy(shares, shares).sum().item()
print(
    "training loss                              ",
    course.points(failed["train loss"]),
    f"  entropy {entropy:.3f}",
)
print("share of the commonest answer              ", course.points(failed["commonest answer"]))
assert course.most(loss > entropy for loss in failed["train loss"]) or not tweets.is_sample
assert (
    course.most(score < LINEAR - 0.2 for score in failed["validation accuracy"])
    or not tweets.is_sample
)
assert course.most(share > 0.5 for share in failed["commonest answer"]) or not tweets.is_sample

# %% [markdown]
# No bad luck: no network is much better than one that knows the frequency of the classes and never reads a tweet (the *prior*). The training loss is above the entropy of the labels for at least four of the five, so this is not overfitting: the networks have not even learned the tweets that they trained on.
#
# ## 3.4 Why: three suspects
# The tweets arrive in a fixed *order*, the *rate* is high, or the *gradient* does not reach the words: it passes through a product of many factors (2.7), which may explode or vanish. Start with the gradient: how large is it at the first and at the last word of each tweet?
#
# **Prediction.** If the product *explodes* now and then, at which of the two words is the gradient larger in the steps with the largest gradients?

# %%
norms, at_first, at_last = (
    torch.stack(values) for values in zip(*watched, strict=True)
)  # (steps, S)
largest = norms >= norms.quantile(0.9, dim=0)
print(
    f"steps with a gradient above 1: {(norms > 1).float().mean():.0%}, above 3: {(norms > 3).float().mean():.0%}"
)
print(
    "larger at the first word than at the last:",
    course.points((at_first > at_last).float().mean(dim=0)),
)
for name, chosen in (
    ("all steps", largest | True),
    ("the tenth with the largest gradients", largest),
):
    print(
        f"{name:38} first word {at_first[chosen].median():.0e}, last word {at_last[chosen].median():.0e} (medians)"
    )
    assert at_first[chosen].median() < at_last[chosen].median() / 100 or not tweets.is_sample
assert course.most((at_first > at_last).float().mean(dim=0) < 0.05) or not tweets.is_sample
lines = {"last word": at_last[:243, 0], "first word": at_first[:243, 0].clamp_min(1e-12)}
course.draw_lines(
    "3_gradients", lines, "step of the first epoch", "norm of the gradient at a word", log=True
)

# %% [markdown]
# The gradient *vanishes*: it is thousands of times smaller at the first word, also in the steps where the whole gradient is large. Those steps are not explosions through time; they come from the last words and the layers on top. As the tweets are sorted, the words at the end of a tweet are nearly all that the network learns from.
#
# ## 3.5 What repairs it, one change at a time
# Each run below differs from the failed one by one change:
#
# - **the rate**, a tenth;
# - **clipping**: a gradient that is longer than 1 is shortened to 1. If rare jumps were the trouble, it would be enough to clip these, at 3;
# - **the order**, shuffled in every epoch;
# - **AdamW**, rate 0.001: it divides each weight's step by the usual size of its gradient, so that small gradients count;
# - **the mean** of all states as representation, in place of the last state: each word is one step from the answer.
#
# **Prediction.** Rank the six changes.

# %%
run("rate 0.03", rate=0.03)
run("clipped, at 1", clip=1.0)
run("clipped, at 3", clip=3.0)
run("shuffled", is_shuffled=True)
adamw = run("AdamW", adamw=True, rate=1e-3)
run("mean of, all states", pooling="mean")
accuracies = {title: result["validation accuracy"] for title, result in results.items()}
course.draw_points("3_repairs", accuracies, "validation accuracy", LEVELS)
changes = ("rate 0.03", "clipped, at 1", "shuffled", "AdamW", "mean of, all states")
pairs = [
    *((title, "as in the source") for title in changes),
    ("clipped, at 1", "clipped, at 3"),
    ("AdamW", "rate 0.03"),
]
for better, worse in pairs:
    wins = (a > b for a, b in zip(accuracies[better], accuracies[worse], strict=True))
    assert course.most(wins) or not tweets.is_sample, (better, worse)

# %% [markdown]
# - *The gradient vanishes* survives its test: with a short way to each word (the mean) nothing else needs to change, and AdamW, which enlarges small gradients, helps most.
# - *The rate is too high* survives too: a tenth of it learns.
# - *Explosions* do not survive: to clip only the spikes repairs little. Clipping at 1 helps because more than four of five gradients are longer than 1, so that it is a smaller rate under another name.
# - *The order* does not survive as innocent either: shuffling alone is better with (nearly) every seed, about as much as clipping at 1. Its seeds spread widely.
#
# So one failure had several causes, and each of five changes repairs some of it. A single run would have supported almost any story. In larger models all of them are used together: AdamW, clipping, shuffled batches, and states that no word is far from.
#
# ## 3.6 Padding again, with networks that have learned
# Declared to be text (a mask of ones, which is what plain torch does), padding changes the answers of the same weights.
#
# **Prediction.** How many of the validation answers change, if the batches are those of the file?

# %%
count = len(labels["validation"])
changed = {"order of the file": [], "sorted by length": []}
in_file = [list(range(start, min(start + 64, count))) for start in range(0, count, 64)]
for model in unstack(adamw):
    right = tweets.predict(model)
    for shares_changed, order in zip(changed.values(), (in_file, None), strict=True):
        wrong = tweets.predict(model, order=order, read_padding=True)
        shares_changed.append((wrong.argmax(-1) != right.argmax(-1)).float().mean())
        torch.testing.assert_close(
            tweets.predict(model, order=order), right, atol=1e-4, rtol=0
        )  # with the mask
for name, shares_changed in changed.items():
    print(f"{name:18} share of the answers that change: {course.points(shares_changed)}")
assert course.most(a > b for a, b in zip(*changed.values(), strict=True)) or not tweets.is_sample

# %% [markdown]
# With the mask, order and batch size change nothing.
#
# ## 3.7 Overfitting, and its cure
# A network with a hundred thousand weights can learn a thousand tweets by heart. It looks perfect on the tweets it trained on, while its loss on others *rises*: it is sure of wrong answers. The cures:
#
# - **early stopping** ends the training when the validation loss has not fallen for some epochs, and keeps the best weights;
# - **dropout** hides a random share of the numbers at each step, here whole words, half of each word vector, and half of the pooled vector, so that no answer can depend on one of them.
#
# **Prediction.** Sketch four curves over ten epochs: loss and accuracy, on the training and on the validation tweets.


# %%
def fit(seed: int, epochs: int, patience: int, **changes: Any) -> dict[str, list[float]]:
    """Train one layer with mean_max pooling; return losses and accuracies per epoch. A real run also keeps the weights."""
    model = new_network(seed, num_hidden_layers=1, pooling="mean_max", **changes)
    history = {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for epoch in range(epochs):
        train_epoch(model, optimizer, tweets.order("train", 16, 100 * seed + epoch), clip=1.0)
        for split in ("train", "validation"):
            for name, value in zip(
                ("loss", "accuracy"), tweets.score(tweets.predict(model, split), split), strict=True
            ):
                history.setdefault(f"{split} {name}", []).append(value)
        if epoch - int(np.argmin(history["validation loss"])) >= patience:
            break
    return history


# %%
free = [fit(seed, epochs=10, patience=10) for seed in SEEDS]
cured = [fit(seed, epochs=30, patience=3, **course.DROPOUT) for seed in SEEDS]
course.draw_lines("3_overfitting", free[0], "epoch, from 0", "one seed, without dropout")
lowest = {
    "free": [min(history["validation loss"]) for history in free],
    "cured": [min(history["validation loss"]) for history in cured],
}
at_end = {}
at_best = {}
for name in ("train accuracy", "validation loss", "validation accuracy"):
    at_end[name] = [history[name][-1] for history in free]
    at_best[name] = []
    for history in cured:
        best = int(np.argmin(history["validation loss"]))  # a real run keeps its weights
        at_best[name].append(history[name][best])
print("without: training accuracy in the end   ", course.points(at_end["train accuracy"]))
print("with:    training accuracy, best epoch  ", course.points(at_best["train accuracy"]))
print("without: validation loss, lowest        ", course.points(lowest["free"]))
print("without: validation loss, in the end    ", course.points(at_end["validation loss"]))
print("with:    validation loss, lowest        ", course.points(lowest["cured"]))
print("with:    epochs                         ", [len(history["train loss"]) for history in cured])
columns = {"without, 10 epochs": at_end["validation accuracy"]}
columns["with dropout, stopped early"] = at_best["validation accuracy"]
for name, values in columns.items():
    print(f"{name:28} accuracy   ", course.points(values))
course.draw_points("3_cured", columns, "validation accuracy", LEVELS)
assert course.most(value > 0.9 for value in at_end["train accuracy"]) or not tweets.is_sample
rises = [a > 1.2 * b for a, b in zip(at_end["validation loss"], lowest["free"], strict=True)]
assert course.most(rises) or not tweets.is_sample
assert (
    course.most(a < b for a, b in zip(lowest["cured"], lowest["free"], strict=True))
    or not tweets.is_sample
)
by_heart = zip(at_best["train accuracy"], at_end["train accuracy"], strict=True)
assert course.most(a < b for a, b in by_heart) or not tweets.is_sample

# %% [markdown]
# With dropout the lowest validation loss is lower for (nearly) every seed. The training accuracy of the weights that are kept is lower too: the networks know less by heart. Read the gain in accuracy with care: with 169 tweets, one tweet is .006.
#
# **Exercises**
#
# 3.1 Start from the failed run and change only the size of the batches, to 32. Five seeds. Which suspect does the result point to?
#
# 3.2 Watch the gradient at the first and at the last word again, in the run with the mean of all states. Does it vanish?
#
# 3.3 Draw the accuracy of the answers with a score (largest probability) of up to .6, .6 to .8, .8 to .95, and above, of one network with dropout. Is a score of .9 right in nine of ten cases?
