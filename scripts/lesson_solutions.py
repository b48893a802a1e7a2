# %% [markdown]
"""# Solutions of the exercises of the five lessons.

Each solution runs on its own after the first cell: `python scripts/lesson_solutions.py`.
"""

# %%
import math
from collections import Counter

import lesson_helpers as course
import torch
from torch import nn

import hf_rnn
from hf_rnn import RnnConfig, RnnForSequenceClassification, RnnModel
from hf_rnn.models.cells_rnn import MinGru

PAD = course.PAD
SEEDS = course.SEEDS
E = 20
H = 10
tweets = course.Tweets()
texts = tweets.texts["train"]
labels = tweets.labels

# %% 1.1 One-hot vectors times the table
# The product multiplies V x E numbers per word, almost all of them by zero. The look-up copies E
# numbers.
embedding = nn.Embedding(9, 6, padding_idx=PAD)
ids = torch.tensor([[2, 3, 4, 5, 1], [6, 3, 4, 7, 8]])
one_hot = nn.functional.one_hot(ids, 9).float()  # (B, T, V)
torch.testing.assert_close(one_hot @ embedding.weight, embedding(ids))
print(
    "1.1",
    tuple(one_hot.shape),
    "@",
    tuple(embedding.weight.shape),
    "=",
    tuple(embedding(ids).shape),
)

# %% 1.2 The vocabulary in plain Python
frequency: Counter[str] = Counter()
for text in texts:
    frequency.update(text.lower().split())
expected = sorted(
    (word for word, count in frequency.items() if count >= 2),
    key=lambda word: (-frequency[word], word),
)
plain = hf_rnn.train_tokenizer(texts, min_frequency=2, normalizer="none")
assert plain.convert_ids_to_tokens(range(len(plain))) == ["<unk>", "<pad>", *expected]
print("1.2", len(plain), "entries, the first:", *expected[:8])

# %% 1.3 How frequent a word must be
# A larger table knows more words, but a word that occurred once has a vector that one tweet has
# trained. The score of a network on validation tweets would decide.
for least in (1, 2, 3, 5):
    tokenizer = hf_rnn.train_tokenizer(texts, min_frequency=least, normalizer="tweet")
    running = sum(tokenizer(tweets.texts["validation"])["input_ids"], [])
    print(
        f"1.3 min_frequency {least}: V {len(tokenizer)}, unknown {running.count(course.UNK) / len(running):.1%}"
    )

# %% 2.1 The backward direction by hand
both = nn.RNN(E, H, bidirectional=True)
backward = nn.RNN(E, H)
inputs = torch.randn(7, 3, E)
backward.load_state_dict(
    {name: both.state_dict()[f"{name}_reverse"] for name in backward.state_dict()}
)
torch.testing.assert_close(both(inputs)[0][:, :, H:], backward(inputs.flip(0))[0].flip(0))
print("2.1 the same states")

# %% 2.2 Padding on the left
# Plain torch is still wrong: it starts with the padding, so the first word meets a state that is
# not zero. The mistake is smaller, because the words after the padding overwrite it. `RnnModel` is
# right.
model = RnnModel(
    RnnConfig(
        vocab_size=30, embedding_size=E, hidden_size=H, cell_type="rnn_tanh", bidirectional=False
    )
)
layer = model.layers[0].directions[0].cell
text = torch.tensor([[5, 6, 7]])
left = torch.tensor([[PAD, PAD, PAD, PAD, 5, 6, 7]])
with torch.no_grad():
    alone, padded = (layer(model.embedding(ids).transpose(0, 1))[0][-1, 0] for ids in (text, left))
    ours = model.eval()(left).last_hidden_state[0, -1]
print(
    f"2.2 plain torch is off by {(padded - alone).norm():.4f}, RnnModel by {(ours - alone).norm():.4f}"
)
assert (padded - alone).norm() > 1e-4
torch.testing.assert_close(ours, alone)

