# %% [markdown]
"""# Lesson 4: Gates and memory.

**After this lesson** you can write an LSTM and a GRU by hand, measure how long a cell remembers, set a forget gate so that it learns what it could not learn before, and compare cells fairly.

**You need** [lesson 3](lesson_3_training.ipynb). Letters in shapes: B batch, T time, E embedding, H hidden, L layers.
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
from typing import Any

import lesson_helpers as course
import numpy as np
import torch
from torch import nn

from hf_rnn import RnnConfig, RnnForSequenceClassification, RnnModel

# other random numbers: set COURSE_SEED=1 before Python starts
SEED = course.SEED
SEEDS = course.SEEDS
tweets = course.Tweets(course.DATA)  # or a folder of your own, as in lesson 1
V = len(tweets.tokenizer)
E = 50
H = 50

# %% [markdown]
# ## 4.1 The LSTM and the GRU in formulas
# A plain RNN rewrites its whole state at each word, so what it knew soon fades (4.2 measures it). Gates let it choose. A gate is a vector of numbers between 0 and 1 that multiplies another vector. The **LSTM** ([`nn.LSTM`](https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html)) has a second state, the cell $c_t$, that only gates touch:
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
# The **GRU** ([`nn.GRU`](https://docs.pytorch.org/docs/stable/generated/torch.nn.GRU.html)) makes do with one state and two gates:
#
# $$\begin{aligned}
# r_t &= \sigma(W_rx_t + U_rh_{t-1} + b_r) && \text{reset gate}\\
# z_t &= \sigma(W_zx_t + U_zh_{t-1} + b_z) && \text{update gate}\\
# n_t &= \tanh(W_nx_t + b_n + r_t \odot (U_nh_{t-1} + c_n))\\
# h_t &= (1 - z_t) \odot n_t + z_t \odot h_{t-1}
# \end{aligned}$$
#
# The **minGRU** (2024) drops $U$: its gate and candidate depend on the word alone, $h_t = (1 - z_t) \odot h_{t-1} + z_t \odot (W_hx_t + b_h)$ with $z_t = \sigma(W_zx_t + b_z)$. So all steps can be computed at once. Mind the two uses of $z$: that of the GRU *keeps* the old state, that of the minGRU *replaces* it.
#
# Each $W$ is (H, E), each $U$ (H, H), each vector (H): torch stacks them, (4 H, E) for an LSTM and (3 H, E) for a GRU. The LSTM as a picture (blue: layers; orange: one operation per element):

# %%
course.draw_diagram("lstm")

# %% [markdown]
# The GRU:

# %%
course.draw_diagram("gru")

# %% [markdown]
# An LSTM starts from $h_0$ and $c_0$ and ends with $h_n$ and $c_n$. So a text can be read in two pieces: the states after the first are where the second starts. `RnnModel` takes them as `initial_hidden_state` and `initial_cell_state`, and returns them with `output_final_states=True`.
#
# **Prediction.** A layer of the RNN from 50 to 50 has 5,100 weights. How many have a GRU and an LSTM? Which shapes do `h_n` and `c_n` of *two* layers have?


# %%
def lstm_by_hand(inputs: torch.Tensor, cell: Any) -> dict[str, torch.Tensor]:
    """Return all gates and states (T, H) of an LSTM for one text (T, E)."""
    h = c = torch.zeros(cell.weight_hh_l0.shape[1])
    steps = []
    for x_t in inputs:
        stacked = (
            cell.weight_ih_l0 @ x_t + cell.bias_ih_l0 + cell.weight_hh_l0 @ h + cell.bias_hh_l0
        )
        i, f, g, o = stacked.chunk(4)
        i = i.sigmoid()
        f = f.sigmoid()
        g = g.tanh()
        o = o.sigmoid()
        c = f * c + i * g
        h = o * c.tanh()
        steps.append((i, f, o, c, h))
    return {
        name: torch.stack(values)
        for name, values in zip("ifoch", zip(*steps, strict=True), strict=True)
    }


# %%
torch.manual_seed(SEED)
embedding = nn.Embedding(V, E, padding_idx=course.PAD)
text = "i love this song , love it , love it"
ids = tweets.tokenizer(text, return_tensors="pt")["input_ids"]
inputs = embedding(ids).detach().transpose(0, 1)  # (T, 1, E)
lstm = nn.LSTM(E, H)
gru = nn.GRU(E, H)
ours = course.with_weights_of(lstm, "lstm", embedding)
with torch.no_grad():
    output, (h_n, c_n) = lstm(inputs)
    by_hand = lstm_by_hand(inputs[:, 0], lstm)
    _, (h_4, c_4) = lstm(inputs[:4])  # the first four words
    rest, (h_rest, c_rest) = lstm(inputs[4:], (h_4, c_4))
    ours_rest = ours(
        ids[:, 4:], initial_hidden_state=h_4, initial_cell_state=c_4, output_final_states=True
    )
torch.testing.assert_close(by_hand["h"], output[:, 0], atol=1e-5, rtol=0)
torch.testing.assert_close(by_hand["c"][-1], c_n[0, 0], atol=1e-5, rtol=0)
torch.testing.assert_close(rest, output[4:])
torch.testing.assert_close(ours_rest.last_hidden_state[0], output[4:, 0])
torch.testing.assert_close(ours_rest.final_cell_state, c_n)
sizes = {
    kind.__name__: sum(map(torch.numel, kind(E, H).parameters()))
    for kind in (nn.RNN, nn.GRU, nn.LSTM)
}
print("weights of a layer:", sizes)
assert sizes["LSTM"] == 4 * sizes["RNN"] and sizes["GRU"] == 3 * sizes["RNN"]
with torch.no_grad():
    output, (h_n, c_n) = nn.LSTM(E, H, num_layers=2)(inputs)
    output_gru, h_gru = nn.GRU(E, H, num_layers=2)(inputs)
print(
    f"two layers of LSTM: output {tuple(output.shape)} = (T, B, H), h_n and c_n {tuple(c_n.shape)} = (L, B, H)"
)
print(
    f"two layers of GRU:  output {tuple(output_gru.shape)} = (T, B, H), h_n {tuple(h_gru.shape)} = (L, B, H)"
)
assert torch.equal(output[-1], h_n[-1]) and torch.equal(output_gru[-1], h_gru[-1])
assert output.shape == (len(inputs), 1, H) and h_n.shape == c_n.shape == h_gru.shape == (2, 1, H)

# %% [markdown]
# ## 4.2 Why plain RNNs forget: the vanishing gradient
# How much does the last state depend on a word $k$ steps before it? By the chain rule the answer is a product of $k$ matrices:
#
# $$\frac{\partial \mathbf{h}_n}{\partial \mathbf{h}_{n-k}} = \prod_{t=n-k+1}^{n} \mathrm{diag}(1 - \mathbf{h}_t^2)\,\mathbf{U}$$
#
# If each factor shrinks vectors, the product shrinks like $\gamma^k$ with $\gamma < 1$: the gradient *vanishes*, as in lesson 3. If each factor stretches them, it *explodes* ([Pascanu et al. 2013](https://arxiv.org/abs/1211.5063)). We measure the norm of the gradient of $\mathbf{h}_n$ with respect to the word vector $k$ steps earlier, for each cell as it starts. A forget gate with bias $b$ keeps about $\sigma(b)$ of the cell at each step: .5 for torch's own start, .73 for 1, .95 for 3.
#
# **Prediction.** Order the six starts by the gradient at distance 30.


# %%
CELLS = {"tanh RNN": "rnn_tanh", "GRU": "gru", "minGRU": "min_gru", "LSTM": "lstm"}
SIZES = {
    "hidden_size": 32,
    "embedding_size": 16,
    "vocab_size": 14,
    "bidirectional": False,
    "pad_token_id": None,
}


def set_gates(
    cell: Any, forget: float | str, write: float | None = None, distance: int = 0
) -> None:
    """Set the biases of an LSTM's forget gate and, if asked for, of its input gate; "chrono" sets both."""
    with torch.no_grad():
        (i, f, _, _) = cell.bias_ih_l0.chunk(4)
        (i_more, f_more, _, _) = cell.bias_hh_l0.chunk(4)
        f_more.zero_()
        f.copy_(
            (1 + torch.rand(len(f)) * (distance - 2)).log()
            if forget == "chrono"
            else torch.full_like(f, forget)
        )
        if forget == "chrono" or write is not None:
            i_more.zero_()
            i.copy_(-f if forget == "chrono" else torch.full_like(i, write))


