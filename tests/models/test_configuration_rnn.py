"""RnnConfig: types, choices and ranges; misspelt settings; labels; JSON round trip."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassError, StrictDataclassFieldValidationError
from transformers import AutoConfig, PreTrainedConfig

from hf_rnn import RnnConfig

THREE = {0: "no", 1: "yes", 2: "so"}


@pytest.mark.parametrize(("name", "nearest"), [("hiden_size", "'hidden_size'"), ("dropout", "'word_dropout'")])
def test_a_misspelt_setting_names_the_nearest(name, nearest, tmp_path):
    message = f"has no setting '{name}'. Did you mean {nearest}"
    with pytest.raises(TypeError, match=message):
        RnnConfig(**{name: 1})
    RnnConfig().save_pretrained(tmp_path)
    with pytest.raises(TypeError, match=message):
        AutoConfig.from_pretrained(tmp_path, **{name: 1})
    if name == "dropout":  # not misspelt: other programs may set it, as transformers does with rms_norm_eps
        return
    with pytest.raises(TypeError, match=message):
        setattr(RnnConfig(), name, 1)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: 1}))
    with pytest.raises(TypeError, match=message):
        AutoConfig.from_pretrained(tmp_path)


def test_what_transformers_and_others_store_is_kept(tmp_path):
    config = RnnConfig(
        num_labels=3, problem_type="regression", dtype="bfloat16", output_hidden_states=True, tokenizer_class="X",
        is_decoder=True, eos_token_id=[2, 3],
    )  # fmt: skip
    config.architectures = ["RnnForSequenceClassification"]
    config.auto_map = {"AutoConfig": "configuration_rnn.RnnConfig"}
    config.bos_token_id = config.mask_token_id = 0
    config.operating_point = 0.4
    config.save_pretrained(tmp_path)
    for load in (RnnConfig.from_pretrained, AutoConfig.from_pretrained):
        assert load(tmp_path).to_dict() | {"_name_or_path": ""} == config.to_dict()
        assert load(tmp_path, operating_point=0.7).operating_point == 0.7
    assert RnnConfig(**config.to_dict()).to_dict() == config.to_dict()
    assert RnnConfig(**PreTrainedConfig().to_dict()).num_labels == 2, "every key of the base class's own JSON"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", "64"),
        ("bidirectional", 1),
        ("cell_type", "lstn"),
        ("id2label", ["no", "yes"]),
    ],
)
def test_wrong_types_and_choices(name, value):
    with pytest.raises(StrictDataclassFieldValidationError, match=name):
        RnnConfig(**{name: value})
    with pytest.raises(StrictDataclassFieldValidationError, match=name):
        setattr(RnnConfig(), name, value)


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_size": 0},
        {"num_hidden_layers": 10**8},
        {"cell_type": "min_gru", "recurrent_dropout": 0.1},
        {"pad_token_id": 30000},
        {"id2label": {0: "a", 2: "b"}},
        {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 1, "b": 0}},
    ],
)
def test_values_out_of_range(settings):
    with pytest.raises(StrictDataclassError):
        RnnConfig(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"id2label": THREE},
        {"id2label": {"0": "no", "1": "yes", "2": "so"}},
        {"label2id": {"so": 2, "no": 0, "yes": 1}},
        {"label2id": {"no": "0", "yes": "1", "so": "2"}},
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
    for given in ({"id2label": id2label}, {"label2id": label2id}, both, {**both, "num_labels": number}):
        config = RnnConfig.from_pretrained(tmp_path, **given)
        assert (config.id2label, config.label2id, config.num_labels) == (id2label, label2id, number)
        config.save_pretrained(tmp_path / "again")
        assert RnnConfig.from_pretrained(tmp_path / "again").id2label == id2label
    with pytest.raises(ValueError, match="num_labels=5"):
        RnnConfig.from_pretrained(tmp_path, num_labels=5, id2label=id2label)
    assert RnnConfig.from_pretrained(tmp_path, num_labels=5).id2label[4] == "LABEL_4"
