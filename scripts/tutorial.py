# %% [markdown]
"""# Recurrent networks for the sentiment of tweets, one step per cell.

From a table of word vectors to trained RNN, GRU and LSTM classifiers. Each step is first done by hand in plain torch,
then with the parts of `hf_rnn` that do it for you. Claims are followed by an `assert`, so the file is its own proof.

- As a script: `python scripts/tutorial.py`, or `--data_dir DIR` for other `text<TAB>label` files. About a minute.
- As a notebook: open it with jupytext or an editor that knows `# %%` cells.

Letters in shapes: B batch (texts), T time (tokens), E embedding, H hidden, L layers, V vocabulary, C classes.
"""

# %%
import argparse
import io
import math
import sys
import tempfile
from pathlib import Path

import datasets
import torch
import transformers
from torch import nn
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, pipeline

from hf_rnn import (
    RnnConfig,
    RnnForSequenceClassification,
    RnnModel,
    RnnTrainer,
    RnnTrainingArguments,
    classification_metrics,
    encode,
    load_tsv,
    train_tokenizer,
)
from hf_rnn.data.samplers import LengthBucketedBatchSampler, padding_share

# A notebook has no __file__ but starts in its own folder, and its command line belongs to Jupyter.
HERE = Path(globals().get("__file__", "tutorial.ipynb")).resolve().parent
parser = argparse.ArgumentParser(description="Recurrent networks for the sentiment of tweets, one step per cell.")
parser.add_argument(
    "--data_dir", default=HERE.parent / "data" / "tweets", help="folder with train.tsv, dev.tsv, test.tsv"
)
parser.add_argument("--epochs", type=int, default=5, help="passes over the training tweets (default: %(default)s)")
arguments = parser.parse_args([] if "ipykernel" in sys.modules else None)
try:
    data = load_tsv(arguments.data_dir)
except ValueError as error:  # names file and line
    parser.error(str(error))
if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors="replace")  # for terminals without emoji
datasets.disable_progress_bars()
transformers.logging.disable_progress_bar()
workspace = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)


def title(text: str) -> None:
    """Start a section of the output."""
    print(f"\n--- {text} ---")


# %% [markdown]
# ## 1. Words become vectors
# A network computes with numbers, so every word gets an id, and every id a row of a table: the *embedding*. Looking up
# the T words of a sentence gives a matrix (T, E). Two sentences give two matrices, of different height as a rule.

# %%
title("1. words become vectors")
torch.manual_seed(123)
UNK, PAD = 0, 1
sentences = ["the coffee was great", "the queue was so very slow today"]
vocabulary = {"<unk>": UNK, "<pad>": PAD}
for word in " ".join(sentences).split():
    vocabulary.setdefault(word, len(vocabulary))
rows = [[vocabulary[word] for word in sentence.split()] for sentence in sentences]

embedding = nn.Embedding(num_embeddings=len(vocabulary), embedding_dim=5, padding_idx=PAD)
for sentence, row in zip(sentences, rows, strict=True):
    vectors = embedding(torch.tensor(row))
    print(f"{sentence!r} -> {row} -> {tuple(vectors.shape)}")
    assert vectors.shape == (len(sentence.split()), 5)

# %% [markdown]
# ## 2. Padding
# A batch is one tensor, and a tensor has no ragged edge. So the shorter sentence is filled up with the id of `<pad>`,
# whose row in the table is zero. `padding_idx` also keeps it zero: it never gets a gradient.

# %%
title("2. padding")
longest = max(len(row) for row in rows)
padded = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
vectors = embedding(padded)
print(padded)
print(f"embedded: {tuple(vectors.shape)} = (B, T, E)")
print("vector of <pad>:", vectors[0, -1].tolist())
(gradient,) = torch.autograd.grad(vectors.sum(), embedding.weight)
assert not vectors[0, len(rows[0]) :].any()
assert not gradient[PAD].any()
assert gradient[vocabulary["the"]].any()

# %% [markdown]
# A row of zeros looks harmless. It is not: section 8 shows what a recurrent network does when it reads one.

