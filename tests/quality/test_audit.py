"""The audit against a brute-force reference and numbers worked by hand."""

import json
import random

import datasets
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from hf_rnn import train_tokenizer
from hf_rnn.data.near_repeats import normalize_text
from hf_rnn.quality.audit import audit, render_text
from hf_rnn.utils.errors import UserError

LABELS = ["bad", "good", "plain"]
LONG = "one two three four five six seven eight nine ten eleven twelve"


def as_dataset(splits, names=LABELS):
    """A DatasetDict from rows (text, label name) by split."""
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=names)
    )
    columns = {
        name: {"text": [row[0] for row in rows], "label": [row[1] for row in rows]}
        for name, rows in splits.items()
    }
    return datasets.DatasetDict(
        {name: datasets.Dataset.from_dict(each, features) for name, each in columns.items()}
    )


def overlap_of(report, source, split):
    (overlap,) = [
        part for part in report.overlaps if (part["source"], part["split"]) == (source, split)
    ]
    return overlap


# ---- duplicates ----


def brute_force(splits, source, split):
    """Return whether each repeated row has a twin of another label, and allowed twins."""
    expected, twins = {}, {}
    for row, (text, label) in enumerate(splits[split]):
        same = [
            other
            for other, (twin, _) in enumerate(splits[source])
            if text.lower().split() == twin.lower().split() and (source != split or row != other)
        ]
        if any(source != split or other < row for other in same):
            others = [other for other in same if splits[source][other][1] != label]
            expected[row], twins[row] = bool(others), others or same
    return expected, twins


def test_brute_force_gives_the_same_rows():
    chance = random.Random(0)
    bases = [" ".join(chance.choices("abcdefghij", k=chance.randrange(1, 5))) for _ in range(90)]
    rows = [
        (chance.choice([str.upper, str])(chance.choice(bases)), chance.choice(LABELS))
        for _ in range(200)
    ]
    splits = {"train": rows[:120], "validation": rows[120:150], "test": rows[150:]}
    report, sorts = audit(as_dataset(splits)), set()
    for overlap in report.overlaps:
        source, split = overlap["source"], overlap["split"]
        expected, twins = brute_force(splits, source, split)
        differ = {
            part["place"]["row"]: part["label"] != part["twin_label"] for part in overlap["repeats"]
        }
        assert differ == expected and overlap["exact"] == len(expected)
        assert overlap["exact_other_label"] == sum(expected.values())
        for repeat in overlap["repeats"]:
            row, twin = repeat["place"]["row"], repeat["twin"]["row"]
            assert (repeat["place"]["split"], repeat["twin"]["split"]) == (
                split,
                source,
            ) and twin in twins[row]
            assert (repeat["label"], repeat["twin_label"]) == (
                splits[split][row][1],
                splits[source][twin][1],
            )
            sorts.add((repeat["label"] != repeat["twin_label"], source == split))
    assert len(sorts) == 4, "every sort of repeat is among them"


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("Good  morning ", "good\tMORNING", True),
        ("Straße", "STRASSE", True),
        ("café", "cafe\u0301", True),
        ("non\u00a0breaking", "non breaking", True),
        ("good!", "good", False),
        ("ab c", "a bc", False),
    ],
)
def test_normalised_texts(a, b, equal):
    assert (normalize_text(a) == normalize_text(b)) == equal


def test_conflicts():
    report = audit(as_dataset({"train": [("a b", "good"), ("other", "bad"), ("A  b", "plain")]}))
    (conflict,) = report.conflicts["found"]
    rows = {
        label: [place["row"] for place in places] for label, places in conflict["places"].items()
    }
    assert rows == {"good": [0], "plain": [2]} and report.summary()["conflicts"] == {
        "texts": 1,
        "rows": 2,
    }


def test_unknown_tokens():
    tokenizer = train_tokenizer(["a a a", "b b b", "a b c"], min_frequency=3)
    dataset = as_dataset(
        {"train": [("a b c", "good"), ("A", "bad")], "test": [("d e " * 600 + "a", "good")]}
    )
    assert list(audit(dataset).splits["train"]["label_counts"].items()) == [
        ("bad", 1),
        ("good", 1),
        ("plain", 0),
    ]
    with pytest.raises(UserError, match="test has no rows"):
        audit(datasets.DatasetDict(dataset | {"test": dataset["test"].select([])}))
    shares = audit(dataset, tokenizer).summary()["unknown_token_share"]
    assert shares == {"train": 1 / 4, "test": 1200 / 1201}
    for without in (None, PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE()))):
        assert audit(dataset, without).splits["train"]["unknown_token_share"] is None