# %% 2.3 Two layers, backwards
# At each step the lower state receives two gradients: from the next step of its own layer, and from
# the upper layer.
rnn = nn.RNN(4, 3, num_layers=2)
inputs = torch.randn(3, 1, 4)
target = torch.randn(3)
output, _ = rnn(inputs)
(0.5 * (output[-1, 0] - target).square().sum()).backward()
with torch.no_grad():
    (W1, U1, b1, c1), (W2, U2, b2, c2) = rnn.all_weights
    low = [torch.zeros(3)]
    high = [torch.zeros(3)]
    for x in inputs[:, 0]:
        low.append(torch.tanh(W1 @ x + b1 + U1 @ low[-1] + c1))
        high.append(torch.tanh(W2 @ low[-1] + b2 + U2 @ high[-1] + c2))
    into_high = high[3] - target
    into_low = torch.zeros(3)
    grad_u1 = torch.zeros(3, 3)
    for t in (3, 2, 1):
        delta_high = (1 - high[t] ** 2) * into_high
        delta_low = (1 - low[t] ** 2) * (into_low + W2.T @ delta_high)
        grad_u1 += torch.outer(delta_low, low[t - 1])
        into_high = U2.T @ delta_high
        into_low = U1.T @ delta_low
torch.testing.assert_close(grad_u1, U1.grad)
print("2.3 the gradient of autograd")