# %%
def gradient_by_distance(name: str, seed: int, steps: int = 60) -> torch.Tensor:
    """Return the norm of the gradient of the last state at each input, the latest first, relative to that one."""
    torch.manual_seed(seed)
    model = RnnModel(RnnConfig(cell_type=CELLS[name.split(",")[0]], **SIZES)).eval()
    if "bias" in name:
        set_gates(model.layers[0].directions[0].cell, float(name[-1]))
    inputs = torch.randn(32, steps, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        model(inputs_embeds=inputs).last_hidden_state[:, -1].sum(), inputs
    )
    norms = gradient.norm(dim=-1).mean(dim=0).flip(0)
    return norms / norms[0]


starts = [*CELLS, "LSTM, forget bias 1", "LSTM, forget bias 3"]
measured = {}
for name in starts:
    measured[name] = torch.stack([gradient_by_distance(name, seed) for seed in SEEDS])
means = {name: norms.mean(dim=0) for name, norms in measured.items()}
course.draw_lines(
    "4_vanishing", means, "distance k from the last word", "gradient, relative", log=True
)
for name, norms in measured.items():
    print(
        f"{name:20} at distance 30, five seeds: {' '.join(f'{norm:.0e}' for norm in norms[:, 30])}"
    )
at_30 = {name: norms[:, 30] for name, norms in measured.items()}
assert course.most(at_30["LSTM, forget bias 1"] > at_30["LSTM"])
assert course.most(at_30["LSTM, forget bias 3"] > 10 * at_30["LSTM, forget bias 1"])

