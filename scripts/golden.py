"""Run every verb on small data and write what comes out, to compare two commits.

    python scripts/golden.py before/            # with the package of one commit
    python scripts/golden.py after/             # with that of another
    git diff --no-index before/ after/

A case is a list of `hf-rnn` commands in a folder of its own. Kept are the exit code of each
command, its output, the error lines of a failure and its files: weights as hashes, texts without
times, dates and versions. The same commit writes the same files twice on one machine.
"""

import argparse
import csv
import gzip
import hashlib
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
TWEETS = REPO / "data" / "tweets"
SMALL = (
    "--recipe scratch --hidden_size 12 --embedding_size 12 --num_train_epochs 2 --disable_tqdm yes"
)
BRIEF = "--num_train_epochs 1 --disable_tqdm yes"

# times, dates and versions differ between two runs
VARYING = [
    (re.compile(r'("[a-z_]*(?:seconds|date|version|time)[a-z_]*": )[^,\n}]+'), r"\1null"),
    (re.compile(r"\d{4}-\d\d-\d\d(T[\d:.+Z-]+)?"), "DATE"),
    (re.compile(r"\d[\d.,]* ?(s|seconds|minutes|ms)\b"), "TIME"),
    (re.compile(r"\d+\.\d+\.\d+(\+cpu)?"), "VERSION"),
    (re.compile(r"/tmp/[\w/-]*golden-\w+"), "FOLDER"),
]
IGNORED = {".png", ".onnx", ".arrow", ".xlsx", ".parquet", ".zst", ".npz", ".wasm", ".mjs"}


# ---- data ----


def read_tweets(split: str) -> list[list[str]]:
    """Return text and label of the rows of the sample."""
    lines = (TWEETS / f"{split}.tsv").read_text("utf-8").splitlines()
    return [line.split("\t") for line in lines]


