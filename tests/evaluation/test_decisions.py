"""Thresholds: right at the rate of the target on fresh rows, none by luck or spoiled labels."""

import json
import math

import numpy as np
import pytest
from scipy.stats import beta, binomtest

from hf_rnn.evaluation.decisions import (
    choose_thresholds,
    describe_costliest,
    describe_missing,
    find_threshold,
    measure_decisions,
    measure_labels,
    needs_person,
    parse_thresholds,
    surely_reaches,
    write_thresholds,
)
from hf_rnn.utils.errors import UserError


def draw(rows, classes, seed, spoiled=0.0):
    """Return scores of a classifier and true labels; a share of label 0 is wrong at any score."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    logits = generator.normal(size=(rows, classes))
    logits[np.arange(rows), labels] += 3.5
    scores = np.exp(2 * logits)
    scores /= scores.sum(axis=1, keepdims=True)
    wrong = (scores.argmax(axis=1) == 0) & (generator.random(rows) < spoiled)
    return scores, np.where(wrong, 1, labels)


def names(classes):
    return [f"label {number}" for number in range(classes)]


def find_bound(right, rows, level=0.1):
    # two-sided 80 % has 10 % below
    return binomtest(right, rows).proportion_ci(1 - 2 * level, "exact").low


def find_by_beta(right, rows, level):
    return beta.ppf(level, right, rows - right + 1) if right else 0.0


def test_the_bound_is_that_of_scipy():
    for rows in (1, 2, 12, 44, 45, 300):
        for right in {0, rows // 2, rows - 1, rows}:
            for target in (0.5, 0.9, 0.95):
                assert surely_reaches(np.array(right), np.array(rows), target) == (
                    find_bound(right, rows) >= target
                )


def find_by_hand(confidence, right, target):
    """Test numbers of answers from the top, each the fewest for its errors; ties are together.

    From eight times the fewest answers on, there is half the level for those below two thirds of
    the answers, the other half for the rest, and all of it for the rest if none above failed.
    """
    ordered = sorted(confidence, reverse=True)
    count, fewest, errors = len(right), {}, 0
    is_split = count >= 8 * math.log(0.1) / math.log(target)
    level = 0.05 if is_split else 0.1
    for number in range(1, count + 1):
        if errors < number and find_by_beta(number - errors, number, level) >= target:
            fewest[errors] = number
            errors += 1
    least = math.log(level) / math.log(target)
    if count < least:
        return None
    first = min(count, math.ceil(min(max(count / 4, least), 3 * least)))
    places = [round(first + (count - first) * step / 19) for step in range(20)]
    cuts = {max(number for number in fewest.values() if number <= place) for place in places}
    ends = sorted({int((confidence >= ordered[number - 1]).sum()) for number in cuts | {count}})
    limit, allowed, is_second = None, level, False
    for end in ends:
        if is_split and end >= 2 / 3 * count and not is_second:
            allowed, is_second = allowed + level, True
        score = ordered[end - 1]
        above = confidence >= score
        if allowed and find_by_beta(right[above].sum(), end, allowed) >= target:
            limit = score
        else:
            allowed = 0
    return limit


@pytest.mark.parametrize("rows", [60, 300])
@pytest.mark.parametrize("target", [0.78, 0.8, 0.82, 0.95])
def test_a_threshold_is_the_last_of_twenty_cuts_before_one_fails(target, rows):
    generator, limits = np.random.default_rng(0), []
    for _ in range(20):
        confidence = generator.choice(np.linspace(0.3, 1, 40, dtype=np.float32), rows)  # with ties
        right = generator.random(rows) < confidence**0.5
        limits.append(find_threshold(confidence, right, target))
        assert limits[-1] == find_by_hand(confidence, right, target)
    assert len(set(limits)) > 3 or target > 0.9 or rows < 100, "premise"
    assert find_threshold(confidence, ~right, 0.8) is None
    assert find_threshold(confidence[:0], right[:0], 0.8) is None


def test_a_few_wrong_labels_at_the_top_do_not_take_all_thresholds():
    """A cut among the highest scores fails, while .985 of all answers are right."""
    confidence = np.linspace(1, 0.5, 1000, dtype=np.float32)
    right = np.ones(1000, dtype=bool)
    right[:150:10] = False
    assert find_bound(right[:150].sum(), 150) < 0.95 < 0.97 < find_bound(right.sum(), 1000)
    assert find_threshold(confidence, right, 0.95) == confidence[-1]


@pytest.mark.parametrize(
    ("accuracy", "target", "rows"), [(0.945, 0.95, 1000), (0.89, 0.9, 170), (0.945, 0.95, 400)]
)
def test_thresholds_are_granted_wrongly_in_at_most_a_tenth_of_the_draws(accuracy, target, rows):
    """Scores say nothing, accuracy is just below the target: the lowest cut gave 19 to 24 %."""
    generator, granted = np.random.default_rng(1), 0
    for _ in range(1000):
        right = generator.random(rows) < accuracy
        granted += find_threshold(generator.random(rows), right, target) is not None
    assert granted <= 100


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 10])
def test_thresholds_of_labels_too(classes):
    generator, granted = np.random.default_rng(2), 0
    for _ in range(200):
        scores = generator.random((1000, classes))
        wrong = generator.random(1000) >= 0.945
        labels = (scores.argmax(axis=1) + wrong) % classes
        chosen = choose_thresholds(scores, labels, names(classes), 0.95)
        granted += any(limit is not None for limit in chosen.by_label.values())
    assert granted <= 20


@pytest.mark.parametrize(("rows", "classes"), [(600, 4), (1500, 12), (900, 60)])
@pytest.mark.parametrize("target", [0.9, 0.95])
def test_answers_on_fresh_rows_are_right_at_the_rate_of_the_target(rows, classes, target):
    right = alone = 0.0
    for seed in range(5):
        chosen = choose_thresholds(*draw(rows, classes, seed), names(classes), target)
        scores, labels = draw(20_000, classes, seed + 100)
        found = measure_decisions(
            needs_person(chosen.by_label, names(classes), scores), scores, labels
        )
        assert chosen.repeated.share == pytest.approx(found.share, abs=0.2)
        right, alone = right + found.share * (found.accuracy or 0), alone + found.share
    assert right / alone >= target - 0.01 and alone / 5 > 0.25


def test_a_label_with_twelve_answers_has_no_threshold_of_luck():
    scores, labels = draw(600, 3, 0)
    few = np.full((12, 4), 0.001)
    few[:, 3] = 0.997
    scores = np.concatenate([np.pad(scores, ((0, 0), (0, 1))), few])
    labels = np.append(labels, [3] * 12)
    strict, lax = (
        choose_thresholds(scores, labels, names(4), target).by_label for target in (0.95, 0.8)
    )
    assert (
        strict["label 3"] is None and strict["label 0"] is not None and lax["label 3"] is not None
    )
    assert needs_person(strict, names(4), few).all()


def test_one_spoiled_label_costs_its_own_share_alone():
    """Its confident errors would leave hardly any answer above a single threshold."""
    scores, labels = draw(3000, 6, 1, spoiled=0.12)
    chosen = choose_thresholds(scores, labels, names(6), 0.985)
    single = find_threshold(scores.max(axis=1), scores.argmax(axis=1) == labels, 0.985)
    assert chosen.by_label["label 0"] is None
    assert chosen.repeated.share > 0.6 > 2 * (scores.max(axis=1) >= (single or 2)).mean()
    assert chosen.repeated.accuracy >= 0.98
    by_label = measure_labels(chosen.by_label, scores, labels, names(6))
    assert by_label["label 0"]["share"] == 0 and by_label["label 1"]["share"] > 0.5
    sentence = describe_costliest(by_label, 0.985)
    assert (
        sentence.startswith("'label 0' costs most")
        and str(by_label["label 0"]["answers"]) in sentence
    )


def test_labels_without_answers_or_rows_are_for_a_person():
    scores, labels = draw(300, 3, 0)
    chosen = choose_thresholds(np.pad(scores, ((0, 0), (0, 1))), labels, names(4), 0.9)
    assert chosen.by_label["label 3"] is None
    unknown = needs_person({}, names(2), np.array([[0.0, 1.0]]))
    assert unknown.tolist() == [True]
    empty = choose_thresholds(scores[:0], labels[:0], names(3), 0.9)
    assert set(empty.by_label.values()) == {None} and empty.repeated.accuracy is None


def test_texts_of_no_class_are_wrong_answers():
    scores, labels = draw(2000, 3, 0)
    strange, _ = draw(200, 3, 1)
    strange = strange**0.3 / (strange**0.3).sum(axis=1, keepdims=True)
    both = np.concatenate([scores, strange])
    with_new = choose_thresholds(both, np.append(labels, [-1] * 200), names(3), 0.95)
    without = choose_thresholds(scores, labels, names(3), 0.95)
    alone = ~needs_person(with_new.by_label, names(3), both)
    right = np.append(scores.argmax(axis=1) == labels, [False] * 200)
    assert right[alone].mean() >= 0.95
    assert with_new.chosen_on.accuracy == right[alone].mean()
    assert with_new.chosen_on.share < without.chosen_on.share, "premise: they cost coverage"


def test_a_target_that_no_threshold_reaches_is_explained():
    scores, labels = draw(500, 4, 0)
    labels[::12] = (labels[::12] + 1) % 4
    chosen = choose_thresholds(scores, labels, names(4), 0.99)
    assert set(chosen.by_label.values()) == {None}, "premise"
    texts = [f"text {number}" for number in range(500)]
    few = describe_missing(chosen, scores, labels, names(4), texts)
    assert "500 rows are too few" in few
    scores, labels = draw(1500, 4, 0)
    labels[::12] = (labels[::12] + 1) % 4
    chosen = choose_thresholds(scores, labels, names(4), 0.99)
    texts = [f"text {number}" for number in range(1500)]
    hint = describe_missing(chosen, scores, labels, names(4), texts)
    best = np.argsort(-scores.max(axis=1), kind="stable")[:50]
    wrong = best[scores.argmax(axis=1)[best] != labels[best]]
    assert f"{len(wrong)} of the 50 most confident answers are wrong" in hint
    assert [text for text in texts if f"{text!r}" in hint] == sorted(
        (texts[row] for row in wrong[:3]), key=texts.index
    )
    assert "--target 0.99 --choose" in hint and "Wrong labels" in hint
    granted = choose_thresholds(*draw(1500, 4, 0), names(4), 0.8)
    assert describe_missing(granted, scores, labels, names(4), texts) is None


def test_thresholds_are_stored_by_target_and_bound_to_the_weights(tmp_path):
    path = tmp_path / "thresholds.json"
    first, second = (
        choose_thresholds(*draw(400, 3, 0), names(3), target) for target in (0.9, 0.95)
    )
    assert parse_thresholds(None, path, "weights") == {}
    write_thresholds(path, "weights", [first])
    write_thresholds(path, "weights", [second])
    stored = parse_thresholds(path.read_bytes(), path, "weights")
    assert stored == {"0.9": first, "0.95": second}
    for write in (parse_thresholds, lambda *_: write_thresholds(path, "others", [first])):
        with pytest.raises(UserError, match="thresholds of other weights"):
            write(path.read_bytes(), path, "others")
    write_thresholds(path, "others", [first], replace=True)
    assert parse_thresholds(path.read_bytes(), path, "others") == {"0.9": first}


DAMAGES = {
    "text": lambda stored: "{",
    "list": lambda stored: "[]",
    "brackets": lambda stored: "[" * 100_000,
    "no target": lambda stored: json.dumps({"model": "weights", "targets": {"0.9": {}}}),
    "targets": lambda stored: json.dumps({"model": "weights", "targets": [1]}),
}
for name, value in {"list": [0.5], "number": 3, "text": "x"}.items():
    DAMAGES[f"by_label {name}"] = lambda stored, value=value: (
        stored["targets"]["0.9"].update(by_label=value) or json.dumps(stored)
    )
for name, value in {"text": "0.5", "list": [0.5], "truth": True, "infinite": math.inf}.items():
    DAMAGES[f"threshold {name}"] = lambda stored, value=value: (
        stored["targets"]["0.9"]["by_label"].update({"label 0": value}) or json.dumps(stored)
    )
    DAMAGES[f"share {name}"] = lambda stored, value=value: (
        stored["targets"]["0.9"]["repeated"].update(share=value) or json.dumps(stored)
    )


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_named(tmp_path, damage):
    """A list as `by_label` or as a threshold gave a traceback, or `[True]` as an answer."""
    path = tmp_path / "thresholds.json"
    write_thresholds(path, "weights", [choose_thresholds(*draw(400, 3, 0), names(3), 0.9)])
    content = damage(json.loads(path.read_text()))
    with pytest.raises(UserError, match=r"thresholds\.json is damaged"):
        parse_thresholds(content.encode(), path, "weights")


@pytest.mark.parametrize("target", [0.0, 1.0, 1.5, -1.0, float("nan")])
def test_a_target_is_an_accuracy(target):
    with pytest.raises(UserError, match=r"target is the accuracy .* such as 0\.95"):
        choose_thresholds(*draw(20, 2, 0), names(2), target)