# %% [markdown]
# ## 4.3 A task of memory
# Copying: the first token is one of four symbols, then comes noise; after the last token, name the first. Nothing but memory is needed, over 30 steps. Each cell trains as torch starts it, for at most 400 steps, with five seeds.
#
# **Prediction.** Which cells learn it? Do all seeds of a cell agree?


# %%
def copy_first(cell: str, seed: int, biases: Any = None, distance: int = 30, steps: int = 400,
               pooling: str = "last", batch: int = 64) -> tuple[float, int]:  # fmt: skip
    """Return the accuracy on fresh random texts, a mean over twenty steps, and the steps until it was above .95."""
    torch.manual_seed(seed)
    model = RnnForSequenceClassification(
        RnnConfig(cell_type=cell, num_labels=4, pooling=pooling, **SIZES)
    )
    if biases is not None:
        set_gates(model.rnn.layers[0].directions[0].cell, *biases, distance)

    def make_batch() -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.randint(4, (batch,))
        return torch.cat([labels[:, None], torch.randint(4, 14, (batch, distance))], dim=1), labels

    return course.learn(model, make_batch, steps, rate=1e-2)


reached = {}
for name, cell in CELLS.items():
    reached[name], steps = zip(*(copy_first(cell, seed) for seed in SEEDS), strict=True)
    print(f"{name:9} accuracy {course.points(reached[name])}; steps {list(steps)}")
course.draw_points("4_copying", reached, "accuracy", {"guessing": 0.25})
assert course.most(accuracy < 0.4 for accuracy in reached["LSTM"])

# %% [markdown]
# The seed decides a lot, as it does for the order of the cells: the GRU and the minGRU learn the task with some seeds, the tanh RNN with few, and the LSTM, the cell invented for long memory, with none. Why? Two explanations:
#
# 1. *The LSTM has more gates*: to write, keep and show at the same time is hard to find by chance.
# 2. *Its memory decays*: it starts with a half-open forget gate, which leaves $.5^{30} = 10^{-9}$ of the first token.
#
# They predict different things. If the number of gates is the trouble, the start of *one* gate changes nothing.
#
# ## 4.4 The forget gate decides
# One number changes: the bias of the forget gate, at 0, 1, 3 and 5. The distance is 10, 30 and 100. At most 150 steps.
#
# **Prediction.** A gate with bias $b$ leaves $\sigma(b)^k$ of a memory after $k$ steps. For which pairs of bias and distance is that above a hundredth? Will these be the pairs that learn?


# %%
def try_biases(forget: Any, write: Any, distance: int) -> list[float]:
    """Return the accuracy of five LSTMs with these biases, and print it."""
    runs = [copy_first("lstm", seed, (forget, write), distance, 150, batch=32) for seed in SEEDS]
    accuracies, steps = zip(*runs, strict=True)
    left = "" if forget == "chrono" else f"{(1 / (1 + math.exp(-forget))) ** distance:.0e}"
    names = f"forget {forget}" if write is None else f"forget {forget}, write {write}"
    print(
        f"distance {distance:3}  {names:19} left {left:6} accuracy {course.points(accuracies)}; steps {list(steps)}"
    )
    return list(accuracies)