# %% 3.1 Larger batches
# They help, with eight times fewer steps: the mean of 32 gradients is shorter and steadier than
# that of four. This speaks for the rate, as rate and batch size act together.
SETTINGS = {
    "cell_type": "rnn_tanh", "vocab_size": len(tweets.tokenizer), "embedding_size": 100, "hidden_size": 50,
    "num_hidden_layers": 2, "bidirectional": False, "pooling": "last", "classifier_activation": "relu", "num_labels": 3,
}  # fmt: skip
accuracies = []
for seed in SEEDS:
    torch.manual_seed(seed)
    network = RnnForSequenceClassification(RnnConfig(**SETTINGS))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.3)
    for indices in tweets.order("train", 32) * 5:
        network(**tweets.batch("train", indices)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    accuracies.append(tweets.score(tweets.predict(network))[1])
print("3.1 batches of 32:", course.points(accuracies))

# %% 3.2 The gradient with the mean of all states
# It no longer vanishes: each word has a way of its own to the answer, and the gradient at the first
# word is of the size of that at the last.
for pooling in ("last", "mean"):
    torch.manual_seed(SEEDS[0])
    network = RnnForSequenceClassification(RnnConfig(**SETTINGS | {"pooling": pooling}))
    batch = tweets.batch("train", [0, 1])
    vectors = network.rnn.embedding(batch.pop("input_ids")).detach().requires_grad_()
    network(inputs_embeds=vectors, **batch).loss.backward()
    last = batch["attention_mask"].sum(1) - 1
    first = vectors.grad[:, 0].norm()
    final = vectors.grad[torch.arange(2), last].norm()
    print(
        f"3.2 pooling {pooling:4}: gradient at the first word {first:.0e}, at the last {final:.0e}"
    )

# %% 3.3 Is a score a probability?
# Compare the shares that this prints. A network that is trained for longer is surer than it is
# right; `hf-rnn train --calibrate` makes a score the probability of being right, on average.
sure, answers = (
    tweets.predict(tweets.fit(SEEDS[0], 0.01, 8, cell_type="gru", **course.DROPOUT))
    .softmax(-1)
    .max(-1)
)
for low, high in ((0, 0.6), (0.6, 0.8), (0.8, 0.95), (0.95, 1)):
    those = (sure > low) & (sure <= high)
    right = (answers == labels["validation"])[those].float().mean()
    print(f"3.3 {those.sum():3} answers with a score of {low} to {high}: {right:.3f} right")

# %% 4.1 A step of the GRU
gru = nn.GRU(E, H)
x = torch.randn(E)
h = torch.randn(H)
with torch.no_grad():
    input_part = gru.weight_ih_l0 @ x + gru.bias_ih_l0
    state_part = gru.weight_hh_l0 @ h + gru.bias_hh_l0
    (r_x, z_x, n_x) = input_part.chunk(3)
    (r_h, z_h, n_h) = state_part.chunk(3)
    reset = (r_x + r_h).sigmoid()
    update = (z_x + z_h).sigmoid()
    new = (1 - update) * (n_x + reset * n_h).tanh() + update * h
torch.testing.assert_close(gru(x[None, None], h[None, None])[0][0, 0], new)
print("4.1 the same state")

# %% 4.2 The bias for half of the first token
# The gate must keep $.5^{1/k}$ at each of k steps, and the bias is its logit.
for distance in (30, 100):
    keep = 0.5 ** (1 / distance)
    bias = math.log(keep / (1 - keep))
    assert abs((1 / (1 + math.exp(-bias))) ** distance - 0.5) < 1e-9
    print(f"4.2 distance {distance}: forget bias {bias:.2f}")

# %% 4.3 The weights of attention by hand
# A score per state, minus infinity at padding, and a softmax over the places.
attentive = RnnForSequenceClassification(RnnConfig(**SETTINGS | {"pooling": "attention"})).eval()
ids = torch.tensor([[5, 6, 7, 8], [9, 10, PAD, PAD]])
with torch.no_grad():
    # states (B, T, H)
    states = attentive.rnn(ids).last_hidden_state
    pooler = attentive.pooler
    scores = (
        pooler.context(torch.tanh(pooler.projection(states)))
        .squeeze(-1)
        .masked_fill(ids == PAD, -math.inf)
    )
    torch.testing.assert_close(scores.softmax(dim=1), attentive(ids).pooling_weights)
print("4.3", scores.softmax(dim=1).numpy().round(2).tolist())

# %% 5.1 A minGRU without a loop
# The products $p_t$ shrink, and dividing by them overflows in long texts: the package combines
# neighbouring steps instead (`parallel_scan`), or loops.
# (T, B, E)
cell = MinGru(E, H)
inputs = torch.randn(7, 3, E)
with torch.no_grad():
    gates, candidates = (inputs @ cell.weight_ih_l0.T + cell.bias_ih_l0).chunk(2, dim=-1)
    z = gates.sigmoid()
    products = (1 - z).cumprod(dim=0)
    torch.testing.assert_close(
        products * (z * candidates / products).cumsum(dim=0), cell(inputs)[0]
    )
print("5.1 the same states")

# %% 5.2 Temperature
# A low temperature makes the largest logit win, a high one makes all characters equally likely: the
# entropy rises towards log V. The logits of any model will do.
logits = 2 * torch.randn(100, 90)
entropies = [
    torch.distributions.Categorical(logits=logits / t).entropy().mean().item()
    for t in (0.2, 1.0, 2.0)
]
print(
    "5.2 entropy in nats:", [round(value, 2) for value in entropies], f"log V: {math.log(90):.2f}"
)
assert entropies == sorted(entropies)

# %% 5.3 Both halves of an LSTM's state
# Without the cell state the second piece starts with an empty memory, and the states differ from
# those of the whole text.
lstm = nn.LSTM(E, H)
inputs = torch.randn(9, 1, E)
with torch.no_grad():
    whole = lstm(inputs)[0]
    (_, (h, c)) = lstm(inputs[:5])
    rest, forgetful = (lstm(inputs[5:], (h, memory))[0] for memory in (c, torch.zeros_like(c)))
torch.testing.assert_close(rest, whole[5:])
assert not torch.allclose(forgetful, whole[5:], atol=1e-3)
print(
    f"5.3 without the cell state the first state is off by {(forgetful - whole[5:])[0].norm():.3f}"
)