# %% [markdown]
# ## 3. How the vectors start, and how to freeze them
# torch draws an embedding from N(0, 1). Training then moves the rows of the words it sees. Vectors that are good
# already can be *frozen*: no gradient, no change. The setting `freeze_embedding` does that and, unlike a flag on a
# tensor, is stored with the model.

# %%
title("3. how the vectors start, and how to freeze them")
drawn = nn.Embedding(2000, 100).weight
print(f"torch's start:  mean {drawn.mean():+.3f}  standard deviation {drawn.std():.3f}")
model = RnnModel(RnnConfig(vocab_size=2000, embedding_size=100, freeze_embedding=True))
table = model.get_input_embeddings().weight
print(f"hf_rnn's start: mean {table.mean():+.3f}  standard deviation {table.std():.3f}")
for weights in (drawn, table):
    assert abs(weights.mean()) < 0.02
    assert abs(weights.std() - 1) < 0.02

embedding.weight.requires_grad_(False)  # by hand
model.save_pretrained(Path(workspace.name) / "frozen")
reloaded = RnnModel.from_pretrained(Path(workspace.name) / "frozen")
print(
    "frozen after saving and reloading:",
    [n for n, weights in reloaded.named_parameters() if not weights.requires_grad],
)
assert not embedding.weight.requires_grad
assert not reloaded.get_input_embeddings().weight.requires_grad

# %% [markdown]
# ## 4. The data
# One tweet a line, a tab, its label. `load_tsv` gives splits whose labels are numbered alike.

# %%
title("4. the data")
class_names = data["train"].features["label"].names
table_of_tweets = data["train"].to_pandas()
table_of_tweets["name"] = [class_names[label] for label in table_of_tweets["label"]]
print(table_of_tweets.head(8).to_string(max_colwidth=90))
for split, part in data.items():
    shares = [part["label"][:].count(label) / len(part) for label in range(len(class_names))]
    print(f"{split:10} {len(part):5} tweets ", *(f"{n} {s:.1%}" for n, s in zip(class_names, shares, strict=True)))
    assert math.isclose(sum(shares), 1)
majority = max(data["train"]["label"][:].count(label) for label in range(len(class_names))) / len(data["train"])
print(f"Always the commonest class is right for {majority:.1%} of the training tweets. That is the number to beat.")

# %% [markdown]
# ## 5. The vocabulary
# The training tweets decide which words the network knows: those seen at least twice, the most frequent first. All
# other words share `<unk>`. `normalizer="tweet"` first replaces links, handles and numbers by placeholders. Looking an
# unknown word up does not add it.

# %%
title("5. the vocabulary")
tokenizer = train_tokenizer(data["train"]["text"], min_frequency=2, normalizer="tweet")
V = len(tokenizer)
all_words = tokenizer.convert_ids_to_tokens(list(range(V)))
print(f"{V} entries, the first: {all_words[:12]}")
for word in ("the", "love", "qwertyuiop"):
    index = tokenizer.convert_tokens_to_ids(word)
    print(f"{word!r} -> {index} -> {tokenizer.convert_ids_to_tokens(index)!r}")
assert all_words[UNK] == "<unk>"
assert all_words[PAD] == "<pad>"
assert tokenizer.convert_tokens_to_ids(all_words) == list(range(V))  # there and back
assert tokenizer.convert_tokens_to_ids("qwertyuiop") == UNK
assert len(tokenizer) == V

# %% [markdown]
# ## 6. Batches
# `encode` turns each tweet into ids; the collator pads a batch to its longest tweet. How much padding that costs
# depends on which tweets meet: long and short ones in the order of the file, equals when sorted by length. The sampler
# sorts within pools of shuffled tweets, so that the batches still differ from epoch to epoch.

# %%
title("6. batches")
BATCH_SIZE = 4
encoded = encode(data, tokenizer)
lengths = [len(ids) for ids in encoded["train"]["input_ids"]]
collate = DataCollatorWithPadding(tokenizer)
batches = LengthBucketedBatchSampler(lengths, BATCH_SIZE, seed=123)
in_order = [list(range(start, min(start + BATCH_SIZE, len(lengths)))) for start in range(0, len(lengths), BATCH_SIZE)]
orders = {"in the order of the file": in_order, "sorted by length": list(batches)}
for name, order in orders.items():
    batch = collate([encoded["train"][index] for index in order[0]])
    print(f"a batch {name}: {tuple(batch['input_ids'].shape)} = (B, T)")
    for ids in batch["input_ids"]:
        print("   ", *tokenizer.convert_ids_to_tokens(ids))
    assert torch.equal(batch["attention_mask"], (batch["input_ids"] != PAD).long())
    assert sorted(index for part in order for index in part) == list(range(len(lengths)))  # each tweet once
