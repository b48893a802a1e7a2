"""Texts without labels for `hf-rnn distill --unlabeled`, none of which repeats a row of the data set that is learned.

    python scripts/collect_unlabeled.py --data_dir DIR --output_file texts.txt SOURCE [SOURCE ...]
    hf-rnn distill --teacher TEACHER --data_dir DIR --output_dir OUT --unlabeled texts.txt

A source has one text a line; of a line with tabs the first column is taken, or that of --text_column, so that the file
of another labelled data set serves as it is. Left out are lines that are no text, and texts that repeat an earlier one
or a row of DIR in any split, exactly or nearly, as `hf-rnn audit` understands it: what the model is measured on must
not be learned from.
"""

import argparse
import json
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path

import command_line


def parse_flags() -> argparse.Namespace:
    """Read the flags."""
    parser = command_line.Parser(__doc__)
    parser.add_argument("sources", nargs="+", type=Path, metavar="SOURCE", help="file with one text a line, UTF-8")
    parser.add_argument(
        "--data_dir",
        type=Path,
        required=True,
        action="append",
        help="folder with train.tsv, dev.tsv, test.tsv; once more for another form of its texts",
    )
    parser.add_argument(
        "--max_bad_rows", default="0", help="go on without so many rows of DIR: a count, or such as 0.1%%"
    )
    parser.add_argument(
        "--text_column", type=int, default=0, help="column of the text in every SOURCE, from 0 (default: 0)"
    )
    parser.add_argument("--header", action="store_true", help="the first line of every SOURCE names its columns")
    parser.add_argument("--output_file", type=Path, required=True, help="where the texts go: a file that is not there")
    parser.add_argument(
        "--normalizer",
        choices=("none", "semeval"),
        default="none",
        help="what was done to the texts of DIR before they were written; is done here too (default: none)",
    )
    flags = parser.parse_args()
    flags.refuse = partial(parser.refuse, others=("--text_column", "--header"))  # they are of a SOURCE, not of DIR
    if flags.output_file.exists():
        parser.error(f"--output_file {flags.output_file} is there already: take another")
    if not flags.output_file.absolute().parent.is_dir():
        parser.error(f"--output_file {flags.output_file}: there is no folder {flags.output_file.parent}")
    if flags.text_column < 0:
        parser.error(f"--text_column counts from 0, found {flags.text_column}")
    for source in flags.sources:
        if source.is_dir() or not source.exists():  # a named pipe is as good as a file
            parser.error(f"{source} is a folder: give its files" if source.is_dir() else f"there is no file {source}")
    return flags


def read_lines(source: Path, text_column: int) -> Iterator[str]:
    """Yield the text of each line of a file, empty where there is none or it cannot be read."""
    from hf_rnn.data.line_reader import read_texts

    with source.open("rb") as stream:
        for block in read_texts(stream, source.name):
            for line in block:
                columns = line.split("\t") if isinstance(line, str) else []
                yield columns[text_column] if text_column < len(columns) else ""


def find_repeats(texts: list[str], rows: list[str]) -> tuple[set[int], set[int]]:
    """Return the numbers of the texts that repeat a row, and of those that repeat an earlier text."""
    from hf_rnn.data.audit import RepeatFinder, normalize_text

    known: dict[str, int] = {}
    numbers = [[known.setdefault(normalize_text(text), len(known)) for text in part] for part in (rows, texts)]
    finder = RepeatFinder(list(known), numbers, [[0] * len(part) for part in numbers])
    return {twin.row for twin in finder.find(0, 1)}, {twin.row for twin in finder.find(1, 1)}


def main() -> None:
    """Write the texts, and print what became of the lines as one JSON object."""
    flags = parse_flags()

    from datasets import disable_progress_bars

    from hf_rnn import load_tsv
    from hf_rnn.tokenizers.normalizers import build_normalizer
    from hf_rnn.utils.atomic_write import write_whole
    from hf_rnn.utils.errors import UserError

    disable_progress_bars()
    try:
        found = [load_tsv(folder, max_bad_rows=flags.max_bad_rows) for folder in flags.data_dir]
        read = (islice(read_lines(source, flags.text_column), int(flags.header), None) for source in flags.sources)
        lines = [" ".join(text.split()) for text in chain.from_iterable(read)]
    except (UserError, OSError) as error:
        flags.refuse(str(error))
    rows = [text for splits in found for split in splits.values() for text in split["text"]]
    rewrite = str if flags.normalizer == "none" else build_normalizer("semeval", lowercase=False)[0].normalize_str
    forms = ((line, " ".join(rewrite(line).split())) for line in lines)
    pairs = [(line, text) for line, text in forms if text]
    texts = [text for _, text in pairs]
    of_rows, of_texts = find_repeats(texts, rows)
    if flags.normalizer != "none":  # the rows of one folder may be as they were before
        of_rows |= find_repeats([line for line, _ in pairs], rows)[0]
    repeats = of_rows | of_texts
    kept = [text for number, text in enumerate(texts) if number not in repeats]
    counts = {"lines": len(lines), "no_text": len(lines) - len(texts)}
    counts |= {"repeat_data": len(of_rows), "repeat_earlier": len(of_texts - of_rows), "kept": len(kept)}
    if not kept:
        flags.refuse(f"no text is left: {json.dumps(counts)}")
    if flags.output_file.exists():
        flags.refuse(f"--output_file {flags.output_file} is there by now: take another")
    try:
        write_whole(flags.output_file, "".join(f"{text}\n" for text in kept).encode())
    except OSError as error:
        flags.refuse(f"--output_file {flags.output_file} cannot be written: {error.strerror}")
    print(json.dumps({"output_file": str(flags.output_file), **counts}))


if __name__ == "__main__":
    command_line.run(main)
