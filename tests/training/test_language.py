"""Texts that the encoder of the package cannot read are trained on from nothing."""

import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import hf_rnn
from hf_rnn import train
from hf_rnn.tasks import get_task
from hf_rnn.training.language import suit_language
from hf_rnn.training.settings import parse_settings

SAMPLES = {
    "German": ["Was für ein schöner Tag heute", "Nie wieder kaufe ich dieses Telefon", "Der Film war langweilig"],
    "Spanish": ["Qué día tan bonito hace hoy", "Nunca más compraré este teléfono", "La película era aburrida"],
    "Arabic": ["يا له من يوم جميل اليوم", "لن أشتري هذا الهاتف مرة أخرى", "كان الفيلم مملا لكنه متقن"],
    "Chinese": ["今天天气真好", "我再也不会买这个手机了，马上就坏了", "这部电影很无聊，但是拍得很好"],
    "Hindi": ["आज का दिन कितना सुंदर है", "मैं यह फोन फिर कभी नहीं खरीदूंगा", "फिल्म उबाऊ थी"],
    "Thai": ["วันนี้อากาศดีมาก", "จะไม่ซื้อโทรศัพท์นี้อีก"],
}


@pytest.fixture
def english(monkeypatch):
    """The encoder of the package itself."""
    monkeypatch.setattr("hf_rnn.hub.model_folder.PRETRAINED", Path(hf_rnn.__file__).parent / "hub" / "pretrained")


@pytest.mark.parametrize(
    ("language", "task", "expected"),
    [
        *((name, "sequence-classification", ("default", "word")) for name in ("German", "Spanish")),
        ("Arabic", "sequence-classification", ("scratch", "bpe")),
        ("Chinese", "sequence-classification", ("scratch", "char")),
        ("Hindi", "multi-label", ("scratch", "bpe")),
        ("Thai", "regression", ("scratch", "char")),
        ("Hindi", "token-classification", ("token-classification-scratch", "bpe")),
    ],
)
def test_the_start_suits_the_language(english, language, task, expected, caplog):
    given = {"output_dir": "out", "task": task, "num_train_epochs": 3, "data_dir": "data"}
    found, _ = suit_language(parse_settings(given), given, get_task(task), SAMPLES[language])
    assert (found.training.recipe, found.data.tokenizer) == expected
    assert (found.data.task, found.data.data_dir, found.training.num_train_epochs) == (task, "data", 3)
    left = expected[0] != "default"
    assert (found.data.model_name_or_path is None) == left
    line = r"\d+ % .* unknown to english \(limit 30 %\): this run takes recipe {} with tokenizer {} \(\d+\.\d char"
    assert bool(re.search(line.format(*expected), caplog.text)) == left
    explicit = {**given, "model_name_or_path": "english"}
    arguments = parse_settings(explicit)
    assert suit_language(arguments, explicit, get_task(task), SAMPLES[language])[0] is arguments


def test_chinese_is_trained_in_characters(english, tmp_path):
    rows = [(text * (number + 1), "ab"[number % 2]) for text in SAMPLES["Chinese"] for number in range(8)]
    result = train(train=rows, output_dir=str(tmp_path), max_steps=1, baselines=False, use_cpu=True)
    tokens = AutoTokenizer.from_pretrained(result.folder).tokenize("今天天气")
    assert tokens == ["今", "天", "天", "气"]


def test_texts_without_spaces_become_characters_without_the_encoder():
    """Unless the user names tokens, or has put spaces between the words."""

    def choose(texts=SAMPLES["Chinese"], **settings):
        given = {"output_dir": "out", "data_dir": "data", **settings}
        arguments, _ = suit_language(parse_settings(given), given, get_task("sequence-classification"), texts)
        return arguments.data.tokenizer

    assert choose(hidden_size=8) == choose(recipe="fast") == choose(["วันนี้อากาศดีมาก"], recipe="scratch") == "char"
    assert choose(hidden_size=8, tokenizer="word") == choose(["今天 天气 真 好"], hidden_size=8) == "word"
    assert choose(SAMPLES["Arabic"], hidden_size=8) == choose(recipe={"recipe": "scratch"}) == "word"
