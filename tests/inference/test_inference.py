"""`FastRnn` gives the plain model's answers, whatever the lengths, in the order of the texts."""

import copy
import json
import pickle
import re
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from test_native import draw_ids, make, plain_logits

from hf_rnn import FastRnn, RnnForSequenceClassification, Tagger, train_tokenizer
from hf_rnn.hub.model_folder import load_model
from hf_rnn.inference import torch as reference
from hf_rnn.inference.kernel import load_library
from hf_rnn.utils.errors import UserError

TEXTS = [
    "a good day",
    "",
    "bad bad bad",
    "a",
    "<unk> <pad> a",
    "   ",
    "so many new words here",
    "a good day",
]
COUNTS = (1, 3, 10, 75)  # texts: one by one, a few, the model itself, a batch
IDS = draw_ids([12, 0, *range(12), 7] * 5)


def assert_close(found, expected, atol=2e-6):
    np.testing.assert_allclose(found, expected, atol=atol, rtol=1e-5)


@pytest.fixture
def switch(monkeypatch):
    """Turn the kernel on or off."""

    def turn(native):
        monkeypatch.setenv("HF_RNN_NATIVE", native)
        load_library.cache_clear()

    yield turn
    load_library.cache_clear()


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a good day", "a bad day"], min_frequency=1, model_max_length=6)


@pytest.mark.parametrize(("cell", "native"), [("lstm", "0"), ("lstm", "1"), ("min_gru", "1")])
def test_settings_of_the_calling_program_change_nothing(cell, native, tokenizer, switch):
    """Autocast, the default dtype, and the default device: on `meta` nothing can be computed."""
    switch(native)
    model = make(block="plain", cell=cell, num_hidden_layers=2, pooling="attention")
    expected = plain_logits(model, IDS)

    def check():
        fast = FastRnn(model, tokenizer)
        for count in COUNTS:
            assert_close(fast.logits(IDS[:count]), expected[:count])

    with torch.autocast("cpu", dtype=torch.bfloat16):
        check()
    with torch.device("meta"):
        check()
    torch.set_default_dtype(torch.float64)
    try:
        check()
    finally:
        torch.set_default_dtype(torch.float32)


class TestAnswers:
    @pytest.mark.parametrize(("cell", "native"), [("lstm", "0"), ("lstm", "1"), ("min_gru", "1")])
    def test_of_a_model_in_bfloat16_are_those_of_its_weights_in_float32(
        self, tokenizer, cell, native, switch
    ):
        switch(native)
        model = make(block="plain", cell=cell, num_hidden_layers=2).bfloat16()
        fast = FastRnn(model, tokenizer)
        for count in (1, 10, 70):
            assert_close(
                fast.logits(IDS[:count]), plain_logits(copy.deepcopy(model).float(), IDS[:count])
            )

    @pytest.mark.parametrize("native", ["1", "0"])
    def test_survive_pickling(self, tokenizer, native, switch):
        switch(native)
        fast = FastRnn(
            make(vocab_size=len(tokenizer), cell="lstm", block="plain", pooling="attention"),
            tokenizer,
            tokens_per_batch=7,
        )
        other = pickle.loads(pickle.dumps(fast))
        assert other.options.tokens_per_batch == 7
        np.testing.assert_array_equal(other.predict_proba(TEXTS), fast.predict_proba(TEXTS))

    def test_by_the_kernel_survive_training_and_the_plain_model_refuses_training_mode(
        self, tokenizer, switch
    ):
        model = make(
            vocab_size=len(tokenizer),
            cell="lstm",
            block="plain",
            pooling="attention",
            embedding_dropout=0.5,
        )
        before = FastRnn(model, tokenizer).predict_proba(TEXTS)
        fast = FastRnn(model, tokenizer)
        switch("0")
        plain = FastRnn(model, tokenizer)
        for parameter in model.train().parameters():
            parameter.data.add_(1)
        np.testing.assert_array_equal(
            fast.predict_proba(TEXTS), before, "no row of the table was filled before"
        )
        for answer in (lambda: plain.predict(TEXTS), lambda: FastRnn(model, tokenizer)):
            with pytest.raises(ValueError, match=r"call model.eval\(\)"):
                answer()

    @pytest.mark.parametrize(
        "collect", [iter, np.array, pd.Series, pa.array], ids=["iter", "numpy", "pandas", "pa"]
    )
    def test_to_any_collection_of_texts(self, tokenizer, collect):
        fast = FastRnn(make(vocab_size=len(tokenizer)), tokenizer)
        assert fast.predict(collect(TEXTS * 9)) == fast.predict(TEXTS * 9)


