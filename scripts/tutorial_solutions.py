# %% [markdown]
"""# Solutions of the exercises in tutorial.py and tutorial_further.py.

Each solution runs on its own after the first cell: `python scripts/tutorial_solutions.py`, under a minute on one core.
"""

# %%
import math
from collections import Counter

import datasets
import numpy as np
import torch
from torch import nn
from transformers import DataCollatorWithPadding
from tutorial_helpers import DATA

import hf_rnn
from hf_rnn import RnnConfig, RnnForSequenceClassification, RnnModel
from hf_rnn.models.cells_rnn import MinGru

datasets.disable_progress_bars()
PAD = 1

# %% [markdown]
# # Part 1
# ## 1.1 One-hot vectors times the table
# The product multiplies V x E numbers per word, almost all of them by zero. The look-up copies E numbers.

# %%
torch.manual_seed(123)
embedding = nn.Embedding(9, 6, padding_idx=PAD)
ids = torch.tensor([[2, 3, 4, 5, 1], [6, 3, 4, 7, 8]])
one_hot = nn.functional.one_hot(ids, 9).float()  # (B, T, V)
torch.testing.assert_close(one_hot @ embedding.weight, embedding(ids))
print("1.1", tuple(one_hot.shape), "@", tuple(embedding.weight.shape), "=", tuple(embedding(ids).shape))

# %% [markdown]
# # Part 2
# ## 2.1 The vocabulary in plain Python

# %%
data = hf_rnn.load_tsv(DATA)
texts = data["train"]["text"][:]
frequency = Counter(word for text in texts for word in text.lower().split())
expected = sorted((word for word, count in frequency.items() if count >= 2), key=lambda word: (-frequency[word], word))
plain = hf_rnn.train_tokenizer(texts, min_frequency=2, normalizer="none")
assert plain.convert_ids_to_tokens(range(len(plain))) == ["<unk>", "<pad>", *expected]
print("2.1", len(plain), "entries, the first:", *expected[:8])

# %% [markdown]
# # Part 3
# ## 3.1 The backward direction by hand

# %%
E, H = 20, 10
both, backward = nn.RNN(E, H, bidirectional=True), nn.RNN(E, H)
backward.load_state_dict({name: both.state_dict()[f"{name}_reverse"] for name in backward.state_dict()})
inputs = torch.randn(7, 3, E)  # (T, B, E)
by_hand = backward(inputs.flip(0))[0].flip(0)
torch.testing.assert_close(both(inputs)[0][:, :, H:], by_hand)
print("3.1 the same states")

# %% [markdown]
# ## 3.2 Padding on the left
# Plain torch is still wrong: it starts with the padding, so the first word meets a state that is not zero. The mistake
# is smaller, because the words after the padding overwrite it. `RnnModel` is right.

# %%
model = RnnModel(RnnConfig(vocab_size=30, embedding_size=E, hidden_size=H, cell_type="rnn_tanh", bidirectional=False))
layer = model.layers[0].directions[0].cell.eval()
text = torch.tensor([[5, 6, 7]])
left = torch.tensor([[PAD, PAD, PAD, PAD, 5, 6, 7]])
with torch.no_grad():
    alone, _ = layer(model.embedding(text).transpose(0, 1))
    padded, _ = layer(model.embedding(left).transpose(0, 1))
    ours = model.eval()(left).last_hidden_state[0, -1]
wrong, right = (padded[-1, 0] - alone[-1, 0]).norm(), (ours - alone[-1, 0]).norm()
print(f"3.2 plain torch is off by {wrong:.4f}, RnnModel by {right:.4f}")
assert wrong > 1e-4
torch.testing.assert_close(ours, alone[-1, 0])

# %% [markdown]
# # Part 4
# ## 4.1 A tenth of the rate, and larger batches
# Both help: small steps do not jump, and the mean of 32 gradients is shorter and steadier than that of four.

