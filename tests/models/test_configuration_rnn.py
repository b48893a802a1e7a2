"""RnnConfig: types and ranges; parts that the model looks up; labels; JSON round trip."""

import json
from pathlib import Path

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForSequenceClassification

from hf_rnn import PRETRAINED, RnnConfig, RnnForSequenceClassification

GOLDEN = Path(__file__).parents[1] / "golden"
THREE = {0: "no", 1: "yes", 2: "so"}


def test_a_config_of_an_older_version_loads():
    for folder in (GOLDEN / "checkpoint", PRETRAINED / "english"):
        saved = json.loads((folder / "config.json").read_text())
        loaded = json.loads(AutoConfig.from_pretrained(folder).to_json_string(use_diff=False))
        theirs = {"transformers_version", "use_cache"}  # it drops the second one
        assert {**loaded, **saved}.keys() - loaded.keys() <= theirs
        assert all(loaded[name] == saved[name] for name in saved.keys() - theirs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cell_type": "lstn"}, "cell_type must be one of rnn_tanh, .*; found 'lstn'"),
        ({"pooling": "sum"}, "pooling must be one of last, .*; found 'sum'"),
        ({"cell_type": "min_gru", "recurrent_dropout": 0.1}, "min_gru has no recurrent_dropout"),
    ],
)
def test_the_model_looks_up_its_parts(settings, message):
    config = RnnConfig(vocab_size=9, embedding_size=3, hidden_size=2, **settings)
    with pytest.raises(ValueError, match=message):
        RnnForSequenceClassification(config)


@pytest.mark.parametrize(
    "settings",
    [
        {"embedding_size": "64"},
        {"bidirectional": 1},
        {"block_type": "tree"},
        {"id2label": ["no", "yes"]},
        {"hidden_size": 0},
        {"num_hidden_layers": 10**8},
        {"pad_token_id": 30000},
        {"id2label": {0: "a", 2: "b"}},
        {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 1, "b": 0}},
    ],
)
def test_wrong_types_choices_and_values(settings):
    with pytest.raises(StrictDataclassError, match=next(iter(settings))):
        RnnConfig(**settings)


def test_a_wrong_value_that_is_set_later():
    with pytest.raises(StrictDataclassError, match="bidirectional"):
        RnnConfig().bidirectional = 1


@pytest.mark.parametrize(
    "settings",
    [
        {"id2label": {"0": "no", "1": "yes", "2": "so"}},
        {"label2id": {"so": "2", "no": "0", "yes": "1"}},
    ],
)
def test_either_label_map_gives_the_other(settings):
    config = RnnConfig(**settings)
    assert (config.id2label, config.label2id) == (THREE, {"no": 0, "yes": 1, "so": 2})


@pytest.mark.parametrize("number", [2, 3])
def test_labels_given_on_loading_replace_those_saved(tmp_path, number):
    RnnConfig(id2label=THREE).save_pretrained(tmp_path)
    id2label = {index: f"class {index}" for index in range(number)}
    label2id = {label: index for index, label in id2label.items()}
    both = {"id2label": id2label, "label2id": label2id}
    for given in (
        {"id2label": id2label},
        {"label2id": label2id},
        both,
        {**both, "num_labels": number},
    ):
        config = RnnConfig.from_pretrained(tmp_path, **given)
        assert (config.id2label, config.label2id, config.num_labels) == (id2label, label2id, number)
        config.save_pretrained(tmp_path / "again")
        assert RnnConfig.from_pretrained(tmp_path / "again").id2label == id2label
    with pytest.raises(ValueError, match="num_labels=5"):
        RnnConfig.from_pretrained(tmp_path, num_labels=5, id2label=id2label)
    assert RnnConfig.from_pretrained(tmp_path, num_labels=5).id2label[4] == "LABEL_4"


def test_another_number_of_labels_drops_what_belongs_to_the_saved_ones(tmp_path):
    config = RnnConfig(vocab_size=9, problem_type="multi_label_classification", id2label=THREE)
    config.label_thresholds = [0.2, 0.3, 0.4]
    RnnForSequenceClassification(config).save_pretrained(tmp_path)
    options = {"num_labels": 7, "ignore_mismatched_sizes": True}
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, **options).config
    assert (loaded.num_labels, loaded.label_thresholds) == (7, None)
    renamed = RnnConfig.from_pretrained(tmp_path, id2label={0: "a", 1: "b", 2: "c"})
    assert renamed.label_thresholds == [0.2, 0.3, 0.4]
