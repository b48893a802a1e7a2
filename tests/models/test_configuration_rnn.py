"""RnnConfig: strict types, choices and ranges; unknown keywords refused; JSON round trip."""

import copy
import json
import pickle

import pytest
import yaml
from huggingface_hub.errors import StrictDataclassError, StrictDataclassFieldValidationError
from transformers import AutoConfig, PreTrainedConfig

from hf_rnn import RnnConfig


@pytest.mark.parametrize(
    ("settings", "nearest"),
    [
        ({"hiden_size": 3}, "hidden_size"),
        ({"bidirektional": True}, "bidirectional"),
        ({"num_label": 3}, "num_labels"),
        ({"num_layers": 3}, "num_labels' or 'num_hidden_layers"),
    ],
)
def test_a_typo_names_the_nearest_setting(settings, nearest):
    with pytest.raises(TypeError, match=f"Did you mean '{nearest}'"):
        RnnConfig(**settings)


def test_unknown_without_a_near_name_lists_the_settings():
    with pytest.raises(TypeError, match="Known settings: .*cell_type.*word_dropout"):
        RnnConfig(zzzzzz=1)


def test_unknown_keys_are_refused_while_loading(tmp_path):
    RnnConfig().save_pretrained(tmp_path)
    for load in (RnnConfig.from_pretrained, AutoConfig.from_pretrained):
        with pytest.raises(TypeError, match="Did you mean 'hidden_size'"):
            load(tmp_path, hidden_sizee=5)
    # AutoTokenizer hands the tokenizer's own keywords to the config
    keywords = {"model_max_length": 64, "padding_side": "left", "use_fast": True, "truncation_side": "left"}
    assert AutoConfig.from_pretrained(tmp_path, **keywords).hidden_size == 128
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "poling": "max"}))
    with pytest.raises(TypeError, match="Did you mean 'pooling'"):
        RnnConfig.from_pretrained(tmp_path)


def test_everything_that_transformers_itself_stores_is_accepted(tmp_path):
    config = RnnConfig(
        num_labels=3, problem_type="regression", dtype="bfloat16", output_hidden_states=True, tokenizer_class="X"
    )
    config.architectures = ["RnnForSequenceClassification"]
    config.auto_map = {"AutoConfig": "configuration_rnn.RnnConfig"}
    config.bos_token_id = 0
    config.save_pretrained(tmp_path)
    assert RnnConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    assert RnnConfig(**PreTrainedConfig().to_dict()).num_labels == 2, "every key of the base class's own JSON"


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_size": "64"},
        {"hidden_size": 64.0},
        {"hidden_size": True},
        {"cell_type": "lstn"},
        {"pooling": "sum"},
        {"classifier_activation": "softmax"},
        {"bidirectional": 1},
        {"word_dropout": "0.1"},
    ],
)
def test_wrong_types_and_choices(settings):
    with pytest.raises(StrictDataclassFieldValidationError, match=next(iter(settings))):
        RnnConfig(**settings)
    config = RnnConfig()
    with pytest.raises(StrictDataclassFieldValidationError):
        setattr(config, *next(iter(settings.items())))


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_size": 0},
        {"vocab_size": -1},
        {"num_hidden_layers": 0},
        {"embedding_dropout": 1.0},
        {"recurrent_dropout": -0.1},
        {"cell_type": "min_gru", "recurrent_dropout": 0.1},
        {"classifier_dropout": float("nan")},
        {"embedding_initializer_range": float("inf")},
        {"pad_token_id": 30000},
        {"pad_token_id": -1},
        {"vocab_size": 10**12},
        {"hidden_size": 10**8},
        {"num_hidden_layers": 10**8},
        {"problem_type": "ranking"},
        {"id2label": {}},
        {"id2label": {0: "a", 2: "b"}},
        {"id2label": {0: "a", 1: "a"}},
        {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 1, "b": 0}},
    ],
)
def test_values_out_of_range(settings):
    with pytest.raises(StrictDataclassError):
        RnnConfig(**settings)


def test_integer_dropout_and_no_padding_id_are_fine():
    assert RnnConfig(embedding_dropout=0, pad_token_id=None).pad_token_id is None


@pytest.mark.parametrize(
    "settings",
    [
        {"id2label": {0: "no", 1: "yes", 2: "so"}},
        {"id2label": {"0": "no", "1": "yes", "2": "so"}},
        {"label2id": {"so": 2, "no": 0, "yes": 1}},
    ],
)
def test_either_label_map_gives_the_other(settings):
    config = RnnConfig(**settings)
    assert config.id2label == {0: "no", 1: "yes", 2: "so"}
    assert config.label2id == {"no": 0, "yes": 1, "so": 2}
    assert config.num_labels == 3


def test_every_field_has_a_meaning_for_the_command_line():
    own = [
        field
        for field in RnnConfig.__dataclass_fields__.values()
        if field.name not in PreTrainedConfig.__dataclass_fields__
    ]
    assert len(own) == 17
    assert all(field.metadata["help"] for field in own)


@pytest.mark.parametrize("number", [2, 3, 4])
def test_one_label_map_given_on_loading_stands_for_both(tmp_path, number):
    """The premise: three other labels are saved."""
    RnnConfig(vocab_size=9, id2label={0: "no", 1: "yes", 2: "so"}).save_pretrained(tmp_path)
    id2label = {index: f"class {index}" for index in range(number)}
    label2id = {label: index for index, label in id2label.items()}
    for given in ({"id2label": id2label}, {"label2id": label2id}):
        config = RnnConfig.from_pretrained(tmp_path, **given)
        assert (config.id2label, config.label2id, config.num_labels) == (id2label, label2id, number)
        config.save_pretrained(tmp_path / "again")
        assert RnnConfig.from_pretrained(tmp_path / "again").id2label == id2label


