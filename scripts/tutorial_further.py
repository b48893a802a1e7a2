# %% [markdown]
"""# Recurrent networks for text, further: language models, taggers and the residual block.

The second notebook of the course; `tutorial.ipynb` is the first and explains RNN, GRU, LSTM and
minGRU. Letters in shapes: B batch (texts), T time (tokens), R residual stream.
"""

# %%
import subprocess
import sys
import sysconfig
from pathlib import Path

REPOSITORY = "https://github.com/YOUR-NAME/hf-rnn"  # where this repository is: the package is on no index yet

if "google.colab" in sys.modules:
    command = [sys.executable, "-m", "pip", "install", "-q", f"hf-rnn[plots] @ git+{REPOSITORY}"]
    subprocess.run(command, check=True)
sys.path.append(str(Path(sysconfig.get_path("data"), "share", "hf_rnn")))

import math

import datasets
import numpy as np
import torch
import transformers
import tutorial_helpers as pictures
from torch import nn
from torch.utils.data import DataLoader
from transformers import DataCollatorForTokenClassification, pipeline

import hf_rnn
from hf_rnn import RnnConfig, RnnModel

datasets.disable_progress_bars()
transformers.logging.disable_progress_bar()
transformers.logging.set_verbosity_error()
data = hf_rnn.load_tsv(pictures.DATA)
print("ready")

# %% [markdown]
# # Part 9: Other uses of recurrent networks
# A recurrent network gives a state per word and one for the text. The layer on top makes the task: the state of the
# whole text gives its class, each state predicts the next token (a language model), or the tag of its word. Two
# networks make a *translator*: an encoder reads the sentence in one language, and a language model that starts from
# its last state writes it in the other ([Sutskever et al. 2014](https://arxiv.org/abs/1409.3215)); attention was
# invented for it.
#
# ## 9.1 A language model that writes tweets
# Each character is predicted from those before it; the targets are the text itself, one place further. After 400 steps
# it spells short words and makes no sense. More text and more steps help: see
# `hf_rnn/tasks/causal-lm.md`.

# %%
tweets = {split: "\n".join(data[split]["text"]) for split in ("train", "validation")}
letters = hf_rnn.train_tokenizer(tweets["train"].splitlines(True), 3, lowercase=False, tokenizer="char", exact=True)
letter_ids = {split: torch.tensor(letters(text)["input_ids"]) for split, text in tweets.items()}
torch.manual_seed(0)
writer = hf_rnn.RnnForCausalLM(
    RnnConfig(vocab_size=len(letters), embedding_size=32, hidden_size=128, cell_type="gru", bidirectional=False)
)
optimizer = torch.optim.AdamW(writer.parameters(), lr=5e-3)
losses = []
for step in range(400):
    starts = torch.randint(len(letter_ids["train"]) - 65, (32,))
    windows = torch.stack([letter_ids["train"][start : start + 65] for start in starts.tolist()])
    loss = writer(windows, labels=windows).loss
    loss.backward()
    nn.utils.clip_grad_norm_(writer.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
    if (step + 1) % 100 == 0:
        print(f"step {step + 1}: loss per character {np.mean(losses[-100:]):.3f}")
writer.eval()
windows = letter_ids["validation"][: len(letter_ids["validation"]) // 65 * 65].view(-1, 65)
with torch.no_grad():
    unseen = writer(windows, labels=windows).loss.item()
written = writer.generate(**letters("I am ", return_tensors="pt"), max_new_tokens=200, do_sample=True, temperature=0.7)
print(f"on the validation tweets {unseen:.3f}; it writes:\n{letters.decode(written[0])}")
guessing = (math.log(len(letters)), f"guessing: log {len(letters)}")
pictures.draw_lines("9_language_model", {"loss": losses}, "step", "loss per character", level=guessing)
assert unseen < 0.6 * guessing[0]

# %% [markdown]
# ## 9.2 A tagger that marks names
# Each word gets a tag: `B-` begins a name, `I-` continues it, `O` is outside. The sentences are made from eight
# patterns, with names of random syllables. No name of the validation sentences occurs in training, so the network must
# find them by their neighbours and their capitals. Most words are not names, so the share of all tags that are right
# says little: look at the names alone. A conditional random field (`crf`) on top scores whole taggings, so that `I-`
# never follows `O`.

# %%
PATTERNS = [
    "yesterday P met P in L .", "P lives near L with his sister", "we took the train to L and saw P",
    "is P still in L ?", "the road from L to L was closed", "P sent P a long letter", "nobody in L knew where P was",
    "I like the soup",
]  # fmt: skip
SYLLABLES = ["ba", "do", "fi", "ga", "hu", "ka", "lo", "mi", "na", "po", "ra", "se", "ti", "vu", "wen", "zor"]
TAGS = ["O", "B-person", "I-person", "B-place", "I-place"]
draw, owner = np.random.default_rng(0), {}


def make_word(split: str) -> str:
    """Return an invented word that no other split has."""
    while True:
        word = "".join(draw.choice(SYLLABLES, draw.integers(2, 4))).capitalize()
        if owner.setdefault(word, split) == split:
            return word


# %%
def make_sentences(split: str, count: int) -> datasets.Dataset:
    """Return invented sentences as tokens and tags."""
    sentences = {"tokens": [], "ner_tags": []}
    for pattern in draw.choice(PATTERNS, count):
        tokens, tags = [], []
        for word in pattern.split():
            begin = {"P": 1, "L": 3}.get(word, 0)
            words = [make_word(split) for _ in range(draw.integers(1, 3))] if begin else [word]
            tokens += words
            tags += [begin + (place > 0) for place in range(len(words))]
        sentences["tokens"].append(tokens)
        sentences["ner_tags"].append(tags)
    tag_lists = datasets.List(datasets.ClassLabel(names=TAGS))
    kinds = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "ner_tags": tag_lists})
    return datasets.Dataset.from_dict(sentences, features=kinds)


