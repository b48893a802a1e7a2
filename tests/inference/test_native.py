"""The kernel in C gives the logits of plain torch for every model it takes, and refuses others."""

import ctypes
import json
import os
import pickle
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_ngrams
import torch
from conftest import run_python
from safetensors.numpy import load_file, save_file

from hf_rnn import (
    FastRnn,
    RnnConfig,
    RnnForSequenceClassification,
    RnnForTokenClassification,
    SentenceEncoder,
)
from hf_rnn.hub.model_folder import PRETRAINED, FinishedFolder, find_folder, load_model
from hf_rnn.inference import kernel as library
from hf_rnn.inference import native as engine
from hf_rnn.inference import torch as torch_engine
from hf_rnn.inference.engine import InferenceOptions, Source, Unsupported
from hf_rnn.inference.kernel.__main__ import build
from hf_rnn.inference.native import MISSING, NativeEngine
from hf_rnn.inference.open import copy_weights, open_native
from hf_rnn.inference.torch import compute_logits, load_sentence_model
from hf_rnn.utils.errors import UserError

if library.load_library() is None and shutil.which("cc"):
    build()
    library.load_library.cache_clear()
pytestmark = pytest.mark.skipif(library.load_library() is None, reason="there is no C compiler")

ENGLISH = PRETRAINED / "english"
VOCABULARY = 53
LAYERS = [
    ("residual", "min_gru"),
    *(("plain", cell) for cell in ("min_gru", "lstm", "gru", "rnn_tanh", "rnn_relu")),
]
SIZES = {
    "one direction": {
        "embedding_size": 20,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "bidirectional": False,
    },
    "widths that are padded": {"embedding_size": 7, "hidden_size": 21, "num_hidden_layers": 3},
}
BLOCKS = {"residual_size": 48, "intermediate_size": 70, "conv_kernel": 4}
HEADS = {"classifier": RnnForSequenceClassification, "tagger": RnnForTokenClassification}


def make(head="classifier", block="residual", cell="min_gru", **given):
    torch.manual_seed(0)
    fields = {"embedding_size": 20, "hidden_size": 32, "num_labels": 3, "vocab_size": VOCABULARY}
    fields |= BLOCKS if block == "residual" else {}
    model = HEADS[head](RnnConfig(block_type=block, cell_type=cell, **fields | given)).eval()
    for parameter in model.rnn.layers.parameters():
        parameter.data *= 1.5  # so that states matter
    return model


def pack(model, precision="float32", **changes):
    """The engine of a model, with some settings or weights changed."""
    weights = {name: weight.numpy().copy() for name, weight in model.state_dict().items()}
    settings = vars(model.config) | {"num_labels": model.config.num_labels}
    for name, change in changes.items():
        (weights if name in weights else settings)[name] = change
    weights = {name: weight for name, weight in weights.items() if weight is not None}
    return NativeEngine(SimpleNamespace(**settings), weights, precision, type(model).__name__)


def draw_ids(lengths, seed=0):
    chance = np.random.default_rng(seed)
    return [chance.integers(0, VOCABULARY, length).tolist() for length in lengths]


def plain_logits(model, ids):
    batch = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(text, dtype=torch.long) for text in ids], batch_first=True
    )
    mask = torch.arange(batch.shape[1]) < torch.tensor([len(text) for text in ids])[:, None]
    with torch.no_grad():
        logits = model(batch, mask).logits
    return (logits[mask] if logits.dim() == 3 else logits).numpy()


HOSTILE = [
    [],
    [0],
    [VOCABULARY - 1],
    [0] * 40,
    *draw_ids([2, 60, 0, 300, 12, 13]),
    [VOCABULARY - 1, 0] * 9,
]


KNOWN = [[], [0], [1, 2, 3, 4] * 5, [18]]  # ids of a small vocabulary