padding = {name: padding_share(lengths, order) for name, order in orders.items()}
print("share of padding in all batches:", ", ".join(f"{share:.1%} {name}" for name, share in padding.items()))
assert padding["sorted by length"] <= padding["in the order of the file"]

# %% [markdown]
# ## 7. Slices of the embedding tensor
# A batch of ids (B, T) becomes (B, T, E). A slice along each axis is worth a look. Torch's recurrent layers want time
# first, (T, B, E): one step is then one slice, the same position of every text.

# %%
title("7. slices of the embedding tensor")
E, H = 300, 50
examples = tokenizer(
    ["so happy today", "this is the worst bus ride ever", "i love this song , love it , love it", "ok"],
    padding=True,
    return_tensors="pt",
)
ids, mask = examples["input_ids"], examples["attention_mask"]
B, T = ids.shape
embedding = nn.Embedding(V, E, padding_idx=PAD)
vectors = embedding(ids).detach()  # (B, T, E)
print(f"batch of ids {tuple(ids.shape)} -> vectors {tuple(vectors.shape)}")
print(f"vectors[0]       {tuple(vectors[0].shape)}: the first text, a row a token")
print(f"vectors[:, 0]    {tuple(vectors[:, 0].shape)}: the first token of every text")
print(f"vectors[0, 0]    {tuple(vectors[0, 0].shape)}: one token, {vectors[0, 0, :4].numpy().round(2)} ...")
print(f"vectors[0, -1]   {tuple(vectors[0, -1].shape)}: padding, {vectors[0, -1, :4].numpy()} ...")
time_first = vectors.transpose(0, 1)  # (T, B, E)
assert torch.equal(time_first[0], vectors[:, 0])
assert not vectors[0, -1].any()

# %% [markdown]
# ## 8. A recurrent layer, and why it must not read padding
# The layer walks over the tokens and keeps a state: h_t = tanh(W x_t + b + U h_(t-1) + c), from h_0 on, zero if not
# given. `output` holds the state after every step, `h_n` the last one: the whole text in H numbers.

# %%
title("8. a recurrent layer, and why it must not read padding")
rnn = nn.RNN(E, H)
h_0 = torch.zeros(1, B, H)  # (L, B, H)
with torch.no_grad():
    output, h_n = rnn(time_first, h_0)
    w_ih, w_hh, b_ih, b_hh = rnn.all_weights[0]
    state = h_0[0]
    for step in time_first:  # the same by hand
        state = torch.tanh(step @ w_ih.T + b_ih + state @ w_hh.T + b_hh)
print(f"output {tuple(output.shape)} = (T, B, H)   h_n {tuple(h_n.shape)} = (L, B, H)")
torch.testing.assert_close(state, h_n[0], atol=1e-5, rtol=0)
assert torch.equal(output[-1], h_n[-1])

# %% [markdown]
# The zero vector of `<pad>` removes W x_t from the sum, but b + U h_(t-1) + c stays: each padding step stirs the state
# again. Plain `nn.RNN` reads on to the end of the *longest* text, so what it says of a short one depends on its
# neighbours. `RnnModel` reads the same weights and stops at each text's own last token.


# %%
def with_weights_of(plain: nn.RNNBase, cell_type: str) -> RnnModel:
    """Give an RnnModel the weights of a torch layer and the embedding from above."""
    config = RnnConfig(
        vocab_size=V,
        embedding_size=E,
        cell_type=cell_type,
        hidden_size=H,
        num_hidden_layers=plain.num_layers,
        bidirectional=False,
    )
    model = RnnModel(config).eval()
    model.embedding.load_state_dict(embedding.state_dict())
    for number, layer in enumerate(model.layers):
        own = {name: weights for name, weights in plain.state_dict().items() if name.endswith(f"_l{number}")}
        layer.directions[0].cell.load_state_dict({name.replace(f"_l{number}", "_l0"): own[name] for name in own})
    return model


