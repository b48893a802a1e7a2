"""What training writes about itself: the card is its facts rendered, and the facts are true."""

import json
import random
import zipfile

import pytest
from conftest import LABELS, invent_rows
from datasets import ClassLabel, Dataset, Features, Value
from hf_rnn.training.card_facts import _pick_examples
from huggingface_hub import ModelCard

from hf_rnn import RnnForSequenceClassification, train, train_tokenizer
from hf_rnn.evaluation.baselines import LINEAR_BASELINE
from hf_rnn.hub.card import CardFacts, render


@pytest.fixture(scope="module")
def facts(trained):
    return json.loads((trained.folder / "card_facts.json").read_text(encoding="utf-8"))


def test_the_card_is_the_stored_facts_rendered(trained, facts):
    assert render(CardFacts.from_dict(facts)) == (trained.folder / "README.md").read_text(encoding="utf-8")
    assert CardFacts.from_dict(facts) == trained.card


def test_facts_are_those_of_the_run(trained, facts):
    rows = invent_rows(240, 1)  # train.tsv
    assert facts["class_counts"] == {name: sum(label == name for _, label in rows) for name in LABELS}
    for name in LABELS:
        of_label = [text for text, label in rows if label == name]
        assert facts["examples"][name] == of_label[:2], "short ones, so the first two"
    model = RnnForSequenceClassification.from_pretrained(trained.folder)
    assert facts["num_parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert facts["size_in_bytes"] == (trained.folder / "model.safetensors").stat().st_size
    for split in ("validation", "test"):
        matrix = trained.metrics[split]["confusion_matrix"]
        assert {**facts["results"][split], "confusion_matrix": matrix} == trained.metrics[split]
        assert "confusion_matrix" not in facts["results"][split], "it grows with the square of the classes"
    assert facts["results"].keys() == {"validation", "test"}
    lines = (trained.folder / "metrics.json").read_text().splitlines()
    row = trained.metrics["test"]["confusion_matrix"][0]
    assert sum(line.strip(" ,") == str(row) for line in lines) >= 1, "a row a line"
    assert facts["settings"]["learning_rate"] == 0.02
    assert facts["training"]["steps"] == trained.metrics["training"]["steps"] == 60
    assert facts["audit"]["rows"] == {"train": 240, "validation": 60, "test": 60}
    baseline = facts["baselines"][LINEAR_BASELINE]
    assert baseline.keys() == {"validation", "test"}
    assert baseline["test"]["accuracy"] > 0.9, "one word tells the label"


def test_what_the_user_says_of_the_model(tiny_settings, tmp_path):
    result = train(
        **{**tiny_settings, "num_train_epochs": 1},
        output_dir=str(tmp_path / "out"),
        license="cc0-1.0",
        language=["en", "de"],
        tags=["mood"],
        card_examples=False,
        baselines=False,
    )
    card = ModelCard.load(result.folder / "README.md")
    assert (card.data.license, card.data.language) == ("cc0-1.0", ["en", "de"])
    assert "mood" in card.data.tags
    assert "TF-IDF" not in card.text
    texts = [text for text, _ in invent_rows(240, 1) if len(text.split()) > 4]
    assert not any(text in card.text for text in texts)
    stored = (result.folder / "card_facts.json").read_text(encoding="utf-8")
    assert not any(text in stored for text in texts)
    settings = json.loads((result.folder / "training_args.json").read_text(encoding="utf-8"))
    assert settings["license"] == "cc0-1.0" and settings["card_examples"] is False, "a repeated run says the same"


def test_the_command_names_what_the_settings_cannot_find_again(tiny_settings, tmp_path):
    """Whoever repeats the run has files of these names, and not our paths to them."""
    vectors, words = tmp_path / "my vectors.txt", tmp_path / "words"
    vectors.write_text("miro 1 2\nselk 3 4\nthe 0 1\n")
    train_tokenizer(["the miro", "the selk"], min_frequency=1).save_pretrained(words)
    settings = {**tiny_settings, "num_train_epochs": 1, "baselines": False, "output_dir": str(tmp_path / "out")}
    settings |= {"vectors": str(vectors), "tokenizer_name_or_path": str(words)}
    settings.pop("embedding_size")
    card = (train(**settings).folder / "README.md").read_text(encoding="utf-8")
    named = "--tokenizer_name_or_path words --vectors 'my vectors.txt' --data_dir"
    assert f"hf-rnn train --recipe training_args.json {named}" in card


def test_the_command_names_a_file_in_an_archive(tiny_settings, tmp_path):
    with zipfile.ZipFile(tmp_path / "my vectors.zip", "w") as archive:
        archive.writestr("folder/a.txt", "miro 1 2\nselk 3 4\nthe 0 1\n")
        archive.writestr("b.txt", "miro 1 2\n")
    settings = {**tiny_settings, "num_train_epochs": 1, "baselines": False, "output_dir": str(tmp_path / "out")}
    settings |= {"vectors": str(tmp_path / "my vectors.zip" / "folder" / "a.txt")}
    settings.pop("embedding_size")
    result = train(**settings)
    card = (result.folder / "README.md").read_text(encoding="utf-8")
    assert "training_args.json --vectors 'my vectors.zip/folder/a.txt' --data_dir" in card
    stored = json.loads((result.folder / "training_args.json").read_text(encoding="utf-8"))
    assert stored["vectors"] == "my vectors.zip/folder/a.txt"


def test_flags_of_the_card(texts_dir, tmp_path, command):
    flags = "--no_card_examples --no_baselines --language en --num_train_epochs 1 --embedding_size 8 --hidden_size 4"
    out = tmp_path / "out"
    code, _, err = command("train", "--data_dir", texts_dir, "--output_dir", out, *flags.split(), "--use_cpu")
    assert code == 0, err
    stored = json.loads((out / "card_facts.json").read_text(encoding="utf-8"))
    assert stored["examples"] is None and stored["baselines"] is None
    assert "audit: 0 of 60 rows of validation repeat a row of train (0.00%)" in err


@pytest.mark.parametrize("labels", [3, 400])
def test_examples_are_the_first_of_each_label_and_short_if_they_can_be(labels):
    """Against a search row by row; the last label has no row."""
    chance = random.Random(labels)
    names = [f"name {number}" for number in range(labels)]
    texts = [f"text {'long ' * chance.choice([0, 60])}{row}" for row in range(5 * labels)]
    rows = [(text, chance.randrange(labels - 1)) for text in texts]
    rows += [(f"{'long ' * 60}{row}", 0) for row in range(60)] + [("short, but late", 0)]
    features = Features(text=Value("string"), label=ClassLabel(names=names))
    table = Dataset.from_list([{"text": text, "label": label} for text, label in rows], features=features)
    picked = _pick_examples(table, names)
    assert list(picked) == names and picked[names[-1]] == []
    for number, name in enumerate(names):
        first = [text for text, label in rows if label == number][:50]
        expected = [text for text in first if len(text) <= 200] + [text for text in first if len(text) > 200]
        assert [text.removesuffix("…") for text in picked[name]] == [
            text if len(text) <= 200 else text[:199] for text in expected[:2]
        ]


def test_long_examples_are_shown_in_part(tmp_path, tiny_settings, texts_dir):
    folder = tmp_path / "long"
    folder.mkdir()
    long = " ".join(["miro"] * 100)
    (folder / "train.tsv").write_text(
        "".join(f"{long} {number}\tgood\nselk {number}\tbad\n" for number in range(10)) + "miro\tgood\n",
        encoding="utf-8",
    )
    result = train(**{**tiny_settings, "data_dir": str(folder), "num_train_epochs": 1}, output_dir=str(tmp_path / "o"))
    assert [len(text) for text in result.card.examples["good"]] == [4, 200], "the short one first"
    assert all(long.startswith(text.removesuffix("…")) for text in result.card.examples["good"])
