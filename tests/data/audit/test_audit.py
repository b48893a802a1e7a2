"""The audit against planted findings, a brute-force reference, scikit-learn, scipy and real tweets."""

import json
import random
import shutil
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
from conftest import NEUTRAL
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from sklearn.feature_extraction.text import CountVectorizer
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from hf_rnn import load_tsv, train_tokenizer
from hf_rnn.data.audit import Origin, Place, audit, render_line, render_text
from hf_rnn.data.audit.near_duplicates import NearIndex, TripleSets, jaccard
from hf_rnn.data.audit.normalizing import normalize_text
from hf_rnn.training.recipes import load_recipe
from hf_rnn.utils.errors import UserError

SHARED = Path(__file__).parents[4] / "shared" / "data"
LABELS = ["bad", "good", "plain"]


def as_dataset(splits, names=LABELS):
    """A DatasetDict from rows (text, label name) by split."""
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=names))
    columns = {
        name: {"text": [row[0] for row in rows], "label": [row[1] for row in rows]} for name, rows in splits.items()
    }
    return datasets.DatasetDict({name: datasets.Dataset.from_dict(each, features) for name, each in columns.items()})


def overlap_of(report, source, split):
    (found,) = [each for each in report.overlaps if (each.source, each.split) == (source, split)]
    return found


def found_rows(report, source, split):
    """Row -> (kind, whether it has such a twin of another label)."""
    return {
        repeat.place.row: (repeat.kind, repeat.label != repeat.twin_label)
        for repeat in overlap_of(report, source, split).repeats
    }