def compare_with_padding(plain: nn.RNNBase, model: RnnModel) -> None:
    """Show how far the final state of each text in the batch is from its state when it is read alone."""
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


model = with_weights_of(rnn, "rnn_tanh")
compare_with_padding(rnn, model)

# %% [markdown]
# Any other first state goes in as `initial_hidden_state`.

# %%
h_0 = torch.randn(1, B, H)
with torch.no_grad():
    longest_text = int(mask.sum(dim=1).argmax())  # it has no padding, so that plain torch is right about it, too
    expected = rnn(time_first, h_0)[1][-1, longest_text]
    got = model(ids, mask, initial_hidden_state=h_0, output_final_states=True).final_hidden_state[-1, longest_text]
torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)

# %% [markdown]
# ## 9. Two layers
# The second layer reads the states of the first. `output` shows the top layer only, `h_n` the last state of each, so
# the top one is in both: `output[-1] == h_n[-1]`. With padding in the batch both are wrong in the same way. In
# `RnnModel` h_n is the state after each text's own last token.

# %%
title("9. two layers")
two_layers = nn.RNN(E, H, num_layers=2)
with torch.no_grad():
    output, h_n = two_layers(time_first)
print(f"output {tuple(output.shape)} = (T, B, H)   h_n {tuple(h_n.shape)} = (L, B, H)")
assert torch.equal(output[-1], h_n[-1])
model = with_weights_of(two_layers, "rnn_tanh")
compare_with_padding(two_layers, model)
with torch.no_grad():
    encoded_texts = model(ids, mask, output_final_states=True)
states, h_n = encoded_texts.last_hidden_state, encoded_texts.final_hidden_state
last_token = mask.sum(dim=1) - 1
assert states.shape == (B, T, H)
assert h_n.shape == (2, B, H)
assert torch.equal(states[torch.arange(B), last_token], h_n[-1])
assert not states[mask == 0].any()  # where there is no token there is no state

# %% [markdown]
# ## 10. One vector for a tweet
# The state after the last token has read everything: it *represents* the tweet. `pooling="last"` takes it; `mean`,
# `max`, `mean_max` and `attention` look at all states instead.

# %%
title("10. one vector for a tweet")
SETTINGS = {
    "vocab_size": V,
    "embedding_size": E,
    "hidden_size": H,
    "num_hidden_layers": 2,
    "bidirectional": False,
    "pooling": "last",
    "classifier_activation": "relu",
    "sparse_embedding": True,  # gradients for the rows of a batch's own words only: plain SGD takes them
    "id2label": dict(enumerate(class_names)),
}
torch.manual_seed(123)
classifier = RnnForSequenceClassification(RnnConfig(cell_type="rnn_tanh", **SETTINGS)).eval()
with torch.no_grad():
    encoded_texts = classifier.rnn(ids, mask, output_final_states=True)
    representation, _ = classifier.pooler(encoded_texts.last_hidden_state, mask == 1)
states = encoded_texts.last_hidden_state
print(f"states {tuple(states.shape)} -> representation {tuple(representation.shape)} = (B, H)")
assert torch.equal(representation, encoded_texts.final_hidden_state[-1])

# %% [markdown]
# ## 11. The classifier, stage by stage
# Representation, ReLU, one linear layer to C scores (*logits*); softmax makes them shares.

# %%
title("11. the classifier, stage by stage")
with torch.no_grad():
    vectors = classifier.rnn.embedding(ids)
    states = classifier.rnn(ids, mask).last_hidden_state
    representation, _ = classifier.pooler(states, mask == 1)
    activated = classifier.activation(representation)
    logits = classifier.classifier(activated)
    shares_of_classes = logits.softmax(dim=-1)
stages = {
    "token ids (B, T)": ids,
    "embedding (B, T, E)": vectors,
    "states of the top layer (B, T, H)": states,
    "representation (B, H)": representation,
    "ReLU (B, H)": activated,
    "logits (B, C)": logits,
    "softmax (B, C)": shares_of_classes,
}
for name, tensor in stages.items():
    print(f"{name:35} {tuple(tensor.shape)}")