def test_new_labels_and_their_number_together(tmp_path):
    RnnConfig(vocab_size=9, id2label={0: "no", 1: "yes", 2: "so"}).save_pretrained(tmp_path)
    two = {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
    for given in ({"id2label": two["id2label"]}, {"label2id": two["label2id"]}, two):
        config = RnnConfig.from_pretrained(tmp_path, num_labels=2, **given)
        assert {"id2label": config.id2label, "label2id": config.label2id} == two
        config.save_pretrained(tmp_path / "again")
        with pytest.raises(ValueError, match="num_labels=5 and labels for 2 ids disagree"):
            RnnConfig.from_pretrained(tmp_path, num_labels=5, **given)
        with pytest.raises(ValueError, match="num_labels=5 and labels for 2 ids disagree"):
            RnnConfig(num_labels=5, **given)
    assert RnnConfig.from_pretrained(tmp_path, num_labels=5).id2label[4] == "LABEL_4"


def test_a_classifier_becomes_a_regression_while_loading(tmp_path):
    """The premise: what was saved is a problem that one output does not go with."""
    saved = RnnConfig(vocab_size=9, num_labels=3, problem_type="single_label_classification")
    saved.save_pretrained(tmp_path)
    for one in ({"num_labels": 1}, {"id2label": {0: "stars"}}):
        with pytest.raises(ValueError, match="requires `num_labels > 1`"):
            RnnConfig.from_pretrained(tmp_path, **one)
        config = RnnConfig.from_pretrained(tmp_path, problem_type="regression", **one)
        assert (config.problem_type, config.num_labels) == ("regression", 1)
    assert AutoConfig.from_pretrained(tmp_path, num_labels=1, problem_type=None).problem_type is None
    with pytest.raises(StrictDataclassError, match="problem_type"):
        RnnConfig.from_pretrained(tmp_path, problem_type="ranking")


@pytest.mark.parametrize("index", [int, str])
def test_labels_that_are_set_later(tmp_path, index):
    config = RnnConfig(vocab_size=9, num_labels=2)
    config.id2label = {index(0): "bad", index(1): "good"}
    assert (config.id2label, config.label2id) == ({0: "bad", 1: "good"}, {"bad": 0, "good": 1})
    config.save_pretrained(tmp_path)
    assert RnnConfig.from_pretrained(tmp_path).label2id == {"bad": 0, "good": 1}
    config.label2id = {"bad": 1, "good": 0}
    with pytest.raises(StrictDataclassError, match="id2label and label2id disagree"):
        config.save_pretrained(tmp_path)


def test_labels_that_are_renamed_in_place_are_saved(tmp_path):
    config = RnnConfig(vocab_size=9, num_labels=2)
    for names in (["no", "LABEL_1"], ["no", "yes"]):  # the second time as it was loaded
        config.id2label.update(enumerate(names))
        config.save_pretrained(tmp_path)
        config = AutoConfig.from_pretrained(tmp_path)
        assert (config.id2label, config.label2id) == (dict(enumerate(names)), {names[0]: 0, names[1]: 1})
        config = pickle.loads(pickle.dumps(copy.deepcopy(config)))
    assert yaml.safe_load(yaml.safe_dump(config.to_dict()))["label2id"] == {"no": 0, "yes": 1}
    config.label2id["Yes"] = config.label2id.pop("yes")  # of the two it is not the one that leads
    with pytest.raises(StrictDataclassError, match="id2label and label2id disagree"):
        config.save_pretrained(tmp_path)
    config.label2id = {"no": 0, "Yes": 1}
    with pytest.raises(StrictDataclassError, match="id2label and label2id disagree"):
        config.save_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["labels", "num_classes", "hidden_dim", "dropout"])
def test_what_looks_like_a_setting_is_not_hung_on_a_configuration(name):
    """The file it went into could not be loaded."""
    with pytest.raises(TypeError, match=f"has no setting '{name}'. Did you mean"):
        setattr(RnnConfig(vocab_size=9), name, 3)


def test_a_configuration_on_top_of_it_has_attributes_of_any_name():
    class Further(RnnConfig):
        def __post_init__(self, **kwargs):
            super().__post_init__(**kwargs)
            self.classifier_dropouts = 0.1

    assert Further(vocab_size=9).classifier_dropouts == 0.1


@pytest.mark.parametrize("name", ["cls_token_id", "sep_token_id", "mask_token_id", "unk_token_id"])
def test_what_transformers_hangs_on_a_configuration_is_kept(name, tmp_path):
    config = RnnConfig(vocab_size=9)
    setattr(config, name, 3)
    config.save_pretrained(tmp_path)
    assert getattr(AutoConfig.from_pretrained(tmp_path), name) == 3


def test_what_others_hang_on_a_configuration_is_kept(tmp_path):
    config = RnnConfig(vocab_size=9)
    config.best_threshold = 0.4
    config.save_pretrained(tmp_path)
    for load in (RnnConfig.from_pretrained, AutoConfig.from_pretrained):
        assert load(tmp_path).best_threshold == 0.4
        assert load(tmp_path, best_threshold=0.7).best_threshold == 0.7
    with pytest.raises(TypeError, match="has no setting 'num_layers'"):
        RnnConfig.from_dict({**config.to_dict(), "num_layers": 2})
    with pytest.raises(TypeError, match="has no setting 'save_pretrained'"):
        RnnConfig.from_dict({**config.to_dict(), "save_pretrained": 2})
