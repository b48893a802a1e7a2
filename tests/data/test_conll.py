"""Tagged sentences: every token is kept or refused with its place, in any scheme of tags."""

import gzip

import pytest

from hf_rnn.data.conll import load_conll, to_iob2
from hf_rnn.data.errors import DataError
from hf_rnn.data.report import DataReport

CONLL_2003 = """\
-DOCSTART- -X- O O

# a comment of five words
EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC
Italian JJ I-NP B-MISC
# NN O O

"""


def write(folder, **splits):
    for name, text in splits.items():
        (folder / f"{name}.conll").write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def rows(dataset):
    names = dataset.features["ner_tags"].feature.names
    return [
        list(zip(row["tokens"], (names[tag] for tag in row["ner_tags"]), strict=True))
        for row in dataset
    ]


def test_a_file_of_conll_2003(tmp_path):
    """Spaces, document marks, comments, a token `#`, and IOB1."""
    data = load_conll(write(tmp_path, train=CONLL_2003, dev=CONLL_2003), tag_column=3)
    expected = [
        ("EU", "B-ORG"),
        ("rejects", "O"),
        ("German", "B-MISC"),
        ("Italian", "B-MISC"),
        ("#", "O"),
    ]
    assert rows(data["train"]) == rows(data["validation"]) == [expected]
    assert data["train"].features["ner_tags"].feature.names == [
        "O",
        "B-MISC",
        "I-MISC",
        "B-ORG",
        "I-ORG",
    ]
    parts_of_speech = load_conll(tmp_path, tag_column=1)
    assert [tag for _, tag in rows(parts_of_speech["train"])[0]] == ["NNP", "VBZ", "JJ", "JJ", "NN"]


FORMS = [
    (
        '\ufeffa b\tX\r\n\u00a0\tY\r\n\r\n\r\n"q\u2028\tX',
        [[("a b", "X"), ("\u00a0", "Y")], [('"q\u2028', "X")]],
    ),
    ("\ufeff\ufeff X\na Y\n", [[("\ufeff", "X"), ("a", "Y")]]),
    ("1-10\tX\nb\tY\n", [[("1-10", "X"), ("b", "Y")]]),
    ("a X\nb Y\n-DOCSTART- O\nc X\n", [[("a", "X"), ("b", "Y")], [("c", "X")]]),
    (
        "# sentence\n# 1\na X\n# X\nb Y\n\n# three words here\nc X\n",
        [[("a", "X"), ("#", "X"), ("b", "Y")], [("c", "X")]],
    ),
    ("# a comment\n# X\nb Y\nc X\n", [[("#", "X"), ("b", "Y"), ("c", "X")]]),
    ("# id 7\tdomain=en\na _ _ O\nb _ _ B-x\n", [[("a", "O"), ("b", "B-x")]]),
    (
        "1-2\tdu" + "\t_" * 8 + "\n1\tde" + "\t_" * 7 + "\tX\n2\tle" + "\t_" * 7 + "\tY\n",
        [[("1", "X"), ("2", "Y")]],
    ),
]


@pytest.mark.parametrize(("text", "expected"), FORMS)
def test_words_of_all_formats(tmp_path, text, expected):
    (tmp_path / "train.conll.gz").write_bytes(gzip.compress(text.encode()))
    assert rows(load_conll(tmp_path, validation_share=0)["train"]) == expected


BAD = [
    (b"word", "too few fields"),
    (b"\t", "empty text"),
    (b"a\tb\tX", "too many fields"),
    (b"word\t", "empty label"),
    (b"w\xff\tX", "not UTF-8"),
]


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_each_bad_line_is_refused_with_its_place(tmp_path, line, reason):
    write(tmp_path, train=b"good\tX\n" + line + b"\nbetter\tY\n\n" * 2, dev=b"good\tY\n")
    with pytest.raises(DataError, match=f"train.conll:2: {reason}"):
        load_conll(tmp_path)
    report, listed = DataReport(), tmp_path / "rejected.jsonl"
    data = load_conll(tmp_path, max_bad_rows=2, rejected_path=listed, report=report)
    counts = report.splits["train"]
    assert counts.rows_read == counts.rows_kept + sum(counts.rejected.values())
    assert sum(counts.rejected.values()) == len(listed.read_text().splitlines()) >= 1
    assert sum(map(len, rows(data["train"]))) == counts.rows_kept