# %%
tokenizer = hf_rnn.train_tokenizer(texts, min_frequency=2, min_texts=2, normalizer="tweet")
encoded = hf_rnn.encode(data, tokenizer)
lengths = [len(row) for row in encoded["train"]["input_ids"]]
SETTINGS = {
    "vocab_size": len(tokenizer), "embedding_size": 100, "hidden_size": 50, "num_hidden_layers": 2,
    "bidirectional": False, "pooling": "last", "classifier_activation": "relu",
    "id2label": dict(enumerate(data["train"].features["label"].names)),
}  # fmt: skip
collate = DataCollatorWithPadding(tokenizer)
validation = collate(list(encoded["validation"]))
targets = validation.pop("labels")
order = np.argsort(lengths, kind="stable").tolist()  # sorted by length, as in the failed run
for rate, size in ((0.3, 4), (0.03, 4), (0.3, 32)):
    torch.manual_seed(123)
    network = RnnForSequenceClassification(RnnConfig(cell_type="rnn_tanh", **SETTINGS))
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    for _ in range(5):
        for start in range(0, len(order), size):
            network(**collate([encoded["train"][index] for index in order[start : start + size]])).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():
        right = network.eval()(**validation).logits.argmax(-1) == targets
    print(f"4.1 rate {rate}, batch {size:2}: validation accuracy {right.float().mean():.3f}")

# %% [markdown]
# # Part 5
# ## 5.1 A step of the GRU

# %%
gru = nn.GRU(E, H)
x, h = torch.randn(E), torch.randn(H)
with torch.no_grad():
    input_part, state_part = gru.weight_ih_l0 @ x + gru.bias_ih_l0, gru.weight_hh_l0 @ h + gru.bias_hh_l0
    (r_x, z_x, n_x), (r_h, z_h, n_h) = input_part.chunk(3), state_part.chunk(3)
    reset, update = (r_x + r_h).sigmoid(), (z_x + z_h).sigmoid()
    new = (1 - update) * (n_x + reset * n_h).tanh() + update * h
    output, _ = gru(x[None, None], h[None, None])
torch.testing.assert_close(output[0, 0], new)
print("5.1 the same state")

# %% [markdown]
# # Part 6
# ## 6.1 The weights of attention by hand
# A score per state, minus infinity at padding, and a softmax over the places.

# %%
attentive = RnnForSequenceClassification(RnnConfig(**{**SETTINGS, "pooling": "attention"})).eval()
ids = torch.tensor([[5, 6, 7, 8], [9, 10, PAD, PAD]])
with torch.no_grad():
    states = attentive.rnn(ids).last_hidden_state  # (B, T, H)
    pooler = attentive.pooler
    scores = pooler.context(torch.tanh(pooler.projection(states))).squeeze(-1).masked_fill(ids == PAD, -math.inf)
    torch.testing.assert_close(scores.softmax(dim=1), attentive(ids).pooling_weights)
print("6.1", scores.softmax(dim=1).numpy().round(2).tolist())

# %% [markdown]
# # Part 9
# ## 9.1 Temperature
# A low temperature makes the largest logit win, a high one makes all characters equally likely: the entropy rises
# towards log V.

# %%
VERSE = (
    "Row, row, row your boat,\ngently down the stream.\nMerrily, merrily, merrily, merrily,\nlife is but a dream.\n"
    * 4
)
letters = hf_rnn.train_tokenizer(VERSE.splitlines(True), 1, lowercase=False, tokenizer="char", exact=True)
verse = torch.tensor([letters(VERSE)["input_ids"]])
torch.manual_seed(0)
writer = hf_rnn.RnnForCausalLM(
    RnnConfig(vocab_size=len(letters), embedding_size=16, hidden_size=48, bidirectional=False)
)
optimizer = torch.optim.AdamW(writer.parameters(), lr=1e-2)
for _ in range(40):
    writer(verse, labels=verse).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
with torch.no_grad():
    logits = writer.eval()(verse).logits[0]
entropies = []
for temperature in (0.2, 1.0, 2.0):
    entropies.append(torch.distributions.Categorical(logits=logits / temperature).entropy().mean().item())
    print(f"9.1 temperature {temperature}: {entropies[-1]:.2f} nats of at most {math.log(len(letters)):.2f}")
assert entropies == sorted(entropies)

# %% [markdown]
# # Part 10
# ## 10.1 A minGRU without a loop
# The products $p_t$ shrink, and dividing by them overflows in long texts: the package combines neighbouring steps
# instead (`parallel_scan`), or loops.

# %%
cell = MinGru(E, H)
inputs = torch.randn(7, 3, E)  # (T, B, E)
with torch.no_grad():
    gates, candidates = (inputs @ cell.weight_ih_l0.T + cell.bias_ih_l0).chunk(2, dim=-1)
    z = gates.sigmoid()
    products = (1 - z).cumprod(dim=0)
    torch.testing.assert_close(products * (z * candidates / products).cumsum(dim=0), cell(inputs)[0])
print("10.1 the same states")