# %%
tagged = {"train": make_sentences("train", 400), "validation": make_sentences("validation", 100)}
sentences = [" ".join(row) for row in tagged["train"]["tokens"]]
words_of = hf_rnn.train_tokenizer(sentences, 2, tokenizer="bpe", normalizer="cased")
examples_of = {split: hf_rnn.encode_tagged(part, words_of) for split, part in tagged.items()}
torch.manual_seed(0)
tagger = hf_rnn.RnnForTokenClassification(
    RnnConfig(
        vocab_size=len(words_of), embedding_size=48, hidden_size=48, id2label=dict(enumerate(TAGS)),
        embedding_dropout=0.5, hidden_dropout=0.5, word_dropout=0.1, crf=True, word_forms=1024,
    )
)  # fmt: skip
tagger.words.read(words_of.convert_ids_to_tokens(range(len(words_of))))  # prefixes, suffixes and shapes of the tokens

# %%
optimizer = torch.optim.AdamW(tagger.parameters(), lr=5e-3)
fill = DataCollatorForTokenClassification(words_of)
for epoch in range(8):
    losses = []
    for batch in DataLoader(examples_of["train"], 16, shuffle=True, collate_fn=fill):
        losses.append(tagger(**batch).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    print(f"epoch {epoch + 1}  loss {torch.stack(losses).mean():.3f}")

# %%
tagger.eval()
batch = fill(list(examples_of["validation"]))
right_tags = batch.pop("labels")
with torch.no_grad():
    found = tagger(**batch).logits.argmax(-1) == right_tags
print(f"right: {found[right_tags >= 0].float().mean():.3f} of all tags, ", end="")
print(f"{found[right_tags > 0].float().mean():.3f} of those of names, none of them seen in training")
for number, tag in enumerate(TAGS):
    print(f"  {tag:9} {found[right_tags == number].float().mean():.3f} of {(right_tags == number).sum()}")
find = pipeline("token-classification", model=tagger, tokenizer=words_of, aggregation_strategy="simple")
for sentence in ("yesterday Nora Quist met Ole in New Haven .", "is Eva Lund still in Bern ?"):
    print(sentence, "->", [(sentence[e["start"] : e["end"]], e["entity_group"]) for e in find(sentence)])
assert found[right_tags > 0].float().mean() > 0.8

# %% [markdown]
# This is the easiest case: validation sentences follow the patterns of training, and real ones do not. The names in
# the last two lines are made of other syllables. For real texts see
# `hf_rnn/tasks/token-classification.md`.
#
# **Exercise**
#
# 9.1 `temperature` divides the logits before the softmax. Compare the entropy of the next character at 0.2, 1 and 2.
#
# # Part 10: The residual block, and why depth reads order
# ## 10.1 The block from nothing
# The English encoder of this package is a stack of residual blocks (`block_type="residual"`). A block changes a stream
# of states $x$ twice, and each change is *added*, so that gradients reach the words through any number of blocks:
#
# $$u = \mathrm{conv}(\mathrm{norm}(x)), \qquad
# x \leftarrow x + W_o\,(\mathrm{SiLU}(W_g u) \odot [\overrightarrow{\mathrm{minGRU}}(u);
# \overleftarrow{\mathrm{minGRU}}(u)]), \qquad x \leftarrow x + \mathrm{MLP}(\mathrm{norm}(x))$$
#
# Layer norm gives each state mean 0 and standard deviation 1, the short convolution mixes each word with its two
# neighbours, the minGRUs carry memory along the text, the gate chooses what of it this word needs, and the MLP
# thinks about each word alone.

# %%
pictures.draw_diagram("block")


class TwoMinGrus(nn.Module):
    """A minGRU in each direction: states (T, B, R) in, (T, B, 2 R) out."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.ahead, self.back = nn.Linear(size, 2 * size), nn.Linear(size, 2 * size)
        with torch.no_grad():  # units remember from one word to about a hundred: gates from half open to nearly closed
            for cell in (self.ahead, self.back):
                cell.bias[:size] = -torch.linspace(0, math.log(100), size)

    @staticmethod
    def read(sums: torch.Tensor) -> torch.Tensor:
        """Return the states (T, B, R) from the sums of gate and candidate (T, B, 2 R)."""
        gates, candidates = sums.chunk(2, dim=-1)
        state, states = torch.zeros_like(candidates[0]), []
        for z, candidate in zip(gates.sigmoid(), candidates, strict=True):
            state = (1 - z) * state + z * candidate
            states.append(state)
        return torch.stack(states)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        """Read from the first word to the last, and from the last to the first."""
        return torch.cat([self.read(self.ahead(u)), self.read(self.back(u.flip(0))).flip(0)], dim=-1)


# %%
class Block(nn.Module):
    """The formula above, without a part if asked for: states (T, B, R) in, states (T, B, R) out."""

    def __init__(self, size: int, without: str = "") -> None:
        super().__init__()
        self.without = without
        self.input_norm, self.mlp_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.conv = nn.Parameter(torch.tensor([[0.0], [1.0], [0.0]]).repeat(1, size))  # starts as the word itself
        self.mixer = TwoMinGrus(size)
        self.gate_proj, self.out_proj = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)
        self.up_proj, self.down_proj = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix along time, then along features."""
        u = self.input_norm(x)
        if self.without != "convolution":
            u = nn.functional.pad(u, (0, 0, 0, 0, 1, 1))  # zeros before and after the text
            u = u[:-2] * self.conv[0] + u[1:-1] * self.conv[1] + u[2:] * self.conv[2]
        gate = 1 if self.without == "gate" else nn.functional.silu(self.gate_proj(u))
        x = x + self.out_proj(gate * self.mixer(u))
        return x if self.without == "MLP" else x + self.down_proj(nn.functional.silu(self.up_proj(self.mlp_norm(x))))


# %% [markdown]
# Is it the same as the package's? Copy the weights of a model with three blocks, random as they start, and compare.

# %%
torch.manual_seed(0)
sizes = {"vocab_size": 50, "embedding_size": 16, "hidden_size": 24, "num_hidden_layers": 3, "pad_token_id": None}
theirs = RnnModel(RnnConfig(block_type="residual", cell_type="min_gru", **sizes)).eval()
RENAMED = {"directions.0.cell": "ahead", "directions.1.cell": "back", "_ih_l0": "", "conv.weight": "conv"}
ids = torch.randint(50, (4, 12))
with torch.no_grad():
    stream = theirs.projection(theirs.embedding(ids)).transpose(0, 1)  # (T, B, R)
    for block in theirs.layers:
        copied = {}
        for name, values in block.state_dict().items():
            for old, new in RENAMED.items():
                name = name.replace(old, new)
            copied[name] = values
        mine = Block(24)
        mine.load_state_dict(copied)
        stream = mine(stream)
    difference = (theirs.norm(stream).transpose(0, 1) - theirs(ids).last_hidden_state).abs().max().item()
print(f"three blocks of {sum(p.numel() for p in mine.parameters())} weights; largest difference {difference:.1e}")
assert difference < 1e-5

# %% [markdown]
# ## 10.2 Questions, where the order of the words is everything
# Three people like three things; the last word is a name: what does this person like? Every text has the same names
# and the same things, so that only their order answers, and guessing has 0.333.


# %%
PEOPLE, THINGS = ["anna", "bob", "carl"], ["tea", "jam", "figs"]
LEXICON = [*PEOPLE, *THINGS, "likes", "hot", "fresh", "sweet", "?"]


def make_questions(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return texts as ids (B, T), and the numbers of the right things."""
    people, things = torch.rand(count, 3).argsort(dim=1), torch.rand(count, 3).argsort(dim=1)
    likes, kinds = torch.full((count, 3), LEXICON.index("likes")), torch.randint(7, 10, (count, 3))
    facts = torch.stack([people, likes, kinds, things + 3], dim=2).flatten(1)
    asked = torch.randint(3, (count, 1))
    question = torch.cat([torch.full((count, 1), LEXICON.index("?")), people.gather(1, asked)], dim=1)
    return torch.cat([facts, question], dim=1), things.gather(1, asked)[:, 0]


torch.manual_seed(0)
for text, thing in zip(*make_questions(2), strict=True):
    print(*(LEXICON[number] for number in text), "->", THINGS[thing])

# %% [markdown]
# Readers answer from the state of the last word: the mean of all words, one layer of minGRUs in both directions, one
# block, also without each of its parts, two blocks, and one layer of LSTMs to compare. The learning rate rises at
# first and falls to zero at the end (*one cycle*): large steps in the middle, small ones where it settles.


# %%
class Bag(nn.Module):
    """The mean of all words, at each word: no order."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mean."""
        return x.mean(dim=0, keepdim=True)


def answer_questions(layers: list[nn.Module], width: int, steps: int = 400) -> np.ndarray:
    """Train on fresh questions; return the accuracy, a mean over twenty steps."""
    network = nn.ModuleList([nn.Embedding(len(LEXICON), R), *layers, nn.LayerNorm(width), nn.Linear(width, 3)])
    optimizer = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    accuracies = []
    for _ in range(steps):
        texts, answers = make_questions(64)
        states = texts.T
        for layer in network:
            states = layer(states)
            states = states[0] if isinstance(layer, nn.LSTM) else states
        logits = states[-1]  # the state of the last word
        nn.functional.cross_entropy(logits, answers).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        accuracies.append((logits.argmax(-1) == answers).float().mean().item())
    return np.convolve(accuracies, np.ones(20) / 20, "valid")


# %%
R = 32
curves = {}
for name, make_layers, width in (
    ("mean of the words", lambda: [Bag()], R),
    ("one layer of minGRUs", lambda: [TwoMinGrus(R)], 2 * R),
    ("block without convolution", lambda: [Block(R, "convolution")], R),
    ("block without gate", lambda: [Block(R, "gate")], R),
    ("block without MLP", lambda: [Block(R, "MLP")], R),
    ("one block", lambda: [Block(R)], R),
    ("two blocks", lambda: [Block(R), Block(R)], R),
    ("one layer of LSTMs", lambda: [nn.LSTM(R, R, bidirectional=True)], 2 * R),
):
    torch.manual_seed(0)
    curves[name] = answer_questions(make_layers(), width)
    learned_at = int(np.argmax(curves[name] > 0.95))
    print(f"{name:25} accuracy {curves[name][-1]:.3f}", f"above 0.95 from step {learned_at}" if learned_at else "")
pictures.draw_lines("10_order", curves, "training step", "accuracy", level=(1 / 3, "guessing"))
assert curves["mean of the words"][-1] < 0.45
assert max(curves["one layer of minGRUs"][-1], curves["block without gate"][-1]) < 0.6
assert min(curves["one block"][-1], curves["two blocks"][-1]) > 0.95

# %% [markdown]
# One layer of minGRUs guesses, like the mean of the words: its gates read one word, its state is a weighted sum of
# words, and a sum cannot pick what belongs to the name at the end. The block's gate can: it *multiplies* the memory by
# what this word asks for. Without the gate, the block guesses too; without the convolution, which shows each word its
# neighbours, it learns less in 400 steps; the MLP is not needed here. This is what depth means: the parts behind the
# memory read states, not words, and so do all gates of a second block. For three people one block is enough, and the
# second gains nothing; real texts need more (the English encoder has several).
#
# The gates of an LSTM read its last state, so that one layer can learn the task too. The price is that each step waits
# for the one before, while a minGRU computes all steps at once: depth gives back what its gates do not see.
#
# **Exercise**
#
# 10.1 A minGRU needs no loop. With $a_t = 1 - z_t$ and $p_t = a_1 \cdots a_t$ its states are
# $h_t = p_t \sum_{s \le t} z_s \tilde h_s / p_s$. Compute them by `cumprod` and `cumsum`, and compare with the
# package.
