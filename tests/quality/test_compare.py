"""Two months compared: equal ones, ones with a new category, and ones with other shares."""

import json
import random

import numpy as np
import pandas as pd
import pytest
from package_encoders import encoders  # noqa: F401 - a fixture that each test uses
from scipy.stats import beta

from hf_rnn import train
from hf_rnn.quality.compare import compare, measure_p_value

WORDS = {
    "delivery": "parcel late courier package shipped tracking arrived depot",
    "card": "card bank pin blocked payment declined cash contactless",
    "refund": "refund money back returned cancelled voucher credit repay",
}
NEW = "outage website crashed login server error timeout maintenance"


def invent(count, seed, shares=(1, 1, 1), new=0.0):
    draw = random.Random(seed)
    texts = []
    for _ in range(count):
        words = WORDS[draw.choices(sorted(WORDS), shares)[0]]
        if draw.random() < new:
            words = NEW
        texts.append(
            " ".join(
                draw.choices(["the", "my", "is", "a", "it"], k=4) + draw.choices(words.split(), k=4)
            )
        )
    return texts


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small model that knows three categories."""
    folder = tmp_path_factory.mktemp("model") / "out"
    rows = [
        (text, label)
        for number, label in enumerate(sorted(WORDS))
        for text in invent(80, number, [place == number for place in range(3)])
    ]
    settings = {"hidden_size": 16, "num_train_epochs": 12, "learning_rate": 0.02}
    train(rows, folder, recipe="scratch", baselines=False, use_cpu=True, **settings)
    return folder


def run(command, model, tmp_path, old, new, *flags):
    for name, texts in (("old", old), ("new", new)):
        pd.DataFrame({"message": texts}).to_csv(tmp_path / f"{name}.csv", index=False)
    picture = tmp_path / "months.png"
    code, out, err = command(
        *(
            "compare",
            model,
            tmp_path / "old.csv",
            tmp_path / "new.csv",
            "--picture",
            picture,
            *flags,
        )
    )
    assert code == 0, err
    assert picture.read_bytes()[:4] == b"\x89PNG"
    return json.loads(out), err


def test_equal_months_do_not_differ(model, tmp_path, command):
    result, err = run(command, model, tmp_path, invent(300, 1), invent(300, 2))
    assert not result["differs"] and result["p_value"] > 0.05
    assert not any(facts["differs"] for facts in result["labels"].values())
    assert "nothing has to be done" in err
    for month in ("old", "new"):
        shares = [facts[month]["share"] for facts in result["labels"].values()]
        assert sum(shares) == pytest.approx(1)
    one = result["labels"]["card"]["new"]
    count = round(one["share"] * 300)
    bounds = beta.ppf(0.025, count, 301 - count), beta.ppf(0.975, count + 1, 300 - count)
    assert np.allclose([one["low"], one["high"]], bounds)


def test_a_new_category_is_found(model, tmp_path, command):
    old, new = invent(300, 1), invent(300, 2, new=0.1)
    result, err = run(command, model, tmp_path, old, new)
    assert result["differs"] and result["p_value"] < 0.01
    known = set(NEW.split())
    assert sum(bool(known & set(one["text"].split())) for one in result["unlike"]) >= 7
    assert all(one["text"] == new[one["row"]] for one in result["unlike"])
    risen = {word for one in result["rose"] for word in one["words"].split()}
    assert len(risen & known) >= 5
    shares = {word: np.mean([word in text.split() for text in new]) for word in known}
    assert all(one["new"] == shares.get(one["words"], one["new"]) for one in result["rose"])
    assert "hf-rnn label" in err


def test_other_shares_are_found(model, tmp_path, command):
    result, err = run(command, model, tmp_path, invent(300, 1), invent(300, 2, (3, 1, 1)))
    assert result["differs"] and result["labels"]["card"]["differs"] and "card" in err


def test_p_values_of_equal_months_are_uniform():
    draw = np.random.default_rng(0)
    values = [
        measure_p_value(draw.normal(size=(60, 16)) ** 3, draw.normal(size=(80, 16)) ** 3, draw)
        for _ in range(60)
    ]
    assert np.mean(np.array(values) < 0.2) < 0.4 and np.mean(values) == pytest.approx(0.5, abs=0.12)


def test_texts_without_words_are_compared(model):
    from hf_rnn import FastRnn

    result = compare(FastRnn.from_pretrained(model), ["!"] * 30, ["?"] * 30)
    assert result.rose == [] and result.rows == {"old": 30, "new": 30}


def test_mistakes_get_one_line(model, tmp_path, command):
    pd.DataFrame({"message": ["a"] * 5}).to_csv(tmp_path / "few.csv", index=False)
    few = tmp_path / "few.csv"
    for arguments, message in (
        ((model, few, few), "has 5 texts"),
        ((model, few, tmp_path / "none.csv"), "does not exist"),
        ((tmp_path, few, few), "has no config.json"),
        ((model, few), "--new is missing"),
    ):
        code, _, err = command("compare", *arguments)
        assert code == 2 and message in err, err


def test_the_same_seed_gives_the_same_comparison(model):
    from hf_rnn import FastRnn

    loaded = FastRnn.from_pretrained(model)
    old, new = invent(60, 1), invent(60, 2, new=0.5)
    assert compare(loaded, old, new) == compare(loaded, old, new)
