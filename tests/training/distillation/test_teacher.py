"""A teacher: its answers to a text, its labels by name, and what cannot teach."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import LABELS, invent_rows
from hub_server import Blob
from tiny_teacher import ask, bytes_tokenizer, change_config
from transformers import (
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from hf_rnn import push
from hf_rnn.training.distillation.ensemble import Teachers
from hf_rnn.training.distillation.logits import Answers
from hf_rnn.training.distillation.teacher import Teacher
from hf_rnn.utils.errors import UserError


def test_answers_are_those_of_one_text_alone(teacher, trained, tmp_path):
    """In batches by length, cut where the reading ends; of a BERT, of our own, and of one that cannot pad."""
    texts = [text for text, _ in invent_rows(40, seed=31)] + ["sand " * 50, "?", "miro"]
    gpt = tmp_path / "gpt"
    shape = {"vocab_size": 256, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    GPT2ForSequenceClassification(GPT2Config(**shape, num_labels=3)).save_pretrained(gpt)
    bytes_tokenizer().save_pretrained(gpt)
    assert Teacher.open(str(gpt)).batch_size == 1
    for folder, limit in ((teacher, 32), (trained.folder, 512), (gpt, 64)):
        found = ask(folder, texts, tmp_path / "cache", batch_size=8)
        asked = Teacher.open(str(folder))
        model = asked.load()
        for text, row in zip(texts, found, strict=True):
            inputs = asked.tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")
            inputs = {name: inputs[name].long() for name in ("input_ids", "attention_mask")}
            with torch.no_grad():
                np.testing.assert_allclose(row, model(**inputs).logits[0].numpy(), atol=2e-5)


def test_answers_in_bfloat16_are_near_and_kept_apart(teacher, tmp_path):
    texts = [text for text, _ in invent_rows(40, seed=32)]
    exact = ask(teacher, texts, tmp_path)
    rounded = ask(teacher, texts, tmp_path, bf16=True)
    assert not np.array_equal(rounded, exact)
    np.testing.assert_allclose(rounded, exact, atol=0.02 * np.abs(exact).max())
    assert np.array_equal(ask(teacher, texts, tmp_path), exact)


def test_labels_are_found_by_name(teacher, tmp_path):
    opened = Teacher.open(str(teacher))
    assert opened.label_names() == ["plain", "bad", "good"]
    assert opened.align(["bad", "good", "plain"]) == [1, 2, 0]
    for names, told in (
        (
            ["bad", "good", "awful"],
            "'plain', 'bad', 'good', and the data 'bad', 'good', 'awful'. If they mean the same",
        ),
        (["bad", "good"], "take a teacher of the same task"),
    ):
        with pytest.raises(UserError, match=told):
            opened.align(names)
    assert opened.align(["low", "mid", "high"], ["mid", "low", "high"]) == [1, 0, 2]
    with pytest.raises(UserError, match="teacher_labels names 2 classes"):
        opened.align(["low", "mid", "high"], ["mid", "low"])
    with pytest.raises(UserError, match="by teacher_labels .* give the data's names"):
        opened.align(["low", "mid", "high"], ["mid", "low", "low"])
    assert opened.align(["bad", "good", "plain"], ["plain", "bad", "good"]) == [1, 2, 0], "what it says itself"
    with pytest.raises(UserError, match="gives 'bad', 'good', 'plain', and the teacher .* itself 'plain', "):
        opened.align(["bad", "good", "plain"], ["bad", "good", "plain"])


def test_labels_without_a_meaning_are_not_guessed(teacher, tmp_path):
    nameless = change_config(teacher, tmp_path / "nameless", id2label=None, label2id=None, num_labels=3)
    opened = Teacher.open(str(nameless))
    assert opened.label_names() == ["LABEL_0", "LABEL_1", "LABEL_2"]
    with pytest.raises(UserError, match=r"Such names do not tell .* --teacher_labels bad good plain"):
        opened.align(["bad", "good", "plain"])
    assert opened.align(["bad", "good", "plain"], ["plain", "bad", "good"]) == [1, 2, 0]
    assert opened.align(["LABEL_1", "LABEL_0", "LABEL_2"]) == [1, 0, 2], "unless the data has the same names"
    assert opened.fingerprint == Teacher.open(str(teacher)).fingerprint, "names change no logit"


def test_a_model_of_one_label_is_a_regression_though_it_does_not_say_so(teacher, tmp_path):
    one = change_config(teacher, tmp_path / "one", problem_type=None, id2label={0: "score"}, label2id={"score": 0})
    with pytest.raises(UserError, match=r"gives a number \(regression\), not one of several labels"):
        Teacher.open(str(one))


def test_what_its_answers_hang_on(teacher, tmp_path):
    known = Teacher.open(str(teacher)).fingerprint
    moved = change_config(teacher, tmp_path / "elsewhere" / "moved")
    assert Teacher.open(str(moved)).fingerprint == known
    assert Teacher.open(str(teacher), max_length=8).fingerprint != known
    assert Teacher.open(str(teacher), max_length=99).fingerprint == known, "it reads 32 tokens at most"
    assert Teacher.open(str(teacher), bf16=True).fingerprint != known
    content = bytearray((moved / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (moved / "model.safetensors").write_bytes(content)
    assert Teacher.open(str(moved)).fingerprint != known
    other = change_config(teacher, tmp_path / "other", layer_norm_eps=1e-3)
    assert Teacher.open(str(other)).fingerprint != known
    words = change_config(teacher, tmp_path / "words")
    text = (words / "tokenizer.json").read_text()
    (words / "tokenizer.json").write_text(text.replace('"miro"', '"mirr"'))
    assert Teacher.open(str(words)).fingerprint != known
    for side in ("padding_side", "truncation_side"):  # both change what a short or a long text is to the model
        sided = change_config(teacher, tmp_path / side)
        settings = json.loads((sided / "tokenizer_config.json").read_text())
        (sided / "tokenizer_config.json").write_text(json.dumps({**settings, side: "left"}))
        assert Teacher.open(str(sided)).fingerprint != known
        (sided / "tokenizer_config.json").write_text(json.dumps({**settings, side: "right"}))
        assert Teacher.open(str(sided)).fingerprint == known
    for name, value in (("split_special_tokens", True), ("model_input_names", ["input_ids"])):
        read = change_config(teacher, tmp_path / name)
        settings = json.loads((read / "tokenizer_config.json").read_text())
        (read / "tokenizer_config.json").write_text(json.dumps({**settings, name: value}))
        assert Teacher.open(str(read)).fingerprint != known


def test_a_teacher_on_the_hub(hub, trained, tmp_path):
    texts = [text for text, _ in invent_rows(9, seed=33)]
    push(trained.folder, "me/films")
    opened = Teacher.open("me/films")
    assert opened.name == "me/films" and opened.label_names() == sorted(LABELS)
    assert opened.fingerprint == Teacher.open(str(trained.folder)).fingerprint
    expected = ask(trained.folder, texts, tmp_path / "here")
    assert np.array_equal(Answers(opened, tmp_path / "there").to(texts), expected)
    config = json.dumps({"model_type": "bert", "architectures": ["BertForMaskedLM"]}).encode()
    files = {"config.json": Blob(config, lfs=False), "model.safetensors": Blob(b"large", lfs=True)}
    commit = hub.repos["me/films"].add("main", "another", files)
    with pytest.raises(UserError, match="is a BertForMaskedLM"):
        Teacher.open("me/films")
    assert hub.count(f"{commit}/model.safetensors") == 0, "its weights were not got"


def test_tokenizers_that_are_not_the_teachers(teacher, tmp_path):
    """Without files of one the library makes one up, to which every text is the same."""
    bare = tmp_path / "bare"
    BertForSequenceClassification.from_pretrained(teacher).save_pretrained(bare)
    with pytest.raises(UserError, match="bare has a tokenizer without a word: put its files"):
        Teachers.open(str(bare))
    with pytest.raises(UserError, match="has a table of 5 tokens, and its tokenizer ids up to"):
        Teachers.open(str(change_config(teacher, tmp_path / "small", vocab_size=5)))


@pytest.mark.parametrize(
    ("own", "positions", "asked", "expected"),
    [
        (20, 20, None, 20),
        (16, 20, None, 16),
        (32, 20, None, 20),
        (10**30, 20, None, 20),
        (32, 32, 8, 8),
        (10**30, 1, 8, 8),
    ],
)
def test_it_reads_no_more_than_it_has_positions_for(teacher, tmp_path, own, positions, asked, expected):
    folder = change_config(teacher, tmp_path / "other", max_position_embeddings=positions)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": own}))
    (member,) = Teachers.open(str(folder), max_length=asked).members
    assert member.max_length == expected
    with pytest.raises(UserError, match="would read 2 tokens of a text, of which 2 are special: let it read more"):
        Teachers.open(str(folder), max_length=2)


@pytest.mark.parametrize("own", [19, 20, 10**30])
def test_positions_that_a_roberta_does_not_use(tmp_path, own):
    """It counts them from its padding's id on, so that of 20 it has 18."""
    shape = {"vocab_size": 256, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"intermediate_size": 16, "max_position_embeddings": 20, "num_labels": 3, "pad_token_id": 1}
    RobertaForSequenceClassification(RobertaConfig(**shape)).save_pretrained(tmp_path)
    tokenizer = bytes_tokenizer()
    tokenizer.pad_token, tokenizer.model_max_length = tokenizer.convert_ids_to_tokens(1), own
    tokenizer.save_pretrained(tmp_path)
    assert Teacher.open(str(tmp_path)).max_length == 18
    assert np.isfinite(ask(tmp_path, ["sand " * 20, "sand"], tmp_path / "cache")).all()
    tokenizer.model_max_length = 7
    tokenizer.save_pretrained(tmp_path)
    assert Teacher.open(str(tmp_path)).max_length == 7


def test_a_text_that_it_cannot_read(tmp_path):
    shape = {"vocab_size": 256, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    GPT2ForSequenceClassification(GPT2Config(**shape, num_labels=3)).save_pretrained(tmp_path)
    bytes_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"the teacher .* cannot answer for '': \w+"):
        ask(tmp_path, ["sand", ""], tmp_path / "cache")


def test_logits_that_are_none(teacher, tmp_path):
    spoilt = tmp_path / "spoilt"
    shutil.copytree(teacher, spoilt)
    model = BertForSequenceClassification.from_pretrained(teacher)
    with torch.no_grad():
        model.classifier.bias[0] = float("nan")
    model.save_pretrained(spoilt)
    with pytest.raises(UserError, match="gives logits that are not finite, for one to 'sand'"):
        ask(spoilt, ["sand"], tmp_path / "cache")