grid = {}
for distance in (10, 30, 100):
    for bias in (0, 1, 3, 5):
        grid[bias, distance] = try_biases(bias, None, distance)
course.draw_memory(grid)
for (bias, distance), accuracies in grid.items():
    left = (1 / (1 + math.exp(-bias))) ** distance
    if left < 1e-4:  # forgotten
        assert course.most(accuracy < 0.6 for accuracy in accuracies)
    if left > 0.01 and distance < 100:  # kept, and learned
        assert course.most(accuracy > 0.9 for accuracy in accuracies)

# %% [markdown]
# The same cell with the same number of gates fails or learns within some dozen steps, and one number says which: how much of the first token the forget gate leaves. So the second explanation survives, and the first does not. The bias of 1 that is often recommended ([Jozefowicz et al. 2015](https://proceedings.mlr.press/v37/jozefowicz15.html)) is right for ten words and useless for thirty: a start must fit the distance.
#
# One column does not fit: with a bias of 5, half of the token is left after 100 steps, and yet only some seeds learn. A gate that keeps the first token keeps the noise of the 99 others too. If that is the reason, an input gate that starts nearly shut must repair it, and must not repair a forget gate that forgets. *Chrono* initialisation ([Tallec and Ollivier 2018](https://arxiv.org/abs/1804.11188)) sets both gates: each unit gets a time of memory of its own, up to the distance, and writes as little as it forgets.
#
# **Prediction.** Distance 100: which of the four starts below learn?

# %%
starts = {
    "keep": (5, None),
    "keep, write little": (5, -5),
    "forget, write little": (3, -5),
    "chrono": ("chrono", None),
}
at_100 = {
    name: grid[5, 100] if name == "keep" else try_biases(*biases, 100)
    for name, biases in starts.items()
}
course.draw_points("4_write", at_100, "accuracy", {"guessing": 0.25})
assert course.most(accuracy > 0.85 for accuracy in at_100["keep, write little"])
assert course.most(accuracy < 0.6 for accuracy in at_100["forget, write little"])
for distance in (10, 30):
    assert course.most(accuracy > 0.9 for accuracy in try_biases("chrono", None, distance))

# %% [markdown]
# Both are needed: keep, and write little. Chrono needs to know no more than the longest distance; at 100 it is on its way after 150 steps, with most seeds.
#
# So "gates remember, plain RNNs forget" is too simple. Gates *can* remember; whether training finds it out depends on where they start.
#
# ## 4.5 Attention: an answer without memory
# The last state is a narrow door for a long text. *Attention* looks at all states and learns which ones matter: a score per word, a softmax over the words, and the weighted mean as representation.
#
# $$s_t = \mathbf{v}^\top \tanh(\mathbf{A}\,\mathbf{h}_t + \mathbf{a}), \qquad \alpha_t = \frac{e^{s_t}}{\sum_k e^{s_k}}, \qquad \mathbf{r} = \sum_t \alpha_t\,\mathbf{h}_t$$
#
# The weights $\alpha_t$ of a text add up to 1, and are 0 at padding.
#
# **Prediction.** Does the tanh RNN, the worst memory of all, copy the first token over 30 and 100 steps with attention?

# %%
for distance in (30, 100):
    runs = [
        copy_first("rnn_tanh", seed, None, distance, 150, "attention", batch=32) for seed in SEEDS
    ]
    accuracies, steps = zip(*runs, strict=True)
    print(f"distance {distance:3}: accuracy {course.points(accuracies)}; steps {list(steps)}")
    assert course.most(accuracy > 0.9 for accuracy in accuracies)

# %% [markdown]
# It does, as no gradient has to travel far: each state is one step from the answer, as with the mean in lesson 3. A weight says where the network looked, not that it understood.
#
# ## 4.6 All cells on tweets, fairly compared
# A ranking is fair if the best learning rate of each cell is not at the edge of its grid: beyond the edge it might get better still. So all cells try three rates, and a cell whose best one is at the edge tries the next. And it is honest if it shows the luck: each point is a seed.
#
# **Prediction.** Tweets have 18 words on average. Will the memory of the cells matter as much as in 4.4?

# %%
scores = {}
trained = {}
best = {}


