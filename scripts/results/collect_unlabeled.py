"""Collect texts for `hf-rnn distill --unlabeled` that do not repeat a row of the data set to learn.

    python scripts/results/collect_unlabeled.py --data_dir DIR --output_file texts.txt SOURCE [SOURCE ...]
    hf-rnn distill --teacher TEACHER --data_dir DIR --output_dir OUT --unlabeled texts.txt

A source has one text per line; of lines with tabs, the first column is taken, or that of --text_column, so the file of
another labelled data set works. Invalid lines are left out, and so are texts that repeat an earlier text or a row of
DIR in any split, exactly or nearly (by the rules of `hf-rnn audit`): a model must not learn from the rows it is scored
on. Prints the counts as one JSON object.
"""

import json
import sys
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.command_line import Parser, run
from common.semeval import build_semeval


def make_parser() -> Parser:
    """Declare the flags."""
    parser = Parser(__doc__)
    parser.add_argument("sources", nargs="+", type=Path, metavar="SOURCE", help="file with one text per line, UTF-8")
    parser.add_data_dir(required=True, action="append")
    parser.add_argument("--text_column", type=int, default=0, help="column in every SOURCE, from 0 (default: 0)")
    parser.add_argument("--header", action="store_true", help="the first line of every SOURCE names its columns")
    parser.add_argument("--output_file", type=Path, required=True, help="new file for the texts")
    parser.add_argument(
        "--normalizer",
        choices=("none", "semeval"),
        default="none",
        help="how the texts of DIR were normalized before they were written (default: %(default)s)",
    )
    return parser


def read_lines(source: Path, text_column: int) -> Iterator[str]:
    """Yield the text of each line, empty if the line is invalid or too short."""
    from hf_rnn.data.lines import read_texts

    with source.open("rb") as stream:
        for line in chain.from_iterable(read_texts(stream, source.name)):
            columns = line.split("\t") if isinstance(line, str) else []
            yield columns[text_column] if text_column < len(columns) else ""


def find_repeats(texts: list[str], rows: list[str]) -> tuple[set[int], set[int]]:
    """Return the numbers of the texts that repeat a row, and of those that repeat an earlier text."""
    from hf_rnn.data.audit import normalize_text

    known, seen = set(map(normalize_text, rows)), set[str]()
    repeat_rows, repeat_texts = set(), set()
    for number, text in enumerate(map(normalize_text, texts)):
        if text in known:
            repeat_rows.add(number)
        if text in seen:
            repeat_texts.add(number)
        seen.add(text)
    return repeat_rows, repeat_texts


def main() -> None:
    """Write the texts and print the counts."""
    parser = make_parser()
    flags = parser.parse_args()
    if flags.output_file.exists():
        parser.error(f"--output_file {flags.output_file} exists: give a new one")

    from hf_rnn import load_tsv

    splits = [
        split for folder in flags.data_dir for split in load_tsv(folder, max_bad_rows=flags.max_bad_rows).values()
    ]
    rows = [text for split in splits for text in split["text"]]
    read = (islice(read_lines(source, flags.text_column), int(flags.header), None) for source in flags.sources)
    lines = [" ".join(text.split()) for text in chain.from_iterable(read)]
    rewrite = str if flags.normalizer == "none" else build_semeval(lowercase=False).normalize_str
    pairs = [(line, text) for line in lines if (text := " ".join(rewrite(line).split()))]
    texts = [text for _, text in pairs]
    repeat_rows, repeat_texts = find_repeats(texts, rows)
    if flags.normalizer != "none":  # the rows of one folder may be raw
        repeat_rows |= find_repeats([line for line, _ in pairs], rows)[0]
    kept = [text for number, text in enumerate(texts) if number not in repeat_rows | repeat_texts]
    counts = {"lines": len(lines), "no_text": len(lines) - len(texts), "repeat_data": len(repeat_rows)}
    counts |= {"repeat_earlier": len(repeat_texts - repeat_rows), "kept": len(kept)}
    if not kept:
        parser.error(f"no text is left: {json.dumps(counts)}")
    flags.output_file.parent.mkdir(parents=True, exist_ok=True)
    flags.output_file.write_text("".join(f"{text}\n" for text in kept), encoding="utf-8", newline="\n")
    print(json.dumps({"output_file": str(flags.output_file), **counts}))


if __name__ == "__main__":
    run(main)
