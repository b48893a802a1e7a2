"""A run starts from the encoder of the package that knows the language of the texts, or from nothing."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import hf_rnn
from hf_rnn import train
from hf_rnn.settings.merge import parse_settings
from hf_rnn.tasks import get_task
from hf_rnn.training.run import suit_language

SAMPLES = {
    "German": ["Was für ein schöner Tag heute", "Nie wieder kaufe ich dieses Telefon", "Der Film war langweilig"],
    "Spanish": ["Qué día tan bonito hace hoy", "Nunca más compraré este teléfono", "La película era aburrida"],
    "Arabic": ["يا له من يوم جميل اليوم", "لن أشتري هذا الهاتف مرة أخرى", "كان الفيلم مملا لكنه متقن"],
    "Chinese": ["今天天气真好", "我再也不会买这个手机了，马上就坏了", "这部电影很无聊，但是拍得很好"],
    "Hindi": ["आज का दिन कितना सुंदर है", "मैं यह फोन फिर कभी नहीं खरीदूंगा", "फिल्म उबाऊ थी"],
    "Thai": ["วันนี้อากาศดีมาก", "จะไม่ซื้อโทรศัพท์นี้อีก"],
    "Hindi in Latin letters": ["aaj ka din kitna sundar hai", "main yeh phone phir kabhi nahi kharidunga"],
    "English": ["What a beautiful day today", "I will never buy this phone again 😡", "lol the movie was boring tbh"],
    "code": ["for row in rows:", "    return [index for index, row in enumerate(rows)]", "if (x > 0) { y = x; }"],
    "emoji": ["😂 😂", "😭", "❤️ 🔥"],
    "Cherokee": ["ᎣᏏᏲ ᎠᏂᏴᏫ ᏣᎳᎩ", "ᎠᏂᏴᏫᏯ ᎤᎾᏙᏢᎯ"],
    "a cipher": ["qzxvj kwqfz zkpqx", "vjxqz ffkwq jzxpv qkzzx"],
}


DATA = Path(__file__).parents[3] / "shared" / "data"
STARTS = {"English": "english", "code": "english", "emoji": "english", "Cherokee": None, "a cipher": None}
TASKS = ["sequence-classification", "multi-label", "regression", "token-classification"]


@pytest.fixture
def encoders(monkeypatch):
    """The encoders of the package itself."""
    monkeypatch.setattr("hf_rnn.hub.model_folder.PRETRAINED", Path(hf_rnn.__file__).parent / "hub" / "pretrained")


@pytest.mark.parametrize("language", SAMPLES)
def test_the_start_suits_the_language(encoders, language, caplog):
    caplog.set_level("INFO", "hf_rnn")
    task = TASKS[list(SAMPLES).index(language) % len(TASKS)]
    given = {"output_dir": "out", "task": task, "num_train_epochs": 3, "data_dir": "data"}
    found, reason = suit_language(parse_settings(given), given, get_task(task), SAMPLES[language])
    start = STARTS.get(language, "multilingual")
    assert found.data.model_name_or_path == start and reason in caplog.text
    assert f"the run starts from {start}: " in caplog.text or (start is None and "recipe" in caplog.text)
    assert (found.data.task, found.data.data_dir, found.training.num_train_epochs) == (task, "data", 3)
    assert found.training.language == (["en"] if start == "english" else None)
    explicit = {**given, "model_name_or_path": "english"}
    arguments = parse_settings(explicit)
    assert suit_language(arguments, explicit, get_task(task), SAMPLES[language])[0] is arguments
    assert ("--model_name_or_path multilingual" in caplog.text) == (start != "english" and language != "Cherokee")


@pytest.mark.parametrize("name", ["Cherokee", "a cipher"])
def test_texts_that_no_encoder_knows(encoders, tmp_path, name):
    rows = [(text, "ab"[number % 2]) for number, text in enumerate(SAMPLES[name] * 10)]
    result = train(train=rows, output_dir=str(tmp_path), max_steps=1, baselines=False, use_cpu=True)
    tokenizer = AutoTokenizer.from_pretrained(result.folder)
    assert tokenizer.unk_token_id not in tokenizer(SAMPLES[name][0])["input_ids"]
    assert "No encoder of the package knows the texts" in result.folder.joinpath("README.md").read_text()


@pytest.mark.parametrize("name", ["German", "Cherokee"])
def test_the_audit_counts_the_tokens_of_the_run(encoders, tmp_path, name, command):
    for split, count in (("train", 12), ("dev", 7)):
        lines = [f"{SAMPLES[name][number % 2]} {name * (number % 5)}\t{'ab'[number % 2]}\n" for number in range(count)]
        (tmp_path / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")
    code, out, err = command("audit", tmp_path, "--json")
    assert code == 0, err
    result = train(tmp_path, tmp_path / "out", max_steps=1, baselines=False, use_cpu=True, few_rows=0)
    facts = json.loads((result.folder / "card_facts.json").read_text())
    assert facts["audit"] == json.loads(out)["summary"]


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the real texts are not at {DATA}")
def test_the_start_of_real_texts(encoders):
    """The first and the last 40 rows of each set."""
    given = {"output_dir": "out", "data_dir": "data"}
    arguments, task = parse_settings(given), get_task("sequence-classification")
    starts = {}
    for path in [*DATA.glob("*/train.tsv"), *DATA.glob("*/*/train.tsv")]:
        texts = [line.split("\t")[0] for line in path.read_text("utf-8").splitlines()]
        for name, rows in {"first": texts[:40], "last": texts[-40:]}.items():
            found, _ = suit_language(arguments, given, task, rows)
            starts[path.parent, name] = found.data.model_name_or_path
    expected = {key: "multilingual" if key[0].parent.name == "languages" else "english" for key in starts}
    assert len(starts) >= 36 and starts == expected


def test_a_model_leaves_out_scripts_that_its_texts_do_not_have(encoders, tmp_path):
    """Texts of its language have the same pieces and the same vectors as before."""
    texts = [*SAMPLES["German"], "ganz toll 😂 :)"]
    rows = [(text, "ab"[number % 2]) for number, text in enumerate(texts * 4)]
    result = train(train=rows, output_dir=str(tmp_path), max_steps=1, baselines=False, use_cpu=True)
    start = Path(hf_rnn.__file__).parent / "hub" / "pretrained" / "multilingual"
    tables, pieces, vectors = [], [], []
    for folder in (start, result.folder):
        tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
        ids = tokenizer(" ".join(texts))["input_ids"]
        pieces.append(tokenizer.convert_ids_to_tokens(ids))
        tables.append(model.get_input_embeddings().weight)
        vectors.append(tables[-1][ids])
        known = tokenizer("ваза สวัสดี", return_tensors="pt")["input_ids"] != tokenizer.unk_token_id
        assert known.all() == (folder == start)
    assert pieces[0] == pieces[1] and torch.equal(*vectors) and len(tables[1]) < 0.7 * len(tables[0])


def test_texts_without_spaces_become_characters_without_the_encoder():
    """Unless the user names tokens, or has put spaces between the words."""

    def choose(texts=SAMPLES["Chinese"], **settings):
        given = {"output_dir": "out", "data_dir": "data", **settings}
        arguments, _ = suit_language(parse_settings(given), given, get_task("sequence-classification"), texts)
        return arguments.data.tokenizer

    assert choose(hidden_size=8) == choose(recipe="fast") == choose(["วันนี้อากาศดีมาก"], recipe="scratch") == "char"
    assert choose(hidden_size=8, tokenizer="word") == choose(["今天 天气 真 好"], hidden_size=8) == "word"
    assert choose(SAMPLES["Arabic"], hidden_size=8) == choose(recipe={"recipe": "scratch"}) == "word"
