"""Files of a model that are damaged, or made to harm: it loads and answers, or one error of our own says why not.

Nothing else may come out, no absurd memory may be taken, and nobody may be asked over the network.
"""

import json
import shutil
import socket
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_rnn import RnnConfig, RnnForSequenceClassification, train_tokenizer
from hf_rnn.data.vectors.model_table import ModelTable
from hf_rnn.hub import loading as model_loading
from hf_rnn.inference import reference as plain_inference
from hf_rnn.training.distillation.teacher import Teacher
from hf_rnn.training.warm_start import read_config as read_start
from hf_rnn.utils.errors import UserError

FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
TEXTS = ["a b zz", "", "d" * 50, "<pad> <unk>"]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """The smallest whole model; whoever changes a file puts it back."""
    folder = tmp_path_factory.mktemp("hostile") / "model"
    tokenizer = train_tokenizer(["a b c d"], min_frequency=1)
    config = RnnConfig(vocab_size=len(tokenizer), embedding_size=4, hidden_size=4, id2label={0: "no", 1: "yes"})
    RnnForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def dialled(monkeypatch):
    """The addresses that somebody wanted to reach."""
    asked = []

    def refuse(*address):
        asked.append(address)
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return asked


def peak_megabytes():
    """The most memory that this process ever held."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)


def load(folder):
    """Load and answer, as the commands do."""
    model, tokenizer = model_loading.load_model(folder)
    logits = plain_inference.compute_logits(model, tokenizer, plain_inference.tokenize(tokenizer, TEXTS))
    labels = [
        model.config.id2label[label] for label in plain_inference.compute_scores(model, logits).argmax(-1).tolist()
    ]
    json.dumps(labels, ensure_ascii=False).encode("utf-8")
    return labels


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(model_dir, tmp_path, number):
    folder = shutil.copytree(model_dir, tmp_path / "model")
    model = RnnForSequenceClassification.from_pretrained(folder)
    model.classifier.bias.data[0] = number
    model.save_pretrained(folder)
    with pytest.raises(UserError, match="cannot be used: its logits are .* so weights are NaN or infinite"):
        load(folder)


def test_an_adapter_is_not_left_out(model_dir, tmp_path):
    """peft leaves it beside the weights; transformers puts it on top of them where peft is installed."""
    folder = shutil.copytree(model_dir, tmp_path / "model")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="holds an adapter .* PeftModel.merge_and_unload"):
        load(folder)


def test_quantised_weights_are_told(model_dir, tmp_path):
    """As of a folder saved with TorchAoConfig, where other keys stand for a quantised weight."""
    folder = shutil.copytree(model_dir, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "torchao"}}))
    with pytest.raises(UserError, match="holds quantised weights .quantization_config in config.json"):
        load(folder)


def test_weights_in_several_files_are_told(model_dir, tmp_path):
    folder = shutil.copytree(model_dir, tmp_path / "model")
    model = RnnForSequenceClassification.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="1KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1, "premise"
    with pytest.raises(UserError, match="has no model.safetensors. Its weights are cut into several files"):
        load(folder)


def check_harmless(folder, name, content, dialled):
    path = Path(folder) / name
    whole, peak, start = path.read_bytes(), peak_megabytes(), time.perf_counter()
    try:
        path.write_bytes(content)
        assert len(load(folder)) == len(TEXTS)
    except UserError as error:
        assert str(folder) in str(error) and len(str(error)) < 3_000
    finally:
        path.write_bytes(whole)
    assert not dialled
    assert peak_megabytes() - peak < 200
    assert time.perf_counter() - start < 30, "a machine under load has time enough, an absurd size has not"


# ---- what stands in a hostile file ----

NUMBERS = [-1, 0, 1, 2, 3, 2**26, 2**31, 2**32, 2**63, 10**30, 10**400, 0.5, -0.5, 1e308, float("nan"), float("inf")]
NAMES = ["", "x", "x/y", "bert", "gru", "float99", "float16", "int8", "load", "flash_attention_2", "\ud800", "../x"]
KEYS = [
    "_attn_implementation",
    "_commit_hash",
    "_name_or_path",
    "adapter_kwargs",
    "attn_implementation",
    "auto_map",
    "backend",
    "bos_token_id",
    "chunk_size_feed_forward",
    "custom_pipelines",
    "eos_token_id",
    "experts_implementation",
    "finetuning_task",
    "is_encoder_decoder",
    "loss_type",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "per_layer_config",
    "problem_type",
    "quantization_config",
    "return_dict",
    "rope_scaling",
    "task_specific_params",
    "tie_word_embeddings",
    "tokenizer_class",
    "torch_dtype",
    "transformers_weights",
    "use_cache",
    "chat_template",
    "added_tokens_decoder",
    "extra_special_tokens",
    "truncation_side",
    "padding_side",
    "tokenizer_file",
    "add_prefix_space",
    "mask_token",
    "model_specific_special_tokens",
    "from_slow",
    "clean_up_tokenization_spaces",
]
LEAVES = st.one_of(
    st.sampled_from([*NUMBERS, *NAMES, None, True, False, "a" * 1000]), st.integers(), st.floats(), st.text(max_size=9)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(["0", "1", "type", *KEYS]), st.text(max_size=5)), inner, max_size=3),
    ),
    max_leaves=5,
)


def places(value, above=()):
    """The path to every value below a JSON value, and to itself."""
    yield above
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in below:
        yield from places(inner, (*above, key))


def change(draw, value):
    """Put another value in a place, take one out, or add a key."""
    *above, key = draw(st.sampled_from([place for place in places(value) if place]))
    holder = value
    for step in above:
        holder = holder[step]
    kind = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"]))
    if kind == "replace":
        holder[key] = draw(VALUES)
    elif kind == "remove":
        del holder[key]
    elif isinstance(holder, dict):
        holder[draw(st.one_of(st.sampled_from(KEYS), st.text(max_size=9)))] = draw(VALUES)


def changed_json(draw, content):
    value = json.loads(content)
    for _ in range(draw(st.integers(1, 3))):
        if any(places(value)):
            change(draw, value)
    return json.dumps(value).encode()


@st.composite
def hostile_content(draw, name, whole):
    """The bytes of one file, whole ones spoilt in one way."""
    size = int.from_bytes(whole[:8], "little") if name == "model.safetensors" else 0  # of the header's JSON
    kind = draw(st.sampled_from(["json", "json", "json", "cut", "bytes", "size" if size else "any"]))
    if kind == "json" and size:
        header = changed_json(draw, whole[8 : 8 + size])
        return len(header).to_bytes(8, "little") + header + whole[8 + size :]
    if kind == "json":
        return changed_json(draw, whole)
    if kind == "cut":
        return whole[: draw(st.integers(0, len(whole) - 1))]
    if kind == "size":
        return draw(st.binary(min_size=8, max_size=8)) + whole[8:]
    if kind == "any":
        nested = st.integers(1, 100_000).map(lambda depth: b'{"a":' * depth + b"1" + b"}" * depth)
        return draw(st.one_of(VALUES.map(lambda value: json.dumps(value).encode()), st.binary(max_size=40), nested))
    spoilt = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        spoilt[draw(st.integers(0, len(whole) - 1))] = draw(st.integers(0, 255))
    return bytes(spoilt)


SAME_MODEL = settings(deadline=None, suppress_health_check=list(HealthCheck))


@settings(SAME_MODEL, max_examples=100)
@given(data=st.data())
def test_a_hostile_file(model_dir, dialled, data):
    name = data.draw(st.sampled_from(FILES))
    check_harmless(model_dir, name, data.draw(hostile_content(name, (model_dir / name).read_bytes())), dialled)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "cases"), [("config.json", 5_000), *((name, 2_000) for name in FILES if name != "config.json")]
)
def test_ten_thousand_hostile_files(model_dir, dialled, name, cases):
    whole = (model_dir / name).read_bytes()

    @settings(SAME_MODEL, max_examples=cases)
    @given(content=hostile_content(name, whole))
    def check(content):
        check_harmless(model_dir, name, content, dialled)

    check()


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (model_loading.load_model, "'bert'"),
        (lambda folder: read_start(str(folder)), "'bert'"),
        (lambda folder: Teacher.open(str(folder)), "num_labels"),
        (lambda folder: ModelTable.find(folder, "x"), "num_labels"),
    ],
    ids=["model", "start", "teacher", "vectors"],
)
def test_many_labels_are_refused_before_transformers_names_each(model_dir, tmp_path, monkeypatch, load, message):
    """transformers takes 6 GB and a minute for these 42 bytes."""
    folder = Path(shutil.copytree(model_dir, tmp_path / "model"))
    (folder / "config.json").write_text('{"model_type": "bert", "num_labels": 10000000}')
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", lambda *_, **__: pytest.fail("asked transformers"))
    with pytest.raises(UserError, match=message):
        load(folder)


# ---- what the error says ----


def test_the_untouched_model_answers(model_dir, dialled):
    assert set(load(model_dir)) <= {"no", "yes"}
    assert not dialled


@pytest.mark.parametrize(
    ("name", "where", "value", "message"),
    [
        ("config.json", ["hidden_size"], "9", "because of config.json: .*'hidden_size' expected int, got str"),
        ("config.json", ["hidden_size"], 10**400, "hidden_size must be at most 8589934592"),
        ("config.json", ["num_hidden_layers"], 2**20, "has 11 weights, and config.json num_hidden_layers=1048576"),
        (
            "config.json",
            ["vocab_size"],
            2**27,
            r"embedding.weight has shape \(6, 4\) in model.safetensors and \(134217",
        ),
        ("config.json", ["bidirectional"], False, "has rnn.*reverse|has rnn.*, for which config.json has no place"),
        ("config.json", ["dtype"], "int9", "because of config.json: .*int9"),
        ("config.json", ["id2label", "0"], "\ud800", "because of config.json: .*a label must be a text, found "),
        (
            "config.json",
            ["id2label", "0"],
            7,
            "because of config.json: .*(a label must be a text, found|id2label.*) 7",
        ),
        ("tokenizer.json", ["model", "vocab", "a"], 6, "the tokenizer has ids up to 6, the model a table of 6 rows"),
        ("tokenizer.json", ["model", "vocab"], 6, "because of tokenizer.json or tokenizer_config.json: "),
        ("tokenizer_config.json", ["pad_token"], None, "tokenizer_config.json names no pad_token"),
        ("tokenizer_config.json", ["model_max_length"], -1, "model_max_length in tokenizer_config.json must be a num"),
        ("tokenizer_config.json", ["model_max_length"], 0, "model_max_length in tokenizer_config.json must be a num"),
        ("tokenizer_config.json", ["model_input_names"], ["x"], "model_input_names in tokenizer_config.json must be"),
    ],
)
def test_the_error_names_file_and_key(model_dir, name, where, value, message):
    whole, peak = (model_dir / name).read_bytes(), peak_megabytes()
    content = json.loads(whole)
    *above, key = where
    holder = content
    for step in above:
        holder = holder[step]
    holder[key] = value
    if "id2label" in where:
        del content["label2id"]
    try:
        (model_dir / name).write_text(json.dumps(content))
        with pytest.raises(UserError, match=message) as error:
            load(model_dir)
    finally:
        (model_dir / name).write_bytes(whole)
    assert str(model_dir) in str(error.value)
    assert peak_megabytes() - peak < 200


@pytest.mark.parametrize("number", [10**8, 10**400, -1, 2.5, "x"])
def test_labels_are_counted_before_each_gets_a_name(number):
    with pytest.raises(ValueError, match="num_labels must be from 1 to 65536, found"):
        RnnConfig(num_labels=number)


@pytest.mark.parametrize("key", ["model_input_names", "model_max_length"])
def test_a_long_value_makes_no_long_error(model_dir, dialled, key):
    content = json.loads((Path(model_dir) / "tokenizer_config.json").read_text(encoding="utf-8"))
    check_harmless(model_dir, "tokenizer_config.json", json.dumps({**content, key: 5_000 * "a"}).encode(), dialled)