@pytest.fixture
def levels():
    """Run a test once per instruction set that the processor has."""
    kernel = library.load_library()
    yield (level for level in (2, 1, 0) if kernel.hf_rnn_level(level) == level)
    kernel.hf_rnn_level(2)


# ---- numbers ----


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(("block", "cell"), LAYERS, ids=["-".join(names) for names in LAYERS])
def test_logits_are_those_of_torch_for_hostile_texts(levels, block, cell, sizes):
    poolings, activations = (
        ("mean_max", "last", "attention", "mean", "max"),
        ("linear", "relu", "tanh", "gelu"),
    )
    heads = [
        {"pooling": name, "classifier_activation": activations[at % 4]}
        for at, name in enumerate(poolings)
    ]
    models = [make(block=block, cell=cell, **head, **sizes) for head in heads]
    models.append(make("tagger", block, cell, **sizes))
    models.append(make(block=block, cell=cell, **sizes))
    tiny_ngrams.attach(models[-1])
    expected = [plain_logits(model, HOSTILE) for model in models]
    assert np.ptp(expected[0], axis=0).max() > 1e-3, "premise: the texts have different answers"
    for _ in levels:
        for model, numbers in zip(models, expected, strict=True):
            packed = pack(model)
            np.testing.assert_allclose(packed.compute(HOSTILE, None), numbers, atol=1e-5)
            alone = np.concatenate([packed.compute([text], None) for text in HOSTILE])
            np.testing.assert_array_equal(
                alone, packed.compute(HOSTILE, None), "the same bits in any batch"
            )


@pytest.mark.parametrize(("block", "cell"), LAYERS[:3])
def test_all_lengths_and_numbers_of_threads(block, cell):
    model, ids = make(block=block, cell=cell), draw_ids([*range(0, 301, 3), 5000])
    packed = pack(model)
    expected = packed.run(ids, InferenceOptions(threads=1))
    np.testing.assert_allclose(expected[:-1], plain_logits(model, ids[:-1]), atol=1e-5)
    np.testing.assert_allclose(expected[-1:], plain_logits(model, ids[-1:]), atol=1e-5)
    for threads in (2, 3, 4):
        np.testing.assert_array_equal(packed.run(ids, InferenceOptions(threads=threads)), expected)


@pytest.mark.parametrize(("precision", "bound"), [("int16", 3e-3), ("int8", 0.1)])
@pytest.mark.parametrize(("block", "cell"), LAYERS[:3])
def test_short_products_are_near_and_used_only_where_the_processor_has_them(
    levels, block, cell, precision, bound
):
    model, ids = make(block=block, cell=cell, num_hidden_layers=2), draw_ids([3, 40, 7, 0, 90])
    expected = plain_logits(model, ids)
    for level in levels:
        logits = pack(model, precision).run(ids)
        np.testing.assert_allclose(logits, expected, atol=bound if level else 1e-5)
        assert (np.abs(logits - expected).max() > 2e-6) == (level > 0), (
            "premise: short products round"
        )