class Planted:
    """Texts of words that occur nowhere else, and copies of them at known rows of known splits."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.made = 0
        self.splits = {name: [] for name in ("train", "validation", "test")}
        self.expected = {}  # (source, split) -> {row: (kind, other label)}

    def text(self, words):
        self.made += 1
        return " ".join(f"w{self.made}x{number}" for number in range(words))

    def add(self, split, text, label):
        self.splits[split].append((text, label))
        return len(self.splits[split]) - 1

    def expect(self, source, split, row, kind, other_label):
        self.expected.setdefault((source, split), {})[row] = (kind, other_label)

    def exactly(self, text):
        changed = self.chance.choice([str.upper, str.title, lambda t: t.replace(" ", "  ") + " ", str])(text)
        return changed

    def nearly(self, text):
        """12 triples become 13 of which 12 are shared: 12/13."""
        return self.chance.choice([f"{text} more", f"more {text}"])

    def fill(self, split, count):
        for _ in range(count):
            self.add(split, self.text(self.chance.randrange(1, 20)), self.chance.choice(LABELS))

    def plant(self, source, split, kind, label):
        """A text in the source, then its copy in the split."""
        text, own = self.text(14), self.chance.choice(LABELS)
        self.add(source, text, own)
        row = self.add(split, self.exactly(text) if kind == "exact" else self.nearly(text), label or own)
        self.expect(source, split, row, kind, (label or own) != own)


@pytest.mark.parametrize("seed", range(5))
def test_planted_repeats_are_found_and_nothing_else(seed, tmp_path):
    planted = Planted(seed)
    plants = [
        (source, split, kind, label)
        for source, split in (
            ("train", "train"),
            ("validation", "validation"),
            ("test", "test"),
            ("train", "validation"),
            ("train", "test"),
            ("validation", "test"),
        )
        for kind in ("exact", "near")
        for label in (None, None, "good")
    ]
    planted.chance.shuffle(plants)
    for plant in plants:
        for split in planted.splits:
            planted.fill(split, planted.chance.randrange(4))
        planted.plant(*plant)
        # not near: of 9 triples 7 are shared, 7/11; two words alone have no triple
        close = planted.text(11)
        planted.add("train", close, "good")
        planted.add("test", f"before that {close[: close.rindex(' ', 0, close.rindex(' '))]}", "bad")
        short = planted.text(2)
        planted.add("train", short, "good")
        planted.add("test", f"{short} end", "good")
    for name, rows in planted.splits.items():
        (tmp_path / f"{name}.tsv").write_text("".join(f"{text}\t{label}\n" for text, label in rows), newline="\n")

    report = audit(load_tsv(tmp_path))

    assert sum(map(len, planted.expected.values())) == len(plants)
    for overlap in report.overlaps:
        pair = overlap.source, overlap.split
        assert found_rows(report, *pair) == planted.expected.get(pair, {}), pair
        assert overlap.rows == len(planted.splits[overlap.split])
    conflicts = {
        tuple(sorted(place.row for places in each.places.values() for place in places)) for each in report.conflicts
    }
    assert len(conflicts) == sum(found == ("exact", True) for found in planted.expected["train", "train"].values())
    for rows in conflicts:
        texts, labels = zip(*(planted.splits["train"][row] for row in rows), strict=True)
        assert len({" ".join(text.lower().split()) for text in texts}) == 1
        assert len(set(labels)) > 1


def brute_force(splits, source, split):
    """What `found_rows` must be, and the allowed twins of each row, from every pair of rows."""

    def words(text):
        return text.lower().split()

    def triples(text):
        return set(zip(words(text), words(text)[1:], words(text)[2:], strict=False))

    expected, twins = {}, {}
    for row, (text, label) in enumerate(splits[split]):
        same, near = [], []
        for other, (twin, _) in enumerate(splits[source]):
            if source == split and row == other:
                continue
            if words(text) == words(twin):
                same.append(other)
            elif (either := triples(text) | triples(twin)) and len(triples(text) & triples(twin)) * 5 >= len(
                either
            ) * 4:
                near.append(other)
        for kind, found in (("exact", same), ("near", near)):
            if [other for other in found if source != split or other < row]:
                others = [other for other in found if splits[source][other][1] != label]
                expected[row] = (kind, bool(others))
                twins[row] = others or [other for other in found if source != split or other < row]
                break
    return expected, twins


def check_against_brute_force(splits):
    """Compare all overlaps; return how many rows of each sort there were."""
    report = audit(as_dataset(splits))
    sorts = {}
    for overlap in report.overlaps:
        expected, twins = brute_force(splits, overlap.source, overlap.split)
        assert found_rows(report, overlap.source, overlap.split) == expected
        for repeat in overlap.repeats:
            assert repeat.place.split == overlap.split
            assert repeat.twin.split == overlap.source
            assert repeat.twin.row in twins[repeat.place.row]
            assert repeat.label == splits[overlap.split][repeat.place.row][1]
            assert repeat.twin_label == splits[overlap.source][repeat.twin.row][1]
            assert repeat.similarity == 1 if repeat.kind == "exact" else 0.8 <= repeat.similarity <= 1
            sort = (repeat.kind, repeat.label != repeat.twin_label, overlap.source == overlap.split)
            sorts[sort] = sorts.get(sort, 0) + 1
    return sorts


def mutate(text, chance):
    words = text.split()
    for _ in range(chance.choice([0, 1, 1, 2])):
        place = chance.choice([0, len(words), chance.randrange(len(words) + 1)])
        words[place : place + chance.randrange(2)] = chance.choices("uvwxyz", k=chance.randrange(2))
    return " ".join(words) or "u"


@pytest.mark.parametrize("seed", range(4))
def test_brute_force_gives_the_same_rows(seed):
    chance = random.Random(seed)
    bases = [" ".join(chance.choices("abcdefghij", k=chance.randrange(1, 40))) for _ in range(60)]
    rows = [(mutate(chance.choice(bases), chance), chance.choice(LABELS)) for _ in range(300)]
    sorts = check_against_brute_force({"train": rows[:180], "validation": rows[180:230], "test": rows[230:]})
    assert len(sorts) == 8, "every sort of repeat is among them"
    assert min(sorts.values()) >= 3


@given(
    st.lists(st.tuples(st.text("ab", min_size=1, max_size=14), st.sampled_from(LABELS)), min_size=3, max_size=24),
    st.integers(0, 2**32),
)
@settings(max_examples=150, deadline=None)
def test_brute_force_gives_the_same_rows_for_words_of_two_kinds(rows, seed):
    rows = [(" ".join(text), label) for text, label in rows]
    first, second = sorted(random.Random(seed).sample(range(1, len(rows)), 2))
    check_against_brute_force({"train": rows[:first], "validation": rows[first:second], "test": rows[second:]})


def test_a_single_twin_is_found_wherever_it_stands_among_many_candidates():
    """Few triples that all texts share, so that a search goes through several blocks before it comes upon the twin."""
    chance = random.Random(11)
    texts = sorted({" ".join(chance.choices("abc", k=chance.randrange(9, 14))) for _ in range(500)})
    index = NearIndex(TripleSets(texts), np.arange(len(texts)))
    pairs = [
        (item, twin) for item in range(len(texts)) for twin in range(item) if jaccard(texts[item], texts[twin]) >= 0.8
    ]
    assert len(pairs) > 20
    for item, twin in pairs:
        near = {other for pair in pairs if item in pair for other in pair} - {item}
        for start in range(twin + 1):
            assert index.search(item, (start, twin + 1)) in near
        assert index.search(item, (0, 0), (twin, twin + 1)) == twin
        assert index.search(item, (twin, twin), (item, item + 1)) is None


@pytest.mark.parametrize("words", [6, 7, 8, 9, 10, 12, 16])
def test_templates_with_places_to_fill(words):
    """Rows that share most of their words, in front, behind or between: on either side of what is near."""
    chance = random.Random(words)
    frames = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=words)) for _ in range(2)]
    rows = []
    for number in range(240):
        filled = list(frames[number % 2])
        for place in chance.choice([[0], [-1], [0, -1], [words // 2], []]):
            filled[place] = f"{filled[place]}{chance.randrange(30)}"
        rows.append((" ".join(filled), chance.choice(LABELS)))
    sorts = check_against_brute_force({"train": rows[:160], "validation": rows[160:200], "test": rows[200:]})
    near = sum(count for (kind, *_), count in sorts.items() if kind != "exact")
    assert near > 100 if words >= 11 else near < 100, "premise: one word in eleven is enough to be near"


@pytest.mark.parametrize("order", ["mixed", "by label"])
def test_many_copies_of_one_template(order):
    """More candidates than one block of the search; the only rows of another label are few, first or last."""
    chance = random.Random(7)
    frame = "in this town the sun comes up at six and the bus to the sea leaves when number"
    rows = [(f"{frame} {number}", "good" if number % 60 else "bad") for number in range(240)]
    rows += [(" ".join(chance.sample(frame.split(), 18)), "plain") for _ in range(60)]
    chance.shuffle(rows)
    if order == "by label":
        rows.sort(key=lambda row: row[1], reverse=True)
    sorts = check_against_brute_force({"train": rows[:200], "test": rows[200:]})
    assert sum(sorts.values()) > 300


@pytest.mark.parametrize("folder", ["semeval2016", "semeval2016_raw", "emotion"])
def test_near_duplicates_of_real_tweets(folder):
    """scikit-learn counts the 3-grams and their overlaps."""
    if not (SHARED / folder).is_dir():
        pytest.skip(f"needs the real tweets in {SHARED / folder}")
    dataset = load_tsv(SHARED / folder)
    report = audit(dataset)
    texts = [normalize_text(text) for split in ("train", "validation") for text in dataset[split]["text"]]
    grams = CountVectorizer(ngram_range=(3, 3), token_pattern=r"\S+", lowercase=False, binary=True).fit_transform(
        texts
    )
    common = (grams @ grams.T).tocoo()
    sizes = np.asarray(grams.sum(axis=1)).ravel()
    near = common.data * 5 >= 4 * (sizes[common.row] + sizes[common.col] - common.data)
    pairs = [(int(a), int(b)) for a, b in zip(common.row[near], common.col[near], strict=True) if texts[a] != texts[b]]
    count, first = len(dataset["train"]), {}
    for row, text in enumerate(texts[: len(dataset["train"])]):
        first.setdefault(text, row)
    known = set(texts[:count])
    in_train = {a for a, b in pairs if b < a < count and first[texts[a]] == a}
    leaks = {a - count for a, b in pairs if b < count <= a and texts[a] not in known}
    assert {row for row, (kind, _) in found_rows(report, "train", "train").items() if kind == "near"} == in_train
    assert {row for row, (kind, _) in found_rows(report, "train", "validation").items() if kind == "near"} == leaks
    exact = [row for row, text in enumerate(texts[:count]) if first[text] != row]
    assert overlap_of(report, "train", "train").count("exact") == len(exact)
    if folder == "emotion":
        assert len(in_train) > 100, "the premise: the data has near duplicates at all"
    else:
        assert exact
        assert report.conflicts


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Good  morning ", "good\tMORNING"),
        ("Straße", "STRASSE"),
        ("café", "cafe\u0301"),
        ("ＦＵＬＬ width", "full width"),
        ("non\u00a0breaking", "non breaking"),
        ("ὈΔΥΣΣΕΎΣ", "ὀδυσσεύς"),
        ("line\u2028end", "line end"),
    ],
)
def test_texts_that_count_as_one(a, b):
    assert a != b
    assert normalize_text(a) == normalize_text(b)


@pytest.mark.parametrize(("a", "b"), [("good!", "good"), ("@ann hi", "@bob hi"), ("cafe", "café"), ("ab c", "a bc")])
def test_texts_that_do_not(a, b):
    assert normalize_text(a) != normalize_text(b)


@given(st.text())
def test_normalising_twice_changes_nothing_and_leaves_single_spaces(text):
    normal = normalize_text(text)
    assert normalize_text(normal) == normal
    assert "  " not in normal
    assert normal == normal.strip()


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_takes_a_short_way_to_the_same_form(text):
    assert normalize_text(text) + " é" == normalize_text(text + " é").replace("e\u0301", "é") or not text.split()


def test_exactly_four_fifths_is_near_and_short_texts_are_not():
    five, four = "a b c d e f g", "a b c d e f"  # 5 and 4 triples
    assert jaccard(five, four) == 0.8
    rows = [
        (five, "good"),
        (four, "good"),
        ("a b c d e", "good"),
        ("x", "bad"),
        ("x y", "bad"),
        ("X", "bad"),
        ("y x", "bad"),
    ]
    report = audit(as_dataset({"train": rows}))
    assert found_rows(report, "train", "train") == {1: ("near", False), 5: ("exact", False)}
    assert jaccard("x y", "x y") == 0


def test_same_triples_in_another_text_are_near_with_similarity_one():
    report = audit(as_dataset({"train": [("ha ha ha ha", "good"), ("ha ha ha ha ha", "bad")]}))
    (repeat,) = overlap_of(report, "train", "train").repeats
    assert (repeat.kind, repeat.similarity, repeat.label, repeat.twin_label) == ("near", 1.0, "bad", "good")


def test_a_row_counts_as_exact_when_it_is_both_and_prefers_a_twin_of_another_label():
    long = "one two three four five six seven eight nine ten eleven twelve"
    train = [(long, "good"), (f"{long} more", "bad"), (long.upper(), "plain")]
    report = audit(as_dataset({"train": train, "test": [(long, "good"), (f"{long} end", "good")]}))
    exact, near = overlap_of(report, "train", "test").repeats
    assert (exact.kind, exact.twin.row, exact.twin_label) == ("exact", 2, "plain")
    assert (near.kind, near.twin.row in (1, 2), near.label) == ("near", True, "good")
    assert found_rows(report, "train", "train") == {1: ("near", True), 2: ("exact", True)}
    (conflict,) = report.conflicts
    assert conflict.places == {"good": (Place("train", 0),), "plain": (Place("train", 2),)}
    assert conflict.rows == 2


def test_numbers_worked_by_hand():
    train = [("a", "bad"), ("a b", "good"), ("a b c", "good"), ("a b c d e f", "good")]
    report = audit(as_dataset({"test": [("x y z", "bad"), ("u  v ", "plain")], "train": train}))
    assert list(report.splits) == ["train", "test"], "train comes first whatever the order given"
    facts = report.splits["train"]
    assert facts.rows == 4
    assert facts.label_counts == {"bad": 1, "good": 3, "plain": 0}
    assert facts.label_shares == {"bad": 0.25, "good": 0.75, "plain": 0}
    assert (facts.words.mean, facts.words.minimum, facts.words.median, facts.words.maximum) == (3, 1, 2.5, 6)
    (shift,) = report.shifts
    assert (shift.source, shift.split) == ("train", "test")
    assert shift.labels == pytest.approx((0.25 + 0.75 + 0.5) / 2)
    assert shift.words == 0.25  # up to one word 1/4 against 0, up to two 1/2 against 1/2, up to three 3/4 against 1
    assert [line.place for line in report.longest[:2]] == [Place("train", 3), Place("train", 2)]
    assert (report.longest[0].characters, report.longest[0].words) == (11, 6)
    assert len(report.longest) == 5


def test_quantiles_of_lengths_by_hand():
    rows = [("w " * words, "good") for words in range(1, 102)]
    found = audit(as_dataset({"train": rows})).splits["train"].words
    assert (found.quantile_05, found.median, found.quantile_95) == (6, 51, 96)


def test_shifts_are_those_of_scipy_and_of_no_difference():
    chance = random.Random(3)
    splits = {
        name: [(" ".join("w" * chance.randrange(1, longest)), chance.choice(LABELS)) for _ in range(rows)]
        for name, rows, longest in (("train", 300, 20), ("validation", 41, 20), ("test", 77, 9))
    }
    report = audit(as_dataset(splits))
    assert [(each.source, each.split) for each in report.shifts] == [
        ("train", "validation"),
        ("train", "test"),
        ("validation", "test"),
    ]
    for shift in report.shifts:
        lengths = ([len(text.split()) for text, _ in splits[name]] for name in (shift.source, shift.split))
        assert shift.words == pytest.approx(ks_2samp(*lengths).statistic)
    assert report.shifts[1].words > 0.4
    (same,) = audit(as_dataset({"train": splits["test"], "test": splits["test"]})).shifts
    assert (same.labels, same.words) == (0, 0)
    apart = audit(as_dataset({"train": [("a", "good")], "test": [("a b", "bad")]})).shifts[0]
    assert (apart.labels, apart.words) == (1, 1)


def test_unknown_tokens():
    tokenizer = train_tokenizer(["a a a b b b", "c"], min_frequency=3)
    splits = {"train": [("a b c", "good"), ("A", "bad")], "test": [("d e " * 600 + "a", "good")]}
    report = audit(as_dataset(splits), tokenizer)
    assert report.splits["train"].unknown_token_share == 1 / 4
    assert report.splits["test"].unknown_token_share == 1200 / 1201, "counted in the whole text"
    assert audit(as_dataset(splits)).splits["train"].unknown_token_share is None
    without = Tokenizer(BPE())
    without.pre_tokenizer = WhitespaceSplit()
    report = audit(as_dataset(splits), PreTrainedTokenizerFast(tokenizer_object=without))
    assert report.splits["train"].unknown_token_share is None
    silent = Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
    silent.pre_tokenizer = WhitespaceSplit()
    report = audit(
        as_dataset({"train": [(" ", "good")]}), PreTrainedTokenizerFast(tokenizer_object=silent, unk_token="<unk>")
    )
    assert report.splits["train"].unknown_token_share == 0, "no token at all"


def leaking():
    text = "one two three four five six seven eight nine ten eleven twelve"
    train = [(text, "good"), ("other words here", "bad")]
    validation = [(f"{number} is alone in this", "good") for number in range(9)] + [("Other words  here", "good")]
    test = [
        ("nothing like it", "bad"),
        (f"{text} more", "good"),
        (text.upper(), "good"),
        ("7 is alone in this", "good"),
    ]
    return as_dataset({"train": train, "validation": validation, "test": test})


def test_leak_share_is_that_of_the_worst_split_and_counts_train_only():
    report = audit(leaking())
    assert overlap_of(report, "train", "validation").share == 0.1
    assert overlap_of(report, "validation", "test").share == 0.25
    assert report.leak_share == 0.5
    assert audit(as_dataset({"train": [("a", "good"), ("a", "good")]})).leak_share == 0
    assert audit(as_dataset({"validation": [("a", "good")], "test": [("a", "good")]})).leak_share == 0


def test_summary_and_dict_survive_json():
    report = audit(leaking(), origins={"test": Origin("tests.tsv", range(2, 6))})
    summary = report.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["leaks"]["test"]["train"] == {
        "exact": 1,
        "exact_other_label": 0,
        "near": 1,
        "near_other_label": 0,
        "share": 0.5,
    }
    assert summary["leaks"]["validation"]["train"]["exact_other_label"] == 1
    assert summary["duplicates"]["train"]["exact"] == 0
    assert summary["leak_share"] == 0.5
    assert summary["rows"] == {"train": 2, "validation": 10, "test": 4}
    assert summary["conflicts"] == {"texts": 0, "rows": 0}
    assert set(summary["shifts"]["test"]) == {"train", "validation"}
    everything = report.to_dict()
    assert json.loads(json.dumps(everything)) == everything
    assert everything["summary"] == summary
    (leak, _) = [each for each in everything["overlaps"] if (each["source"], each["split"]) == ("train", "test")][0][
        "repeats"
    ]
    assert leak["place"] == {"split": "test", "row": 1, "line": 3}
    assert leak["twin"] == {"split": "train", "row": 0, "line": None}
    assert everything["splits"]["test"]["file"] == "tests.tsv"


def test_the_report_on_one_line():
    text = "one two three four five six seven eight nine ten eleven twelve"
    rows = {
        "train": [(text, "good")],
        "validation": [("one word", "good")],
        "test": [(f"{text} more", "bad"), ("One  word", "good")],
    }
    assert render_line(audit(as_dataset(rows))) == (
        "0 of 1 rows of validation repeat a row of train (0.00%); "
        "1 of 2 rows of test repeat a row of train (50.00%, 1 under another label)"
    ), "of what leaks from train alone"


def test_text_report_names_places_and_shows_what_is_not_printable():
    rows = [(f"bell \x1b[31m\u202e rings {number}", "good") for number in range(5)] * 2 + [("Bell", "ba\x07d")]
    names = ["ba\x07d", "good"]
    report = audit(
        as_dataset({"train": rows, "test": rows[:1]}, names), origins={"test": Origin("some/test.tsv", [12])}
    )
    text = render_text(report)
    assert "some/test.tsv:12" in text
    assert "train row 5 (good)" in text
    assert "the first 3 of 5 rows" in text
    assert "rows that leak from train: at most 100.00% of a split" in text
    assert all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: leaking()["train"], "DatasetDict"),
        (lambda: datasets.DatasetDict(), "DatasetDict"),
        (lambda: leaking().rename_column("text", "tweet"), "train has no column 'text'; there are 'tweet', 'label'"),
        (lambda: leaking().cast_column("label", datasets.Value("int64")), "not ClassLabel"),
        (lambda: datasets.DatasetDict(train=leaking()["train"].select([])), "train has no rows"),
        (lambda: as_dataset({"train": [("a", "good"), (None, "bad")]}), "row 1 of train"),
        (lambda: as_dataset({"train": [("a", "good"), ("b", None)]}), "row 1 of train"),
        (lambda: as_dataset({"train": [("a", -1)]}), "row 0 of train"),
        (
            lambda: datasets.DatasetDict(train=leaking()["train"], test=as_dataset({"x": [("a", "u")]}, ["u"])["x"]),
            "test has the labels",
        ),
    ],
)
def test_data_that_cannot_be_audited(data, message):
    with pytest.raises(UserError, match=message):
        audit(data())


def test_command_prints_tables(command, texts_dir):
    code, out, err = command("audit", "--data_dir", texts_dir)
    assert code == 0
    assert err == ""
    lines = out.splitlines()
    assert lines[0].split() == ["rows", "by", "label", "train", "validation", "test"]
    assert lines[1].split() == ["rows", "240", "60", "60"]
    assert f"{texts_dir}/train.tsv:" in out.replace("\\", "/")


def test_command_names_lines_and_uses_the_tokenizer_that_train_would(command, tmp_path):
    text = "Ένα two three four five six seven eight nine ten eleven twelve"
    rows = {
        "train": [("a b c", "good"), (text, "bad"), ("d e f", "good")] + [("k l m", "good")] * 2,
        "dev": [("g h i", "bad"), (f"{text} more", "good")],
    }
    for name, each in rows.items():
        body = "".join(f"{number}\t{label}\t{line}\r\n" for number, (line, label) in enumerate(each))
        (tmp_path / f"{name}.tsv").write_bytes(b"\xef\xbb\xbf" + f"id\tclass\ttweet\r\n{body}".encode())
    flags = ("--header", "--text_column", "tweet", "--label_column", "class", "--min_frequency", "2")
    code, out, err = command("audit", "--data_dir", tmp_path, *flags, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    (leak,) = [each for each in report["overlaps"] if each["source"] != each["split"]][0]["repeats"]
    assert leak["place"] == {"split": "validation", "row": 1, "line": 3}
    assert leak["twin"] == {"split": "train", "row": 1, "line": 3}
    assert leak["text"].startswith("Ένα")
    assert report["splits"]["validation"]["file"] == str(tmp_path / "dev.tsv")
    recipe = load_recipe("default")
    tokenizer = train_tokenizer(
        [line for line, _ in rows["train"]], 2, lowercase=recipe["lowercase"], normalizer=recipe["normalizer"]
    )
    ids = [tokenizer(line)["input_ids"] for line, _ in rows["train"]]
    share = sum(each.count(0) for each in ids) / sum(map(len, ids))
    assert 0 < share < 1
    assert report["summary"]["unknown_token_share"]["train"] == pytest.approx(share)


def test_command_holds_out_the_rows_that_train_would_and_names_their_lines(command, tmp_path, texts_dir):
    lines = (texts_dir / "train.tsv").read_text(encoding="utf-8").splitlines() * 2
    (tmp_path / "train.tsv").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    code, out, err = command("audit", "--data_dir", tmp_path, "--json")
    assert code == 0
    assert err.count("held out") == 1
    report, used = json.loads(out), load_tsv(tmp_path)
    assert report["summary"]["rows"] == {name: len(rows) for name, rows in used.items()}
    places = [
        (repeat[key], repeat["text" if key == "place" else "twin_text"])
        for overlap in report["overlaps"]
        for repeat in overlap["repeats"]
        for key in ("place", "twin")
    ]
    assert {place["split"] for place, _ in places} == {"train", "validation"}
    for place, text in places:
        assert used[place["split"]][place["row"]]["text"] == text
        assert lines[place["line"] - 1].split("\t")[0] == text


def test_command_gives_rows_where_bad_ones_were_left_out(command, tmp_path):
    (tmp_path / "train.tsv").write_text("a b c\tgood\nno label\na b c\tgood\na b c\tbad\n")
    (tmp_path / "dev.tsv").write_text("x\tgood\na b c\tgood\n")
    code, out, err = command("audit", "--data_dir", tmp_path, "--max_bad_rows", "1", "--min_frequency", "1", "--json")
    assert code == 0
    assert "too few fields" in err
    overlaps = json.loads(out)["overlaps"]
    assert [repeat["place"] for repeat in overlaps[0]["repeats"]] == [
        {"split": "train", "row": 1, "line": None},
        {"split": "train", "row": 2, "line": None},
    ]
    assert overlaps[2]["repeats"][0]["place"] == {"split": "validation", "row": 1, "line": 2}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "data_dir is not set"),
        (["--data_dir", "nowhere"], "data_dir nowhere does not exist"),
        (["--data_dri", "x"], "Did you mean --data_dir?"),
        (["--data_dir", "DIR", "--streaming"], "an audit compares all rows: leave out streaming"),
        (["--data_dir", "DIR", "--recipe", "defualt"], "Did you mean 'default'?"),
        (["--data_dir", "DIR", "--text_column", "tweet"], "no header is declared"),
        (["--data_dir", "DIR", "--class_names", "up", "down"], "nothing in common"),
        (["--data_dir", "DIR", "--tokenizer_name_or_path", "./none"], "./none"),
    ],
)
def test_command_tells_a_mistake_in_one_line(command, texts_dir, flags, message):
    code, out, err = command("audit", *(str(texts_dir) if flag == "DIR" else flag for flag in flags))
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_command_counts_with_the_tokenizer_that_training_would_have(command, texts_dir, trained, tmp_path):
    """That of a model to go on from knows its words only, and one that vectors widen knows more."""

    def unknown(*flags):
        code, out, err = command("audit", "--data_dir", texts_dir, "--json", *flags)
        assert code == 0, err
        return json.loads(out)["summary"]["unknown_token_share"]["validation"]

    alone, other = unknown("--min_frequency", "100"), tmp_path / "other"
    assert alone > 0.1, "premise: the rarer words of the texts are unknown"
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("".join(f"{word} 0.5 1\n" for word in NEUTRAL))
    assert unknown("--min_frequency", "100", "--vectors", vectors, "--widen_vocabulary", 99) < alone / 2
    shutil.copytree(trained.folder, other, ignore=shutil.ignore_patterns("checkpoints"))
    assert unknown("--model_name_or_path", other) == unknown("--tokenizer_name_or_path", other)


def invented_rows(kind):
    """100,000 rows."""
    chance = random.Random(0)
    if kind == "tweets":  # Zipf's law, one row in twenty an edited copy
        words = [f"w{number}" for number in range(50_000)]
        weights = 1 / np.arange(1, 50_001)
        picked = np.random.default_rng(0).choice(50_000, size=1_900_000, p=weights / weights.sum())
        texts = [" ".join(words[word] for word in picked[start : start + 19]) for start in range(0, len(picked), 19)]
        for row in chance.sample(range(50_000, 100_000), 5_000):
            texts[row] = f"{texts[row - 50_000]} end"
    elif kind == "few words":
        texts = [" ".join(chance.choices("abcdefghijklm", k=chance.randrange(1, 13))) for _ in range(100_000)]
    elif kind == "short template":  # all words but one in common, which is too few to be near
        texts = [f"thanks for the follow back my friend @u{number}" for number in range(100_000)]
    else:  # one template
        frame = "today in the town by the sea the sun came up late and all went home early because of wind number"
        texts = [f"{frame} {number}" for number in range(100_000)]
    return [(text, chance.choice(LABELS)) for text in texts]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tweets", "few words", "short template", "template"])
def test_a_hundred_thousand_rows_take_less_than_30_seconds_of_one_core(kind):
    rows = invented_rows(kind)
    dataset = as_dataset({"train": rows[:80_000], "validation": rows[80_000:90_000], "test": rows[90_000:]})
    start = time.process_time()
    report = audit(dataset)
    seconds = time.process_time() - start
    assert seconds < 30
    repeats = sum(len(each.repeats) for each in report.overlaps if each.source == each.split)
    assert repeats >= {"tweets": 1_000, "few words": 5_000, "short template": 0, "template": 99_990}[kind]


def test_command_on_texts_that_make_no_vocabulary(command, tmp_path):
    (tmp_path / "train.tsv").write_text("good film\tgood\nbad movie\tbad\n", encoding="utf-8")
    (tmp_path / "dev.tsv").write_text("good film\tgood\nold book\tbad\n", encoding="utf-8")
    code, out, err = command("audit", "--data_dir", tmp_path, "--json")
    assert code == 0
    assert "unknown tokens are not counted: no word occurs 3 times in the texts" in err
    summary = json.loads(out)["summary"]
    assert summary["unknown_token_share"] == {"train": None, "validation": None}
    assert json.loads(out)["overlaps"], "the rest is told"