def write_tables() -> None:
    """Write the tables of all cases into the working folder."""
    draw = random.Random(0)
    rows = read_tweets("train")[:300]
    plain = Path("plain")
    shutil.copytree(TWEETS, "tweets")
    plain.mkdir()
    for split, number in (("train", 300), ("dev", 60), ("test", 60)):
        lines = ["\t".join(row) for row in read_tweets(split)[:number]]
        (plain / f"{split}.tsv").write_text("\n".join(lines) + "\n", "utf-8")

    records = [
        {"message": text, "kind": label, "id": place} for place, (text, label) in enumerate(rows)
    ]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n", "utf-8")
    with open("rows.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "message", "kind"])
        writer.writeheader()
        writer.writerows(records)
    table = Path("rows.csv").read_text("utf-8")
    Path("rows.csv.gz").write_bytes(gzip.compress(table.encode("utf-8"), mtime=0))
    lines = ["text;label"]
    for text, label in rows:
        simple = re.sub('[;"]', ",", text)
        lines.append(f"{simple} é;{label}")
    Path("semicolons.csv").write_bytes("\n".join(lines).encode("cp1252", "replace"))
    import pandas

    frame = pandas.DataFrame(records)
    frame.to_parquet("rows.parquet")
    frame.to_excel("rows.xlsx", index=False)
    broken = [
        "good day\tpositive",
        "no label",
        "a\tb\tc",
        "\tnegative",
        "late\tnegative",
        '"quoted\tpositive',
    ]
    Path("broken.tsv").write_text("\n".join(broken * 20) + "\n", "utf-8")
    Path("lines.txt").write_text("\n".join(text for text, _ in rows[:40]) + "\n\nlast\n", "utf-8")

    words = ("late", "early", "good", "bad", "bus", "train", "shop", "day")
    texts = [" ".join(draw.choices(words, k=draw.randint(1, 9))) for _ in range(240)]
    labels = [",".join(sorted({"good", "bad", "bus"} & {*text.split()})) for text in texts]
    write_pairs("labels.tsv", texts, labels)
    write_pairs("numbers.tsv", texts, [str(text.count("o") / 2) for text in texts])
    pairs = [f"{first}\t{draw.choice(texts)}" for first in texts]
    write_pairs("pairs.tsv", pairs, [str(pair.count("good") > 1) for pair in pairs])
    tagged = []
    for text in texts:
        tagged += [f"{word} {'B-X' if word in ('bus', 'train') else 'O'}" for word in text.split()]
        tagged.append("")
    Path("tags.conll").write_text("\n".join(tagged) + "\n", "utf-8")
    Path("long.txt").write_text("\n".join(texts) + "\n", "utf-8")
    long_texts = [" ".join(draw.choices(texts, k=40)) for _ in range(160)]
    write_pairs(
        "long.tsv", long_texts, ["few" if text.count("bus") < 22 else "many" for text in long_texts]
    )
    make_teacher("bert", [text for text, _ in rows])
    few = sorted(rows, key=lambda row: row[1])
    few = few[:8] + few[-8:]
    write_pairs("few.tsv", [text for text, _ in few], [label for _, label in few])


def make_teacher(folder: str, texts: list[str]) -> None:
    """Leave a small BERT with the words of some texts in a folder."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = {*filter(str.isalpha, " ".join(texts).lower().split()), *map(chr, range(97, 123))}
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words)]
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=len(pieces), intermediate_size=16, **sizes))
    model.save_pretrained(folder)
    Path(folder, "vocab.txt").write_text("\n".join(pieces) + "\n", "utf-8")
    BertTokenizerFast(str(Path(folder, "vocab.txt"))).save_pretrained(folder)


def write_pairs(name: str, texts: list[str], labels: list[str]) -> None:
    """Write a table of two columns without a header."""
    lines = [f"{text}\t{label}" for text, label in zip(texts, labels, strict=True)]
    Path(name).write_text("\n".join(lines) + "\n", "utf-8")


# ---- cases ----

CASES: dict[str, list[str]] = {
    "default": [
        f"train tweets out {BRIEF}",
        "evaluate out tweets --split test --target .9 --typos .2 --output_file worst.csv",
        "predict out 'best concert of my life' 'bus late again, (so tired) @you' ''",
        "predict out 'best concert of my life' --explain yes --top_k 2",
        "predict out --input rows.csv --text_column message --output_file answers.csv --target .9",
        "predict out --input rows.jsonl --text_column message --output_file answers.jsonl "
        "--all_scores yes",
        "predict out --input lines.txt",
        "compare out rows.csv rows.jsonl --text_column message",
        "export out --web yes",
        "push out me/tweets --dry_run yes",
    ],
    "scratch": [
        f"train plain out {SMALL} --cell_type lstm --typos .2",
        f"train plain pooled {SMALL} --cell_type gru --pooling attention --tokenizer char",
        f"train plain bpe {SMALL} --cell_type min_gru --tokenizer bpe --max_vocab_size 400 "
        "--calibrate yes",
        "export out",
        "evaluate pooled plain --split dev",
        "predict bpe --input lines.txt --all_scores yes",
    ],
    "fast": [f"train plain out --recipe fast {BRIEF}", "predict out 'so good'"],
    "tables": [
        f"train rows.csv out {SMALL} --text_column message --label_column kind",
        f"train rows.jsonl jsonl {SMALL} --text_column message --label_column kind",
        f"train rows.parquet parquet {SMALL} --text_column message --label_column kind",
        f"train rows.xlsx excel {SMALL} --text_column message --label_column kind",
        f"train semicolons.csv semicolons {SMALL}",
        "predict out --input rows.csv.gz --output_file answers.tsv",
        "predict out --input rows.parquet --output_file answers.csv",
        f"train broken.tsv broken {SMALL}",
        f"train broken.tsv broken {SMALL} --max_bad_rows 90%",
        f"train rows.csv wrong {SMALL} --text_column nothing",
        f"train missing.csv wrong {SMALL}",
        "predict out --input missing.csv",
    ],
    "audit": [
        "audit tweets --json yes",
        "audit tweets --labels yes",
        "audit rows.csv --text_column message --label_column kind",
    ],
    "few": [f"train few.tsv out {BRIEF}", "predict out 'so good' 'so bad'"],
    "long": [
        f"train long.tsv out {BRIEF}",
        "evaluate out long.tsv",
        "predict out --input long.tsv",
    ],
    "labels": [
        f"train labels.tsv out {SMALL} --task multi-label",
        "predict out 'good bus' --explain yes",
        "evaluate out labels.tsv --output_file worst.jsonl",
    ],
    "numbers": [
        f"train numbers.tsv out {SMALL} --task regression",
        "predict out 'good bus' 'shop'",
        "evaluate out numbers.tsv",
    ],
    "pairs": [
        f"train pairs.tsv out {SMALL} --text_pair_column 1 --label_column 2",
        "predict out 'good bus' --text_pair 'good shop'",
    ],
    "tags": [
        f"train tags.conll out --task token-classification {BRIEF}",
        "predict out 'the bus is late, the train early'",
        "evaluate out tags.conll --output_file worst.jsonl",
    ],
    "language-model": [
        "train long.txt out --task causal-lm --hidden_size 16 --embedding_size 16 "
        "--num_train_epochs 1 --disable_tqdm yes",
        "evaluate out long.txt",
    ],
    "stream": [
        f"train plain out {BRIEF} --streaming yes",
        "predict out 'so good' 'so bad'",
    ],
    "students": [
        f"train plain teacher {SMALL}",
        f"distill plain teacher out {SMALL} --unlabeled lines.txt",
        "predict out 'so good'",
    ],
    "pretrain": [
        "pretrain bert lines.txt out --hidden_size 16 --num_train_epochs 1 --disable_tqdm yes",
        f"train plain tuned --model_name_or_path out {BRIEF}",
    ],
    "mistakes": [
        "train",
        "train plain out --hidden_size many",
        "train plain out --no_such_flag 3",
        "predict nowhere 'so good'",
        "evaluate nowhere plain",
        "export nowhere",
        "audit nowhere",
        "nonsense",
    ],
}


def strip(text: str) -> str:
    """Return a text without what differs between two runs."""
    for pattern, replacement in VARYING:
        text = pattern.sub(replacement, text)
    return text


def hash_weights(path: Path) -> str:
    """Return a line per tensor: name, shape and hash."""
    import torch
    from safetensors.torch import load_file

    tensors = load_file(path)
    lines = []
    for name, tensor in sorted(tensors.items()):
        content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        digest = hashlib.sha256(content).hexdigest()[:16]
        lines.append(f"{name} {tensor.dtype} {tuple(tensor.shape)} {digest}")
    return "\n".join(lines) + "\n"


def keep_file(path: Path, place: Path) -> None:
    """Keep what must be equal of a file."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        place.with_suffix(".weights").write_text(hash_weights(path))
    elif path.suffix in IGNORED:
        place.with_suffix(path.suffix + ".exists").write_text("")
    elif path.name == "tokenizer.json":
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        place.with_suffix(".sha256").write_text(digest + "\n")
    else:
        place.write_text(strip(path.read_text("utf-8", "replace")), "utf-8")


def run_case(name: str, output: Path) -> None:
    """Run the commands of a case in a new folder, and keep what comes out."""
    shutil.rmtree(output / name, ignore_errors=True)
    here = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        os.chdir(folder)
        write_tables()
        before = {*Path().rglob("*")}
        lines: list[str] = []
        for command in CASES[name]:
            words = [sys.executable, "-m", "hf_rnn", *shlex.split(command)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            lines += [f"$ hf-rnn {command}", done.stdout, f"exit code {done.returncode}"]
            if done.returncode:
                lines.append(done.stderr[-1500:])
        (output / name).mkdir(parents=True)
        (output / name / "commands.txt").write_text(strip("\n".join(lines)), "utf-8")
        for path in sorted({*Path().rglob("*")} - before):
            if path.is_file() and "checkpoints" not in path.parts:
                keep_file(path, output / name / "files" / path)
        os.chdir(here)


def main() -> None:
    """Run the cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("--only", nargs="+", choices=sorted(CASES), default=sorted(CASES))
    args = parser.parse_args()
    output = args.output.resolve()
    for name in args.only:
        print(name, file=sys.stderr)
        run_case(name, output)


if __name__ == "__main__":
    main()