def test_a_tag_that_train_lacks_is_refused(tmp_path):
    write(tmp_path, train="a\tX\nb\tY\n", dev="a\tX\n\nb\tZ\n")
    with pytest.raises(DataError, match="dev.conll:3: unknown label: tag 'Z', known are 'X', 'Y'"):
        load_conll(tmp_path)


def test_a_tenth_is_held_out(tmp_path):
    """Equal sentences stay on one side."""
    words = [" ".join(f"w{number}x{place}" for place in range(19)).split() for number in range(20)]
    sentences = [[*row, "a"] for row in words] * 2
    text = "".join(
        "".join(f"{word}\t{'XY'[word < 'b']}\n" for word in row) + "\n" for row in sentences
    )
    write(tmp_path, train=text)
    data, whole = load_conll(tmp_path), load_conll(tmp_path, validation_share=0)["train"]
    assert sorted(rows(data["train"]) + rows(data["validation"])) == sorted(rows(whole))
    first = {split: {row[0] for row in found["tokens"]} for split, found in data.items()}
    assert len(data["validation"]) == 4 and first["train"].isdisjoint(first["validation"])


def test_rows_in_memory_and_of_the_library(tmp_path):
    data = load_conll(write(tmp_path, train=CONLL_2003, dev=CONLL_2003))
    again = load_conll(data)
    assert rows(again["train"]) == rows(data["train"])
    pairs = load_conll(
        {"train": [(["a", "b"], ["X", "Y"])] * 2, "test": [(["b"], ["Y"])]}, validation_share=0
    )
    assert rows(pairs["test"]) == [[("b", "Y")]]
    with pytest.raises(DataError, match="no column 'ner_tags': found 'tokens', 'tags'"):
        load_conll({"train": [{"tokens": ["a", "b"], "tags": ["X", "Y"]}]})
    with pytest.raises(DataError, match="2 tokens and 1 tags"):
        load_conll({"train": [{"tokens": ["a", "b"], "ner_tags": ["X"]}]})
    with pytest.raises(DataError, match="row 1: empty text"):
        load_conll({"train": [(["a", "b"], ["X", "Y"]), (["a", None], ["X", "Y"])]})
    with pytest.raises(DataError, match="row 0: unknown label: tag '-1', known are 'O'"):
        load_conll(data["train"].map(lambda row: {"ner_tags": [-1] * len(row["tokens"])}))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("I-a I-a O I-b B-b I-b", "B-a I-a O B-b B-b I-b"),  # IOB1
        # IOB2, with an I- that continues nothing
        ("B-a I-a I-b O B-b B-b", "B-a I-a B-b O B-b B-b"),
        ("B-a E-a S-a O B-b I-b E-b", "B-a I-a B-a O B-b I-b I-b"),
        ("B-a L-a U-a U-b O B-b L-b", "B-a I-a B-a B-b O B-b I-b"),
        ("B-a M-a E-a W-b O", "B-a I-a I-a B-b O"),
    ],
)
def test_every_scheme_is_read(written, expected):
    assert to_iob2(written.split()) == expected.split()


CLEAN = "Anna U-person\nBo O\n\nNew B-place\nOld I-place\nTown L-place\n\n" * 20


def test_an_odd_tag_among_tags_of_entities_is_refused(tmp_path):
    write(tmp_path, train=CLEAN + "x 0\n")
    with pytest.raises(DataError, match=r"train\.conll:141: unknown label: tag '0'"):
        load_conll(tmp_path)
    names = load_conll(tmp_path, max_bad_rows=1)["train"].features["ner_tags"].feature.names
    assert names == ["O", "B-person", "I-person", "B-place", "I-place"]