class Own(RnnForSequenceClassification):
    def forward(self, *given, **named):
        output = super().forward(*given, **named)
        output.logits = -output.logits
        return output


def change_class(model):
    changed = Own(model.config).eval()
    changed.load_state_dict(model.state_dict())
    return changed


def add_hook(model):
    model.rnn.embedding.register_forward_hook(lambda module, given, found: found * 2)
    return model


CHANGES = [(add_hook, "rnn.embedding has hooks"), (change_class, "the model is .*Own")]


@pytest.mark.parametrize(("change", "found"), CHANGES)
def test_changed_parts_have_their_effect(tokenizer, caplog, change, found):
    model = make(block="plain", cell="lstm", pooling="attention")
    before = plain_logits(model, [[2, 3, 4], [4]])
    model = change(model)
    expected = plain_logits(model, [[2, 3, 4], [4]])
    assert np.abs(expected - before).max() > 1e-3, "premise: the change matters"
    fast = FastRnn(model, tokenizer)
    assert len(caplog.records) == 1 and re.search(f"plain model.*: {found}", caplog.text)
    assert_close(fast.logits([[2, 3, 4], [4]]), expected, atol=1e-5)


def test_a_model_answers_as_its_task_says_by_either_name(trained, tagger):
    texts = ["Anna Bo sees the box in Old Town ."]
    (answer,) = FastRnn.from_pretrained(tagger.folder).predict(texts)
    assert {entity["label"] for entity in answer["entities"]} == {"person", "place"}
    assert Tagger.from_pretrained(trained.folder).predict(["the miro box"])[0]["label"] == "good"
    with pytest.raises(UserError, match="scores of tokens, not of texts: call predict"):
        Tagger.from_pretrained(tagger.folder).predict_proba(texts)
    with pytest.raises(UserError, match="precision must be one of"):
        FastRnn.from_pretrained(trained.folder, precision="float64")


def test_a_finished_folder(trained):
    state = torch.get_rng_state()
    fast = FastRnn.from_pretrained(trained.folder)
    assert type(fast) is FastRnn and torch.equal(torch.get_rng_state(), state)
    model, tokenizer = load_model(trained.folder)
    logits = reference.compute_logits(
        model, tokenizer, tokenizer(TEXTS, truncation=True)["input_ids"]
    )
    np.testing.assert_allclose(fast.predict_proba(TEXTS), logits.softmax(dim=1), atol=1e-6)
    with pytest.raises(UserError, match="no/such/folder"):
        FastRnn.from_pretrained("no/such/folder")


def test_a_model_that_the_kernel_cannot_read_says_why(trained, tmp_path, caplog):
    """It loaded transformers without a word, which takes seconds."""
    folder = shutil.copytree(trained.folder, tmp_path / "model")
    expected = FastRnn.from_pretrained(folder).predict(["miro"])
    model, tokenizer = load_model(folder)
    model.resize_token_embeddings(len(tokenizer) + 1, mean_resizing=False)
    model.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mask_token": "[OTHER]"}))
    assert caplog.text == ""
    found = FastRnn.from_pretrained(folder).predict(["miro"])
    assert found[0]["label"] == expected[0]["label"]
    assert "mask_token '[OTHER]' is not in tokenizer.json" in caplog.text
