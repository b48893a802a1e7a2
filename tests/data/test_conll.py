"""Tagged sentences: every token is kept or refused with its place, in any scheme of tags."""

import itertools

import pytest
from seqeval.scheme import IOB1, IOB2, IOBES, Entities

from hf_rnn.data import DataError, DataReport, load_conll
from hf_rnn.data.conll import convert_tags, load_tagged, write_conll
from hf_rnn.utils.errors import UserError

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
    return [list(zip(row["tokens"], (names[tag] for tag in row["ner_tags"]), strict=True)) for row in dataset]


def test_a_file_of_conll_2003(tmp_path):
    """Spaces, document marks, comments, a token `#`, and IOB1."""
    data = load_conll(write(tmp_path, train=CONLL_2003, dev=CONLL_2003), tag_column=3)
    expected = [("EU", "B-ORG"), ("rejects", "O"), ("German", "B-MISC"), ("Italian", "B-MISC"), ("#", "O")]
    assert rows(data["train"]) == rows(data["validation"]) == [expected]
    assert data["train"].features["ner_tags"].feature.names == ["O", "B-MISC", "I-MISC", "B-ORG", "I-ORG"]
    parts_of_speech = load_conll(tmp_path, tag_column=1)
    assert [tag for _, tag in rows(parts_of_speech["train"])[0]] == ["NNP", "VBZ", "JJ", "JJ", "NN"]


def test_bytes_are_kept(tmp_path):
    text = '\ufeffa b\tX\r\n\u00a0\tY\r\n\r\n\r\n"q\u2028\tX'
    data = load_conll(write(tmp_path, train=text), validation_share=0)
    assert rows(data["train"]) == [[("a b", "X"), ("\u00a0", "Y")], [('"q\u2028', "X")]]


BAD = [
    (b"word", "too few fields"),
    (b"a\tb\tX", "too many fields"),
    (b"word\t", "empty label"),
    (b"w\xff\tX", "not UTF-8"),
]


@pytest.mark.parametrize(("line", "reason"), BAD)
@pytest.mark.parametrize("streaming", [False, True])
def test_each_bad_line_is_refused_with_its_place(tmp_path, line, reason, streaming):
    write(tmp_path, train=b"good\tX\n" + line + b"\nbetter\tY\n\n" * 2, dev=b"good\tY\n")
    with pytest.raises(DataError, match=f"train.conll:2: {reason}"):
        load_conll(tmp_path)
    report, listed = DataReport(), tmp_path / "rejected.jsonl"
    data = load_conll(tmp_path, max_bad_rows=2, rejected_path=listed, report=report, streaming=streaming)
    counts = report.splits["train"]
    assert counts.rows_read == counts.rows_kept + sum(counts.rejected.values())
    assert sum(counts.rejected.values()) == len(listed.read_text().splitlines()) >= 1
    assert sum(map(len, rows(data["train"]))) == counts.rows_kept


def test_a_tag_that_train_lacks_is_refused(tmp_path):
    write(tmp_path, train="a\tX\nb\tY\n", dev="a\tX\n\nb\tZ\n")
    with pytest.raises(DataError, match="dev.conll:3: unknown label: tag 'Z', known are 'X', 'Y'"):
        load_conll(tmp_path)


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        ({}, {}, "train.conll"),
        ({"train": "word\nword\n"}, {}, "found 1 column"),
        ({"train": "a\tX\nb\tY\n"}, {"tag_column": 2}, "label_column 2: found 2 columns"),
        ({"train": "a\tX\n\n" * 20}, {}, "at least two tags"),
    ],
)
def test_unusable_files(tmp_path, files, settings, message):
    with pytest.raises(UserError, match=message):
        load_conll(write(tmp_path, **files), **settings)


def test_streams_and_tables_hold_out_the_same_sentences(tmp_path):
    write(tmp_path, train="".join(f"w{number}\t{'XY'[number % 2]}\n\n" for number in range(40)))
    table, stream = load_conll(tmp_path), load_conll(tmp_path, streaming=True)
    for split in ("train", "validation"):
        assert rows(table[split]) == rows(stream[split])
    assert len(table["validation"]) == 4
    whole = load_conll(tmp_path, validation_share=0)["train"]
    assert sorted(rows(table["train"]) + rows(table["validation"])) == sorted(rows(whole))


def test_rows_in_memory_and_of_the_library(tmp_path):
    data = load_conll(write(tmp_path, train=CONLL_2003, dev=CONLL_2003))
    again = load_tagged(data)
    assert rows(again["train"]) == rows(data["train"])
    pairs = load_tagged({"train": [(["a", "b"], ["X", "Y"])] * 2, "test": [(["b"], ["Y"])]}, validation_share=0)
    assert rows(pairs["test"]) == [[("b", "Y")]]
    with pytest.raises(DataError, match="2 tokens and 1 tags"):
        load_tagged({"train": [{"tokens": ["a", "b"], "ner_tags": ["X"]}]})


@pytest.mark.parametrize(("name", "scheme"), [("IOB1", IOB1), ("IOB2", IOB2), ("IOBES", IOBES)])
def test_schemes_agree_with_seqeval(name, scheme):
    """All taggings of four words in IOB2, written in each scheme, hold the same entities."""
    for tags in itertools.product(["O", "B-a", "I-a", "B-b", "I-b"], repeat=4):
        if any(tag[0] == "I" and before[2:] != tag[2:] for before, tag in itertools.pairwise(["O", *tags])):
            continue  # not IOB2
        written = convert_tags(tags, name)
        found, expected = Entities([written], scheme).entities, Entities([list(tags)], IOB2).entities
        assert [entity.to_tuple() for entity in found[0]] == [entity.to_tuple() for entity in expected[0]]
        assert convert_tags(written) == list(tags)


def test_files_are_written_as_they_are_read(tmp_path):
    data = load_conll(write(tmp_path, train=CONLL_2003, dev=CONLL_2003))
    (tmp_path / "again").mkdir()
    for scheme in ("IOB1", "IOB2", "IOBES"):
        write_conll(data["train"], tmp_path / "again" / "train.conll", scheme)
        assert rows(load_conll(tmp_path / "again", validation_share=0)["train"]) == rows(data["train"])