def test_a_table_that_is_too_large_is_made_for_the_texts_at_hand(monkeypatch):
    model = make()
    expected = pack(model).run(HOSTILE)
    monkeypatch.setattr(engine, "_LARGEST_TABLE", 10)
    monkeypatch.setattr(engine, "_ROWS_AT_ONCE", 7)
    np.testing.assert_array_equal(pack(model).run(HOSTILE), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_stored_dtypes(copy, dtype):
    model, tokenizer = load_model(copy)
    model.to(dtype).save_pretrained(copy)
    expected = compute_logits(load_model(copy)[0], tokenizer, KNOWN)
    stored, _ = open_native(Source("", FinishedFolder(copy)))
    np.testing.assert_allclose(stored.run(KNOWN), expected, atol=1e-5)


def test_a_table_in_float8(copy):
    model, tokenizer = load_model(copy)
    table = model.get_input_embeddings().weight
    codes = (
        torch.arange(table.numel(), dtype=torch.int32)
        .remainder(256)
        .to(torch.uint8)
        .reshape(table.shape)
    )
    values = codes.view(torch.float8_e4m3fn).float()
    table.data = torch.where(values.isfinite() & (values.abs() < 16), values, 0)
    model.config.freeze_embedding = True
    model.save_pretrained(copy)
    stored, _ = open_native(Source("", FinishedFolder(copy)))
    np.testing.assert_allclose(
        stored.run(KNOWN), compute_logits(model, tokenizer, KNOWN), atol=1e-5
    )


def test_states_that_are_refused():
    streaming = pack(make(bidirectional=False, pooling="mean"))
    _, state = streaming.advance([[3]], None)
    for wrong in (state[:, 1:], state.astype(float), state[0]):
        with pytest.raises(ValueError, match=r"states are float32"):
            streaming.advance([[3]], wrong)
    with pytest.raises(IndexError):
        streaming.advance([[VOCABULARY]], state)
    with pytest.raises(ValueError, match="one direction"):
        pack(make()).advance([[3]], None)


# ---- what never reaches C ----


@pytest.mark.parametrize(
    "ids", [[[1, -1]], [[VOCABULARY]], [[1], [2**40]], [[], [1, VOCABULARY, 2]]]
)
def test_ids_outside_the_vocabulary(ids):
    with pytest.raises(IndexError, match="from 0 to 52"):
        pack(make()).run(ids)


WRONG = {
    "classifier.bias": np.full(3, np.nan, np.float32),
    "rnn.embedding.weight": np.zeros((VOCABULARY - 1, 20), np.float32),
    "rnn.layers.0.up_proj.weight": None,
    "vocab_size": VOCABULARY + 1,
    "num_hidden_layers": 1 << 30,
    "conv_kernel": -1,
    "intermediate_size": 1 << 40,
    "residual_size": 40,
    "num_labels": True,
    "hidden_act": "gelu",
    "classifier_activation": "softplus",
    "pooling": "median",
    "cell_type": "lstm",
    "block_type": "cubic",
    "sep_token_id": 3,
    "target_scale": [1.0, 1.0, 1.0],
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_shapes_and_settings_are_refused(name):
    with pytest.raises(Unsupported):
        pack(make(), **{name: WRONG[name]})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["trained", "tagger"])
def test_mutated_folders_answer_as_the_plain_loader_says(kind, request, tmp_path):
    """Any value of `config.json` and shape of a weight: it is left, or the answers are torch's."""
    folder = FinishedFolder(
        shutil.copytree(request.getfixturevalue(kind).folder, tmp_path / "model")
    )
    settings, weights = json.loads(folder.config.read_text()), load_file(folder.weights)
    chance = np.random.default_rng(0)
    values = [
        None,
        True,
        -1,
        0,
        1,
        3,
        2**31,
        10**12,
        0.5,
        "",
        "mean",
        "lstm",
        [],
        {},
        [1, 2],
        "residual",
    ]
    native = 0
    for _ in range(150):
        changed, arrays = dict(settings), dict(weights)
        if chance.random() < 0.6:
            changed[str(chance.choice(list(changed)))] = values[chance.integers(len(values))]
        else:
            name = str(chance.choice(list(arrays)))
            weight = arrays[name]
            wide = weight.astype(np.float64) * 1e45
            name += ".more" * (chance.random() < 0.2)
            arrays[name] = [weight[:-1], weight.T.copy(), weight * np.nan, wide][chance.integers(4)]
        folder.config.write_text(json.dumps(changed))
        save_file(arrays, folder.weights)
        try:
            stored, _ = open_native(Source("", folder))
        except Unsupported:
            continue
        native += 1
        try:
            model, tokenizer = load_model(folder.root)
        except Exception:  # noqa: BLE001 - a setting that predicting does not read
            assert arrays == weights
            continue
        ids = [[1, 2, 3], [], [4]]
        np.testing.assert_allclose(
            stored.run(ids), compute_logits(model, tokenizer, ids), atol=1e-5
        )
    assert 20 < native < 140, "premise: both happen"


def build_checked(found, library_name, folder):
    """Build the kernel with a sanitizer; return the environment of a process that loads it."""
    run = subprocess.run(
        ["cc", f"-print-file-name={library_name}"], capture_output=True, text=True, check=True
    )
    if not os.path.isabs(preload := run.stdout.strip()):
        pytest.skip("the compiler has no sanitizers")
    build(folder / "_kernel.so", ("-g", "-O1", f"-fsanitize={found}", "-fno-sanitize-recover=all"))
    return os.environ | {
        "LD_PRELOAD": preload,
        "ASAN_OPTIONS": "detect_leaks=0",
        "TSAN_OPTIONS": "exitcode=66",
    }


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs LD_PRELOAD")
@pytest.mark.parametrize(
    ("found", "library_name"), [("address,undefined", "libasan.so"), ("thread", "libtsan.so")]
)
def test_sanitizers_find_nothing(found, library_name, tmp_path):
    """Address, UB or thread sanitizer over each cell and instruction set, in four threads."""
    environment = build_checked(found, library_name, tmp_path)
    cases = []
    for block, cell in LAYERS:
        for number, pooling in enumerate(("mean_max", "attention")):
            model = make(block=block, cell=cell, pooling=pooling, **[*SIZES.values()][number % 2])
            cases.append(pack(model)._source)
        cases.append(pack(make("tagger", block, cell))._source)
        cases.append(
            pack(make(block=block, cell=cell, pooling="last", bidirectional=False))._source
        )
    with_ngrams = make()
    tiny_ngrams.attach(with_ngrams)
    cases.append(pack(with_ngrams)._source)
    plain = [(SimpleNamespace(**vars(config)), *rest) for config, *rest in cases]
    (tmp_path / "cases.pickle").write_bytes(pickle.dumps((plain, HOSTILE)))
    program = f"""
import pickle, pathlib, numpy
from concurrent.futures import ThreadPoolExecutor
from hf_rnn.inference import kernel as library
from hf_rnn.inference.native import NativeEngine
library.FOLDER = pathlib.Path({str(tmp_path)!r})
cases, ids = pickle.loads((library.FOLDER / "cases.pickle").read_bytes())
for level in (2, 1, 0):
    library.load_library().hf_rnn_level(level)
    for config, weights, _, head in cases:
        for precision in ("float32", "int16", "int8"):
            engine = NativeEngine(config, weights, precision, head)
            def work(number):
                assert numpy.isfinite(engine.run(ids[number:])).all()
                states = None
                for piece in ids[3:] * (not config.bidirectional and config.pooling == "last"):
                    logits, states = engine.advance([piece, [1], []], states)
                    assert numpy.isfinite(logits).all()
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(work, range(4)))
print("whole")
"""
    assert run_python(program, env=environment) == "whole\n"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs LD_PRELOAD")
def test_no_forged_number_leads_outside(tmp_path):
    """500 forged tables, states and lengths, below the check of what is opened."""
    environment = build_checked("address,undefined", "libasan.so", tmp_path)
    model = make(bidirectional=False, pooling="mean_max", num_hidden_layers=1)
    tiny_ngrams.attach(model)
    config, weights, *_ = pack(model)._source
    source = SimpleNamespace(**vars(config)), weights
    (tmp_path / "case.pickle").write_bytes(pickle.dumps(source))
    program = f"""
import ctypes, pathlib, pickle
import numpy as np
from hf_rnn.inference import kernel as library
from hf_rnn.inference.native import NativeEngine
from hf_rnn.linear.ngrams import NgramTable
library.FOLDER = pathlib.Path({str(tmp_path)!r})
config, weights = pickle.loads((library.FOLDER / "case.pickle").read_bytes())
NgramTable.__post_init__ = lambda table: None
chance = np.random.default_rng(0)
for number in range(500):
    forged = dict(weights)
    for name in ("ngrams.weight", "ngrams.check", "ngrams.shift"):
        info = np.iinfo(weights[name].dtype)
        forged[name] = chance.integers(info.min, info.max + 1, weights[name].shape, info.dtype)
    forged["ngrams.scale"] = chance.normal(size=3).astype("f4") * 10.0 ** chance.integers(-38, 38)
    if number % 2:
        forged["ngrams.shift"][:] = chance.choice([-32768, -1, 0, 1, 32767])
    precision = ("float32", "int16", "int8")[number % 3]
    engine = NativeEngine(config, forged, precision)
    lengths = chance.choice([0, 0, 1, 2, 3, 15, 16, 17, 600], chance.integers(1, 6))
    texts = [chance.integers(0, config.vocab_size, length).tolist() for length in lengths]
    engine.run(texts)
    _, states = engine.advance(texts, None)
    wild = chance.integers(0, 2**32, states.shape, np.uint32).view(np.float32)
    engine.advance(texts, wild)
    for wrong in (wild[:, 1:], wild[:-1], wild.astype(float)):
        try:
            engine.advance(texts, wrong)
        except ValueError:
            continue
        raise AssertionError(wrong.shape)
print("whole")
"""
    assert run_python(program, env=environment) == "whole\n"


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("shift", lambda values: values * 0 - 1),
        ("shift", lambda values: values[:-1]),
        ("weight", lambda values: values[:0]),
        ("scale", lambda values: values * np.inf),
    ],
)
def test_a_forged_table_of_ngrams_is_refused_in_one_line(
    name, change, native, tmp_path, trained, monkeypatch
):
    model, tokenizer = load_model(trained.folder)
    tiny_ngrams.attach(model)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    folder = FinishedFolder(tmp_path)
    weights = load_file(folder.weights)
    weights[f"ngrams.{name}"] = change(weights[f"ngrams.{name}"])
    save_file(weights, folder.weights)
    monkeypatch.setenv(library.SWITCH, str(int(native)))
    library.load_library.cache_clear()
    with pytest.raises(UserError, match=f"{tmp_path}.*model.safetensors") as error:
        FastRnn.from_pretrained(tmp_path)
    library.load_library.cache_clear()
    assert "\n" not in str(error.value)


