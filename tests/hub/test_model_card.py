"""The card: read back by the Hub's own class, and equal to its facts."""

import json
import re

import numpy as np
import pytest
from huggingface_hub import ModelCard

from hf_rnn import RnnConfig
from hf_rnn.evaluation import classification_metrics
from hf_rnn.hub.card import render

NAMES = ["negative", "neutral", "positive"]
TRUE = [0] * 5 + [1] * 9 + [2] * 6
PREDICTED = [0, 0, 0, 1, 2] + [1] * 7 + [0, 2] + [2] * 4 + [1, 0]
MEASURED = {
    **classification_metrics(PREDICTED, TRUE, NAMES),
    "loss": np.float64(0.98765432),
    "rows": 20,
}

ARCHITECTURE = (
    "cell_type",
    "num_hidden_layers",
    "hidden_size",
    "bidirectional",
    "pooling",
    "embedding_size",
)
REQUIRED = {
    **{name: getattr(RnnConfig(), name) for name in (*ARCHITECTURE, "vocab_size")},
    "task": "sequence-classification",
    "training": {"parameters": 1_234_567, "epochs": 12.5, "steps": 4000, "seconds": 33.4},
    "pipeline_tag": "text-classification",
    "name": "tweets",
    "dataset_name": "My tweets",
    "class_counts": {"negative": 20, "neutral": 50, "positive": 30},
    "results": {"validation": MEASURED},
    "versions": {"hf-rnn": "0.1.0", "torch": "2.13.0+cpu"},
}
AUDIT = {  # as AuditReport.summary() returns it
    "rows": {"train": 100, "validation": 20},
    "duplicates": {"train": {"exact": 5}, "validation": {"exact": 0}},
    "leaks": {"validation": {"train": {"exact": 7, "exact_other_label": 3}}},
    "conflicts": {"texts": 3, "rows": 1234},
    "unknown_token_share": {"train": 0.01, "validation": None},
}
ERRORS = {"before": {"ece": 0.1, "brier": 0.4}, "after": {"ece": 0.02, "brier": 0.3}}
TEACHER = {
    "name": "me/large*",
    "temperature": 2.0,
    "soft_label_weight": 0.9,
    "rows": {"train": 6000, "copies": 0, "unlabeled": 12345},
    "results": {"validation": {"accuracy": 0.7654, "agreement": 0.875}},
}
METADATA = {
    "dataset_id": "me/my-tweets",
    "language": ("en", "de"),
    "license": "apache-2.0",
    "tags": ("sentiment",),
    "start": {"name": "me/x", "id": "me/x", "keeps_classifier": False},
}
# Optional facts, and the text that shows each of them.
OPTIONAL = {
    "baselines": (
        {
            "a linear model": {
                "validation": {"accuracy": 0.1234, "macro_f1": 0.5, "macro_recall": 0.25}
            }
        },
        "| a linear model | 0.123 | 0.500 | 0.250 |",
    ),
    "examples": (
        {"negative": ["so | bad", "worse"], "neutral": ["it is"], "positive": []},
        "| negative | so \\| bad |\n| negative | worse |\n| neutral | it is |",
    ),
    "settings": (
        {"learning_rate": 0.001, "normalizer": "tweet"},
        "`learning_rate=0.001`, `normalizer=tweet`",
    ),
    "audit": (AUDIT, "| train | 100 | 5 |  |  | 1.0% |\n| validation | 20 | 0 | 7 | 3 |  |"),
    "best_metric": ("macro_recall", "best `macro_recall` on the validation split"),
    "max_length": (512, "its first 512 tokens"),
    "start_note": ("it looks like German_", "It looks like German\\_.\n"),
    "data": (
        {
            "text_column": "message",
            "label_column": "a`b",
            "held_out": {"share": 0.2, "seed": 7, "rows": 1234},
        },
        "My tweets (columns: text `message`, label `` a`b ``)",
    ),
    "command": ("hf-rnn train --data_dir DATA", "hf-rnn train --data_dir DATA\n```"),
    "fill_in": ({"DATA": "here a_b"}, "repeats the run. Replace `DATA` (here a\\_b):\n"),
    "figures": ({"A matrix": "confusion_matrix.png"}, "![A matrix](<confusion_matrix.png>)"),
    "vectors": (
        {"name": "GloVe", "coverage_types": 0.5, "coverage_tokens": 0.6},
        "50.0% of its vocabulary and 60.0%",
    ),
    "calibration": (
        {"fitted_on": "validation", "temperature": 1.5, "splits": {"test": ERRORS}},
        "from 0.100 to 0.020, the Brier score from 0.400 to 0.300",
    ),
    "teacher": (
        TEACHER,
        "answers of me/large\\* to texts (6,000 train, 12,345 unlabeled) at\ntemperature 2",
    ),
    "onnx": (
        {"onnx/model.onnx": {"bytes": 1234, "texts": 200, "max_difference": 1e-6}},
        "ONNX Runtime: 1,234 bytes",
    ),
}
GIVEN = {**METADATA, **{name: value for name, (value, _) in OPTIONAL.items()}}