assert torch.equal(logits, classifier(ids, mask).logits)  # the model does just this
torch.testing.assert_close(shares_of_classes.sum(dim=-1), torch.ones(B))

# %% [markdown]
# ## 12. The loss of one batch
# Cross-entropy: minus the logarithm of the share given to the right class, averaged. Knowing nothing, that is log C.

# %%
title("12. the loss of one batch")
batch = collate([encoded["train"][index] for index in next(iter(batches))])
with torch.no_grad():
    result = classifier(**batch)
by_hand = -result.logits.log_softmax(dim=-1)[torch.arange(len(batch["labels"])), batch["labels"]].mean()
print(f"loss {result.loss:.4f}, by hand {by_hand:.4f}; knowing nothing {math.log(len(class_names)):.4f}")
torch.testing.assert_close(result.loss, by_hand)

# %% [markdown]
# ## 13. Training
# Batch by batch: forget old gradients, predict, take the loss, differentiate, step. After each epoch a look at the
# validation tweets, which the network never trains on.

# %%
title("13. training")
loader = DataLoader(encoded["train"], batch_sampler=batches, collate_fn=collate)


@torch.no_grad()
def score(model: RnnForSequenceClassification, batch_size: int = 64, read_padding: bool = False) -> torch.Tensor:
    """Return the logits (N, C) of the validation tweets; `read_padding` declares padding to be text."""
    model.eval()
    logits = []
    for batch in DataLoader(encoded["validation"], batch_size, collate_fn=collate):
        mask = torch.ones_like(batch["attention_mask"]) if read_padding else batch["attention_mask"]
        logits.append(model(batch["input_ids"], mask).logits)
    return torch.cat(logits)


def accuracy(logits: torch.Tensor) -> float:
    """Return the share of the validation tweets whose class is right."""
    return classification_metrics(logits.argmax(dim=-1), encoded["validation"]["labels"][:], class_names)["accuracy"]