def try_rate(name: str, rate: float) -> float:
    """Train five networks with a rate; return their mean accuracy."""
    for seed in SEEDS:
        network = tweets.fit(seed, rate, epochs=4, cell_type=CELLS[name], **course.DROPOUT)
        scores.setdefault((name, rate), []).append(tweets.score(tweets.predict(network))[1])
        trained[name, rate, seed] = network
    print(f"{name:9} rate {rate:5}: validation accuracy {course.points(scores[name, rate])}")
    return float(np.mean(scores[name, rate]))


for name in CELLS:
    means = {rate: try_rate(name, rate) for rate in (0.01, 0.03, 0.1)}
    best[name] = max(means, key=means.__getitem__)
    while best[name] in (min(means), max(means)):
        factor = 1 / 3 if best[name] == min(means) else 3
        further = round(factor * best[name], 4)
        means[further] = try_rate(name, further)
        best[name] = max(means, key=means.__getitem__)
print("best rates", best)
ordered = sorted(scores, key=lambda run: (list(CELLS).index(run[0]), run[1]))
columns = {f"{name}, {rate}": scores[name, rate] for name, rate in ordered}
course.draw_points(
    "4_cells", columns, "validation accuracy", {"most frequent\nclass": tweets.guess}
)
at_best = {name: np.array(scores[name, rate]) for name, rate in best.items()}

# %% [markdown]
# How to read it: two groups of points that are apart show a difference. Two that overlap leave the question open; they do not prove that the cells are equal. Counting pairs is a fair test: how often is the one better, if each of its seeds meets each of the other's?

# %%
for name, values in at_best.items():
    wins = {
        other: np.mean(values[:, None] > at_best[other][None]) for other in CELLS if other != name
    }
    print(
        f"{name:9} at rate {best[name]:5} wins against",
        {other: f"{share:.0%}" for other, share in wins.items()},
    )

# %% [markdown]
# No cell wins clearly. Tweets are short, and this pooling sees all states, so that the memory of the cell decides little: what was decisive in 4.4 is not what decides here.
#
# ## 4.7 A gate at work
# An LSTM from 4.6 reads a validation tweet that it gets right with a high score, and one that it gets wrong. For each word: the share of its old memory that each unit keeps (forget gate), and the share of the new that it writes (input gate). The units are sorted by how much their input gate moves.

# %%
reader = trained["LSTM", best["LSTM"], SEEDS[0]].eval().cpu()
cell = reader.rnn.layers[0].directions[0].cell
texts = tweets.texts["validation"]
answers = tweets.predict(reader).softmax(-1)
reader.cpu()
sure, chosen = answers.max(-1)
is_right = chosen == tweets.labels["validation"]
fits = torch.tensor([4 <= len(tweets.words(text)) <= 14 for text in texts])
for name, wanted in (("right", is_right & fits), ("wrong", ~is_right & fits)):
    if wanted.any():
        index = int(torch.where(wanted, sure, -1.0).argmax())
        truth, answer = (
            tweets.class_names[int(row[index])] for row in (tweets.labels["validation"], chosen)
        )
        print(
            f"{name}: it is {truth}, the answer is {answer}, with {sure[index]:.2f}: {texts[index]}"
        )
        ids = tweets.tokenizer(texts[index], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            gates = lstm_by_hand(reader.rnn.embedding(ids)[0], cell)
            torch.testing.assert_close(
                gates["h"], reader.rnn(ids).last_hidden_state[0], atol=1e-5, rtol=0
            )
        lively = gates["i"].std(dim=0).argsort(descending=True)[:25]
        pairs = {
            f"{name}: write (input gate)": gates["i"][:, lively],
            "keep (forget gate)": gates["f"][:, lively],
        }
        course.draw_gates(f"4_gates_{name}", tweets.words(texts[index]), pairs)

# %% [markdown]
# Right or wrong, the pictures look alike: they show what the units do with their memory, and not what the answer depends on. For that, change the text: 5.5 reads it word by word.
#
# **Exercises**
#
# 4.1 Write one step of the GRU by hand, and compare it with `nn.GRU`.
#
# 4.2 Which bias of the forget gate leaves half of the first token after 30, and after 100 words? Compute it, and find it in the picture of 4.4 or on the page `scripts/lesson_page.html`.
#
# 4.3 Compute the weights of attention by hand: `pooler` has two small layers, which give a score per state.