# ---- the report ----


def test_summary_and_json():
    splits = {
        "train": [(LONG, "good"), ("other words here", "bad")],
        "validation": [
            *((f"{number} is alone", "good") for number in range(9)),
            ("Other words  here", "good"),
        ],
        "test": [
            ("nothing like it", "bad"),
            (f"{LONG} ", "good"),
            (LONG.upper(), "good"),
            ("7 is alone", "good"),
        ],
    }
    report = audit(as_dataset(splits), origins={"test": ("tests.tsv", range(2, 6))})
    everything = json.loads(json.dumps(report.to_dict()))
    summary = everything["summary"]
    assert summary == report.summary()
    assert summary["leaks"]["test"]["train"] == {"exact": 2, "exact_other_label": 0, "share": 0.5}
    assert summary["leaks"]["validation"]["train"]["exact_other_label"] == 1
    assert summary["duplicates"]["train"]["exact"] == 0
    assert summary["leak_share"] == 0.5, "that of the worst split, of train only"
    assert overlap_of(report, "validation", "test")["share"] == 0.25
    (leaks,) = [
        each
        for each in everything["overlaps"]
        if (each["source"], each["split"]) == ("train", "test")
    ]
    assert leaks["repeats"][0] == {
        "place": {"split": "test", "row": 1, "line": 3},
        "twin": {"split": "train", "row": 0, "line": None},
        "label": "good",
        "twin_label": "good",
        "text": f"{LONG} ",
        "twin_text": LONG,
    }
    assert everything["splits"]["test"]["file"] == "tests.tsv"


def test_the_text_report_prints_no_control_characters():
    rows = [(f"bell \x1b[31m\u202e rings {number}", "good") for number in range(5)] * 2 + [
        ("Bell", "ba\x07d")
    ]
    dataset = as_dataset({"train": rows, "test": rows[:1]}, ["ba\x07d", "good"])
    text = "\n".join(render_text(audit(dataset, origins={"test": ("some/test.tsv", [12])})))
    assert "some/test.tsv:12" in text and "5 of 11 rows of train repeat" in text
    assert all(line.isprintable() for line in text.split("\n"))


# ---- the command ----


def test_command_names_lines_and_uses_the_tokenizer_of_train(command, tmp_path):
    text = "Ένα two three four five six seven eight nine ten eleven twelve"
    rows = {
        "train": [("a b c", "good"), (text, "bad"), ("d e f", "good")] + [("k l m", "good")] * 2,
        "dev": [("g h i", "bad"), (f"{text} ", "good")],
    }
    for name, each in rows.items():
        body = "".join(
            f"{number}\t{label}\t{line}\r\n" for number, (line, label) in enumerate(each)
        )
        (tmp_path / f"{name}.tsv").write_bytes(f"id\tclass\ttweet\r\n{body}".encode())
    flags = ("--text_column", "tweet", "--label_column", "class")
    own = ("--recipe", "scratch", "--min_frequency", "2")
    code, out, err = command("audit", "--data_dir", tmp_path, *flags, *own, "--json")
    columns = "text from column 'tweet', label from column 'class'"
    assert (code, err) == (0, f"{tmp_path / 'train.tsv'}: {columns}\n")
    report = json.loads(out)
    (leak,) = next(each for each in report["overlaps"] if each["source"] != each["split"])[
        "repeats"
    ]
    assert leak["place"] == {"split": "validation", "row": 1, "line": 3}
    assert leak["twin"] == {"split": "train", "row": 1, "line": 3}
    assert report["splits"]["validation"]["file"] == str(tmp_path / "dev.tsv")
    unknown = len((text + " a b c d e f").split()) / len(
        (text + " a b c d e f k l m k l m").split()
    )
    assert report["summary"]["unknown_token_share"]["train"] == pytest.approx(unknown), (
        "k, l and m occur twice"
    )