# ---- FastRnn, Tagger, SentenceEncoder and the command ----


def test_neither_torch_nor_transformers_is_imported(trained, tagger, tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("so good\nso bad\n")
    program = f"""
import sys
sys.modules.update(dict.fromkeys(("torch", "transformers"), None))  # as if they were not installed
import json, pickle
from hf_rnn import FastRnn
fast = pickle.loads(pickle.dumps(FastRnn.from_pretrained({str(trained.folder)!r})))
print(json.dumps(fast.predict(["so good", "so bad"])))
print(sum(name.startswith("hf_rnn") for name in sys.modules))
from hf_rnn.cli.main import main
for flags in (["--text", "so good", "--text", "so bad"], ["--input", {str(lines)!r}]):
    assert main(["predict", "--model", {str(trained.folder)!r}, *flags]) == 0
print(*[name for name in ("pandas", "pyarrow", "datasets", "sklearn") if name in sys.modules])
from hf_rnn import Tagger
answers = Tagger.from_pretrained({str(tagger.folder)!r}).predict(["Anna Bo sees Rome ."])
print(answers[0]["entities"][0]["text"])
"""
    first, files, *others, heavy, name = run_python(program).splitlines()
    answers = FastRnn(*load_model(trained.folder)).predict(["so good", "so bad"])
    for found in (
        json.loads(first),
        list(map(json.loads, others[:2])),
        list(map(json.loads, others[2:])),
    ):
        assert [answer["label"] for answer in found] == [answer["label"] for answer in answers]
        scores = [answer["score"] for answer in answers]
        assert [answer["score"] for answer in found] == pytest.approx(scores, abs=1e-5)
    assert heavy == "" and int(files) <= 22, "a start reads few files"
    assert name == "Anna Bo"


def test_the_switch_and_a_missing_kernel_leave_the_plain_model(trained, monkeypatch, caplog):
    texts = ["so good", "so bad", ""] * 30
    expected = FastRnn.from_pretrained(trained.folder).predict_proba(texts)
    for variable, folder, warnings in (("0", library.FOLDER, 0), ("1", library.FOLDER / "none", 1)):
        monkeypatch.setenv(library.SWITCH, variable)
        monkeypatch.setattr(library, "FOLDER", folder)
        library.load_library.cache_clear()
        torch_engine._warn_of_missing_kernel.cache_clear()
        plain = FastRnn.from_pretrained(trained.folder)
        with pytest.raises(Unsupported, match=MISSING):
            pack(make())
        plain.predict(texts[:3])
        assert not caplog.records, "a few texts are fast enough"
        np.testing.assert_allclose(
            [plain.predict_proba(texts) for _ in range(2)][1], expected, atol=1e-6
        )
        assert len(caplog.records) == warnings
    library.load_library.cache_clear()


def test_a_kernel_of_another_version_is_refused(monkeypatch, caplog):
    fields = [field for field in library.Model._fields_ if field[0] != "state"]
    monkeypatch.setattr(library, "Model", type("Former", (ctypes.Structure,), {"_fields_": fields}))
    library.load_library.cache_clear()
    assert library.load_library() is None and "found another version" in caplog.text
    library.load_library.cache_clear()


TAGS = dict(enumerate(["O", "B-X", "I-X", "B-Y", "I-Y"]))
TAGGERS = {
    "plain": {},
    "words": {"word_forms": 64},
    "crf": {"crf": True},
    "both": {"crf": True, "word_forms": 64},
}


@pytest.mark.parametrize("settings", TAGGERS.values(), ids=TAGGERS)
@pytest.mark.parametrize(("block", "cell"), LAYERS[::2])
def test_taggers(block, cell, settings):
    """With a layer over words, of whole words, pieces and marks, and with a random field."""
    more = {
        "id2label": TAGS,
        "label2id": {name: tag for tag, name in TAGS.items()},
        "word_hidden_size": 13,
    }
    model = make("tagger", block, cell, num_labels=5, **settings, **more)
    if model.crf is not None:
        for weight in model.crf.parameters():
            weight.data.normal_()
    if model.words is not None:
        kinds = ["⇧", "##ab", "Foo", "x9", "⇪", "##Zz"]
        model.words.read(
            [kinds[id % 6] + str(id) * (id % 6 not in (0, 4)) for id in range(VOCABULARY)]
        )
    found, expected = copy_weights(model).run(HOSTILE), plain_logits(model, HOSTILE)
    real = np.arange(found.shape[1]) < np.array([len(text) for text in HOSTILE])[:, None]
    np.testing.assert_allclose(found[real], expected, atol=1e-5, rtol=1e-5)
    assert not found[~real].any()


def test_a_sentence_encoder():
    texts = ["so good", "", "the film was far too long", "emoji 😀 and #tags"] * 3
    model, tokenizer = load_sentence_model(Source(ENGLISH, FinishedFolder(find_folder(ENGLISH))))
    with torch.no_grad():
        vectors = compute_logits(model, tokenizer, tokenizer(texts, truncation=True)["input_ids"])
    expected = torch.nn.functional.normalize(vectors, dim=1)
    encoder = SentenceEncoder.from_pretrained(ENGLISH)
    assert isinstance(encoder.engine, NativeEngine)
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-5)
    short = SentenceEncoder.from_pretrained(ENGLISH, precision="int16").encode(texts)
    assert 0 < np.abs(short - expected.numpy()).max() < 3e-3