def train(model: RnnForSequenceClassification, learning_rate: float) -> tuple[torch.optim.SGD, list[float]]:
    """Train by plain SGD, print a line per epoch, return the optimizer and the mean loss per epoch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    losses = []
    for epoch in range(arguments.epochs):
        batches.set_epoch(epoch)
        model.train()
        total, correct = 0.0, 0
        for batch in loader:
            optimizer.zero_grad()
            result = model(**batch)
            result.loss.backward()
            optimizer.step()
            total += result.loss.item()
            correct += int((result.logits.argmax(dim=-1) == batch["labels"]).sum())
        losses.append(total / len(batches))
        print(
            f"epoch {epoch + 1}/{arguments.epochs}  loss {losses[-1]:.3f}  train accuracy {correct / len(lengths):.3f}"
            f"  validation accuracy {accuracy(score(model)):.3f}"
        )
    return optimizer, losses


# %% [markdown]
# Plain SGD has one setting that matters more than all others here: the rate. At 0.3 a tanh RNN gets little further
# than the commonest class and may fall back; a tenth of that learns steadily.

# %%
results = {}
for rate in (0.3, 0.03):
    print(f"tanh RNN, rate {rate}")
    torch.manual_seed(123)
    classifier = RnnForSequenceClassification(RnnConfig(cell_type="rnn_tanh", **SETTINGS))
    optimizer, losses = train(classifier, rate)
    results[f"tanh RNN, rate {rate}"] = accuracy(score(classifier))
assert losses[-1] <= losses[0]

# %% [markdown]
# Now padding again, with a network that has learned something. Alone or among others, a tweet keeps its logits. If
# padding is declared to be text (a mask of ones, which is what plain `nn.RNN` does), the same weights give other
# answers.

# %%
logits, read_padding = score(classifier), score(classifier, read_padding=True)
changed = logits.argmax(dim=-1) != read_padding.argmax(dim=-1)
print(f"validation accuracy {accuracy(logits):.3f}; with padding read as text {accuracy(read_padding):.3f}")
print(f"{int(changed.sum())} of {len(changed)} tweets change their class, for instance:")
for index in changed.nonzero().flatten().tolist()[:3]:
    right, wrong = (class_names[scores[index].argmax()] for scores in (logits, read_padding))
    print(f"  {data['validation'][index]['text'][:80]!r}: {right}; with padding read {wrong}")
torch.testing.assert_close(score(classifier, batch_size=1), logits, atol=1e-4, rtol=0)

# %% [markdown]
# ## 14. Checkpoint and reload
# To resume later, keep the optimiser as well as the weights. `weights_only=True` loads tensors and plain values and
# refuses files that carry code. (A network of plain torch layers named `embedding`, `rnn_layer` and `linear_layer`,
# saved like this, becomes a model of this package by `RnnForSequenceClassification.from_tutorial_checkpoint`.)

# %%
title("14. checkpoint and reload")
path = Path(workspace.name) / "checkpoint.pt"
torch.save(
    {
        "epoch": arguments.epochs,
        "model_state_dict": classifier.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "loss": losses[-1],
    },
    path,
)
checkpoint = torch.load(path, weights_only=True)
again = RnnForSequenceClassification(classifier.config)  # new, with random weights
again.load_state_dict(checkpoint["model_state_dict"])
optimizer_again = torch.optim.SGD(again.parameters(), lr=1.0)
optimizer_again.load_state_dict(checkpoint["optimizer_state_dict"])
print(f"epoch {checkpoint['epoch']}, loss {checkpoint['loss']:.3f}, rate {optimizer_again.param_groups[0]['lr']}")
torch.testing.assert_close(score(again), logits)

batch = next(iter(loader))  # a further step is the same step in both
for model, steps in ((classifier, optimizer), (again, optimizer_again)):
    model.train()
    steps.zero_grad()
    model(**batch).loss.backward()
    steps.step()
for ours, theirs in zip(classifier.parameters(), again.parameters(), strict=True):
    torch.testing.assert_close(ours, theirs)

# %% [markdown]
# ## 15. GRU
# A *gated recurrent unit* computes how much of its state to keep. It has three times the weights of a plain RNN, the
# same h_0 and h_n, and holds on to a word for longer. It also bears the rate of 0.3, which the plain RNN did not.

# %%
title("15. GRU")
gru = nn.GRU(E, H, num_layers=2)
h_0 = torch.zeros(2, B, H)
with torch.no_grad():
    output, h_n = gru(time_first, h_0)
w_ih = gru.all_weights[0][0]
print(f"output {tuple(output.shape)}   h_n {tuple(h_n.shape)}   weights of the input {tuple(w_ih.shape)} = (3 H, E)")
assert w_ih.shape == (3 * H, E)
assert torch.equal(output[-1], h_n[-1])
compare_with_padding(gru, with_weights_of(gru, "gru"))

torch.manual_seed(123)
classifier = RnnForSequenceClassification(RnnConfig(cell_type="gru", **SETTINGS))
_, losses = train(classifier, learning_rate=0.3)
results["GRU, rate 0.3"] = accuracy(score(classifier))
assert losses[-1] <= losses[0]

# %% [markdown]
# ## 16. LSTM
# *Long short-term memory* has two states: h, which the next layer sees, and c, a memory that gates write, clear and
# read. So it starts from h_0 and c_0 and ends in h_n and c_n, and it has four times the weights.

# %%
title("16. LSTM")
lstm = nn.LSTM(E, H, num_layers=2)
h_0, c_0 = torch.randn(2, B, H), torch.randn(2, B, H)
with torch.no_grad():
    output, (h_n, c_n) = lstm(time_first, (h_0, c_0))
w_ih = lstm.all_weights[0][0]
print(f"output {tuple(output.shape)}   h_n {tuple(h_n.shape)}   c_n {tuple(c_n.shape)}")
print(f"weights of the input {tuple(w_ih.shape)} = (4 H, E)")
assert w_ih.shape == (4 * H, E)
assert torch.equal(output[-1], h_n[-1])
model = with_weights_of(lstm, "lstm")
compare_with_padding(lstm, model)
with torch.no_grad():
    final = model(ids, mask, initial_hidden_state=h_0, initial_cell_state=c_0, output_final_states=True)
    for number, length in enumerate(mask.sum(dim=1).tolist()):  # each text alone is what plain torch gets right
        one = slice(number, number + 1)
        _, (h_n, c_n) = lstm(time_first[:length, one], (h_0[:, one].contiguous(), c_0[:, one].contiguous()))
        torch.testing.assert_close(final.final_hidden_state[:, one], h_n, atol=1e-5, rtol=0)
        torch.testing.assert_close(final.final_cell_state[:, one], c_n, atol=1e-5, rtol=0)

torch.manual_seed(123)
classifier = RnnForSequenceClassification(RnnConfig(cell_type="lstm", **SETTINGS))
_, losses = train(classifier, learning_rate=0.3)
results["LSTM, rate 0.3"] = accuracy(score(classifier))
assert losses[-1] <= losses[0]

# %% [markdown]
# ## 17. The same with the Trainer
# The loop of section 13 is worth writing once. `RnnTrainer`, the Hugging Face Trainer with batches sorted by length,
# does the same and adds what a loop soon needs: devices, other optimisers, checkpoints, resuming, early stopping. With
# the settings of the loop its losses are those of the loop, until differences of rounding (it divides a sum where the
# loop takes a mean) have grown over many steps. The command `hf-rnn train` goes one step further: no code at all.

# %%
title("17. the same with the Trainer")
torch.manual_seed(123)
model = RnnForSequenceClassification(RnnConfig(cell_type="lstm", **SETTINGS))
trainer = RnnTrainer(
    model=model,
    args=RnnTrainingArguments(
        output_dir=str(Path(workspace.name) / "trainer"),
        optim="sgd",
        learning_rate=0.3,
        lr_scheduler_type="constant",  # the Trainer would let it fall to zero
        max_grad_norm=0.0,  # and would clip large gradients
        num_train_epochs=arguments.epochs,
        per_device_train_batch_size=BATCH_SIZE,
        logging_strategy="epoch",
        eval_strategy="epoch",
        save_strategy="no",
        seed=123,
        use_cpu=True,  # as the loop did
    ),
    train_dataset=encoded["train"],
    eval_dataset=encoded["validation"],
    processing_class=tokenizer,
    compute_metrics=lambda result: {"accuracy": accuracy(torch.as_tensor(result.predictions))},
)
trainer.train()
losses_of_trainer = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
print("loss by epoch, loop:   ", *(f"{loss:.3f}" for loss in losses))
print("loss by epoch, Trainer:", *(f"{loss:.3f}" for loss in losses_of_trainer))
assert abs(losses_of_trainer[0] - losses[0]) < 0.01
results["LSTM, rate 0.3, by the Trainer"] = accuracy(score(model))

# %% [markdown]
# Networks are chosen by validation tweets. Test tweets are for one last look, here at the one from the Trainer.

# %%
print("validation accuracy, best first:")
for name, value in sorted(results.items(), key=lambda item: -item[1]):
    print(f"  {value:.3f}  {name}")
if "test" in encoded:
    predicted = trainer.predict(encoded["test"])
    metrics = classification_metrics(predicted.predictions.argmax(axis=-1), predicted.label_ids, class_names)
    print(f"test: accuracy {metrics['accuracy']:.3f}, mean recall of the classes {metrics['macro_recall']:.3f}")
    for name, scores in metrics["per_class"].items():
        print(f"  {name:10} precision {scores['precision']:.3f}  recall {scores['recall']:.3f}  f1 {scores['f1']:.3f}")

# %% [markdown]
# A checkpoint is for resuming; a *pretrained folder* is for sharing. It holds settings, labels, weights and
# vocabulary, and `pipeline` loads it.

# %%
folder = Path(workspace.name) / "sentiment"
trainer.save_model(str(folder))  # the tokenizer goes along
print("saved:", ", ".join(sorted(file.name for file in folder.iterdir() if file.suffix in (".json", ".safetensors"))))
classify = pipeline("text-classification", model=str(folder))
for text in ("so happy with my new bike", "The bus is late again.", "does anyone know when the library opens?"):
    answer = classify(text)[0]
    print(f"{text!r} -> {answer['label']} ({answer['score']:.2f})")
    assert answer["label"] in class_names
workspace.cleanup()