def facts(**changes):
    return json.loads(json.dumps({**REQUIRED, **GIVEN, **changes}))  # facts survive JSON


def test_the_hub_reads_the_metadata_back():
    # the Hub would refuse NaN
    test = {**classification_metrics(TRUE, TRUE, NAMES), "loss": float("nan")}
    content = render(facts(results={**REQUIRED["results"], "test": test}))
    card = ModelCard(content)
    assert card.content == content, "reading changes nothing"
    data = card.data.to_dict()
    assert [entry["name"] for entry in data.pop("model-index")] == ["tweets"]
    assert (data["pipeline_tag"], data["library_name"]) == ("text-classification", "transformers")
    assert (data["license"], data["language"], data["datasets"]) == (
        "apache-2.0",
        ["en", "de"],
        ["me/my-tweets"],
    )
    assert (data["base_model"], data["tags"]) == ("me/x", ["hf_rnn", "lstm", "sentiment"])
    found = {
        (result.dataset_split, result.metric_name): result for result in card.data.eval_results
    }
    names = ("accuracy", "macro_f1", "macro_recall")
    scores = {(split, name) for split in ("validation", "test") for name in names}
    assert found.keys() == {("validation", "loss"), *scores}
    result = found["validation", "macro_f1"]
    assert result.metric_value == pytest.approx(MEASURED["macro_f1"], abs=5e-5)
    assert (result.metric_type, result.dataset_type, result.dataset_name) == (
        "f1",
        "me/my-tweets",
        "My tweets",
    )


@pytest.mark.parametrize("fact", OPTIONAL)
def test_each_fact_is_shown_and_left_out_if_unknown(fact):
    shown = OPTIONAL[fact][1]
    without = render(facts(**{fact: None}))
    assert shown in render(facts())
    assert shown.splitlines()[0] not in without
    check_form(without)


def test_many_classes_have_a_short_card():
    labels = [f"intent {number}" for number in range(77)]
    true = [number for number in range(70) for _ in range(number + 1)]
    predicted = [label if place % 3 else 0 for place, label in enumerate(true)]
    measured = {**classification_metrics(predicted, true, labels), "rows": len(true)}
    counts = {name: 5 * number for number, name in enumerate(labels)}
    card = render({**REQUIRED, "class_counts": counts, "results": {"test": measured}})
    check_form(card)
    assert len(card.splitlines()) < 200
    assert (
        "`intent 9` and 67 more" in card and "the classes that occur: 7 of 77 are neither" in card
    )
    assert card.count("| intent ") == 40
    f1 = {name: row["f1"] for name, row in measured["per_class"].items() if row["support"]}
    assert f"| {max(f1, key=f1.get)} |" in card and f"| {min(f1, key=f1.get)} |" in card


def check_form(card):
    """Assert that a card has no empty section and no trace of a missing value."""
    assert "None" not in card and "{{" not in card and "{%" not in card and "\n\n\n" not in card
    assert not re.search(r"^## .*\n+(## |\Z)", card, flags=re.MULTILINE)
    assert all(re.search(r"\n\n```\w|[^`]```\n\n", card) for _ in card.split("```")[1::2])


def test_use_names_the_model_in_each_way():
    card = render(facts(repo_id=None, name="it's $HOME"))
    assert "hf-rnn predict --model 'it'\"'\"'s $HOME' --text \"Your text\"" in card
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    for block in blocks:
        compile(block, "card", "exec")
        assert '"it\'s $HOME"' in block
    assert "(columns" not in render(facts(data={"text_column": "0", "label_column": "-1"})), (
        "places are not names"
    )


NASTY = [
    "a|b",
    "<script>alert(1)</script>",
    "`$x`",
    "- {name}: ---",
    "{{ card_data }}",
    "**b** _i_ [l](u)",
]


def test_names_cannot_break_out_of_their_place():
    measured = classification_metrics([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], NASTY)
    names = {
        "name": "---\nlicense: other",
        "dataset_name": "a: b\n---\n# c",
        "command": "echo '```'",
    }
    tables = {"class_counts": dict.fromkeys(NASTY, 3), "examples": dict.fromkeys(NASTY, NASTY)}
    card = render(facts(**names, **tables, results={"validation": measured}))
    data = ModelCard(card).data
    assert data.license == "apache-2.0"
    assert data.eval_results[0].dataset_name == "a: b\n---\n# c"
    tables = [line for line in card.splitlines() if line.startswith("|")]
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in tables}
    # labels and examples have 2 columns, scores 4, classes 5, the audit 6
    assert cells == {3, 5, 6, 7}
    outside_code = re.sub(r"(`+).*?(?<!`)\1(?!`)", "", card, flags=re.DOTALL)
    assert "<script>" not in outside_code.replace("\\<", "")
    assert r"\{\{ card\_data \}\}" in card and "````bash\necho '```'\n````" in card
