"""A tagger from a folder of CoNLL files to spans in raw text, with the promises of each task."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import run_python
from transformers import AutoTokenizer, pipeline

from hf_rnn import PRETRAINED, Tagger, encode_tagged, load_conll, train, train_tokenizer
from hf_rnn.evaluation.scores import tagging_metrics
from hf_rnn.hub.model_folder import load_model
from hf_rnn.tasks import get_task
from hf_rnn.tasks.token_classification import find_spans
from hf_rnn.utils.errors import UserError

TEXT = "Anna Bo sees the box, near Old Town.  Miro (and Rome)"


def spans(entities, text=TEXT):
    for found in entities:
        assert (
            found.get("text", text[found["start"] : found["end"]])
            == text[found["start"] : found["end"]]
        )
    return [
        (found.get("label") or found["entity_group"], text[found["start"] : found["end"]])
        for found in entities
    ]


EXPECTED = [("person", "Anna Bo"), ("place", "Old Town"), ("person", "Miro"), ("place", "Rome")]


def test_each_way_finds_the_same_spans(tagger, command, tagged_dir, tmp_path):
    assert tagger.metrics["test"]["f1"] > 0.95 and "validation: f1 " in repr(tagger), (
        "whole entities are the score"
    )
    code, out, _ = command("predict", "--model", tagger.folder, "--text", TEXT, "--text", "")
    first, empty = map(json.loads, out.splitlines())
    assert code == 0 and empty["error"]["reason"] == "no text"
    assert spans(first["entities"]) == EXPECTED
    assert all(0 < found["score"] <= 1 for found in first["entities"])
    find = pipeline(
        "token-classification",
        str(tagger.folder),
        aggregation_strategy="simple",
        trust_remote_code=False,
    )
    assert spans(find(TEXT)) == EXPECTED
    words = [entity["word"] for entity in find(TEXT)]
    assert words == [text.lower() for _, text in EXPECTED], "without marks of capitals"
    for size in (1, 3):
        assert list(map(spans, find(["", TEXT, " "], batch_size=size))) == [[], EXPECTED, []]
    pieces = pipeline("token-classification", str(tagger.folder), aggregation_strategy="none")(TEXT)
    assert [piece["word"].strip("▁") for piece in pieces] == [
        "anna",
        "bo",
        "old",
        "town",
        "miro",
        "rome",
    ]
    model = load_model(tagger.folder)[0]
    assert model.words.marks.sum() == 2 and not model.rnn.embedding.weight[model.words.marks].any()
    code, out, _ = command("evaluate", "--model", tagger.folder, "--data_dir", tagged_dir)
    found = json.loads(out)
    assert code == 0 and found["f1"] == tagger.metrics["test"]["f1"]
    assert found["loss"] == pytest.approx(tagger.metrics["test"]["loss"], abs=1e-5)
    code, out, _ = command("push", "--model", tagger.folder, "--repo_id", "me/tagger", "--dry_run")
    assert code == 0 and "crf_rnn.py" in out and "token_classification_rnn.py" in out
    card = (tagger.folder / "README.md").read_text()
    assert (
        "pipeline_tag: token-classification" in card
        and "| person |" in card
        and "pooling" not in card
    )
    (tmp_path / "test.conll").write_text("Anna\tB-animal\n")
    code, _, err = command("evaluate", "--model", tagger.folder, "--data_dir", tmp_path)
    assert (
        code == 2 and "test.conll:1: unknown label: tag 'B-animal'" in err and err.count("\n") == 1
    )


def test_a_text_has_the_same_answer_alone_and_in_any_batch(tagger):
    tag = Tagger.from_pretrained(tagger.folder)
    # longer than sentences of the training may be
    texts = [TEXT, "Rome", "", "the box " * 700 + "near Ulm"]
    together = tag.predict(texts)
    for text, answer in zip(texts, together, strict=True):
        (alone,) = tag.predict([text])
        assert alone["entities"] == [
            {**span, "score": pytest.approx(span["score"])} for span in answer["entities"]
        ]
    assert spans(together[3]["entities"], texts[3])[-1] == ("place", "Ulm")
    with pytest.raises(UserError, match="one text"):
        tag.predict(TEXT)


WITHOUT_THE_PACKAGE = """
import json, sys
sys.modules["hf_rnn"] = None  # an import of the package is an error
from transformers import pipeline
options = {"aggregation_strategy": "simple", "trust_remote_code": True}
entities = pipeline("token-classification", sys.argv[1], **options)(sys.argv[2])
names = ("entity_group", "start", "end")
print(json.dumps([[entity[name] for name in names] for entity in entities]))
"""


@pytest.mark.slow
def test_remote_code_without_the_package(tagger, tmp_path):
    environment = {"PATH": "", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    out = run_python(WITHOUT_THE_PACKAGE, tagger.folder, TEXT, env=environment, cwd=tmp_path)
    found = json.loads(out.splitlines()[-1])
    assert [(label, TEXT[start:end]) for label, start, end in found] == EXPECTED


def test_a_mistake_is_one_line(tagger_settings, tmp_path):
    with pytest.raises(UserError, match="unknown metric_for_best_model"):
        train(
            **tagger_settings,
            metric_for_best_model="macro_recall",
            output_dir=str(tmp_path / "out"),
        )
    with pytest.raises(UserError, match="class_weight_power needs one label per text"):
        train(**tagger_settings, class_weight_power=0.5, output_dir=str(tmp_path / "out"))


def test_words_and_tokens_are_aligned(tagged_dir):
    """The tag of a word belongs to its first token; in training the further ones continue it."""
    sentence = {"tokens": ["Zorbly", "\u00a0", "sees"], "ner_tags": [1, 3, 0]}
    rows = load_conll(tagged_dir)["train"].select([0]).map(lambda row: sentence)
    options = {"min_frequency": 1, "tokenizer": "bpe", "normalizer": "cased", "max_vocab_size": 20}
    tokenizer = train_tokenizer(["zor bly sees"], **options)
    names = rows.features["ner_tags"].feature.names
    first, every = (encode_tagged(rows, tokenizer, all_pieces=both)[0] for both in (False, True))
    words = tokenizer(["Zorbly"], is_split_into_words=True)["input_ids"]
    assert first["input_ids"] == [*words, *tokenizer("sees")["input_ids"]], (
        "a word without a token has no tag"
    )
    assert [label for label in first["labels"] if label != -100] == [1, 0]
    assert first["labels"][: len(words)] == [1] + [-100] * (len(words) - 1)
    assert [names[label] for label in every["labels"][: len(words)]] == ["B-person"] + [
        "I-person"
    ] * (len(words) - 1)


def test_tags_of_other_kinds_than_entities(tagger_settings, tmp_path, command):
    for name, copies in (("train", 30), ("dev", 3)):
        (tmp_path / f"{name}.conll").write_text("I\tO\nsee\tV\nRome\tN\n.\t,\n\n" * copies)
    changes = {
        "data_dir": str(tmp_path),
        "output_dir": str(tmp_path / "out"),
        "num_train_epochs": 3,
        "crf": False,
    }
    result = train(**{**tagger_settings, **changes})
    assert result.metrics["validation"]["accuracy"] == result.metrics["validation"]["f1"] == 1
    _, out, _ = command("predict", "--model", result.folder, "--text", "I see Rome.")
    words = json.loads(out)["entities"]
    assert [(word["text"], word["label"]) for word in words] == [
        ("I", "O"),
        ("see", "V"),
        ("Rome", "N"),
        (".", ","),
    ]


def test_a_rewritten_link_is_a_whole_word():
    """The tokenizer of `english` reads links, handles and placeholders as other words."""
    text = "see http://x.org/y?z @bo (www.x.org ) <<<URL>>>!"
    encoded = AutoTokenizer.from_pretrained(PRETRAINED / "english")(
        [text], return_offsets_mapping=True
    )
    config = SimpleNamespace(id2label={0: "noun", 1: "verb"}, problem_type=None, num_labels=2)
    words = find_spans(np.zeros((len(encoded["input_ids"][0]), 2)), encoded, 0, text, config)
    expected = ["see", "http://x.org/y?z", "@bo", "(", "www.x.org", ")", "<<<URL>>>", "!"]
    assert [word["text"] for word in words] == expected


def test_metrics_of_entities_by_hand():
    names = ("O", "B-a", "I-a", "B-b", "I-b")
    true = [[1, 2, 0, 3], [3, 4, 0]]  # a, b, b
    found = tagging_metrics([[1, 2, 0, 1], [3, 0, 0]], true, names)  # a is right
    assert (found["precision"], found["recall"]) == (1 / 3, 1 / 3)
    assert found["per_class"]["a"] == {
        "precision": 0.5,
        "recall": 1.0,
        "f1": pytest.approx(2 / 3),
        "support": 1,
    }
    assert found["accuracy"] == pytest.approx(5 / 7)


def test_the_score_of_o_is_lowered_while_that_finds_more_entities():
    labels = np.array([[1, 0, 0, 1, 0, 0]])
    scores = np.where(labels[..., None] == 1, [0.8, 0.0], [2.2, 0.0])  # scores of O and B-x
    config = SimpleNamespace(id2label={0: "O", 1: "B-x"}, num_labels=2)
    model = SimpleNamespace(config=config, classifier=SimpleNamespace(bias=torch.zeros(2)))

    def predict(split):
        return SimpleNamespace(predictions=scores + model.classifier.bias.numpy(), label_ids=labels)

    predictions = {split: predict(split) for split in ("validation", "test")}
    task = get_task("token-classification")
    task.tune_on_validation(model, predictions, predict)
    assert model.classifier.bias.tolist() == [-1, 0]
    for found in predictions.values():
        assert task.evaluate(found.predictions, found.label_ids, config)["f1"] == 1
