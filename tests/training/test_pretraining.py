"""Pretraining: a student must learn a teacher's vectors, survive a stop, and be loaded by every library it names."""

import gzip
import json
import shutil
import signal
import string
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import NEUTRAL, invent_rows
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizerFast

from hf_rnn import SentenceEncoder, pretrain, train
from hf_rnn.training.checkpointing.resumable_trainer import SavePoints, TrainingStopped
from hf_rnn.training.pretraining.student import prune_tokenizer
from hf_rnn.training.pretraining.teacher import SentenceTeacher
from hf_rnn.training.pretraining.texts import cut_sentences, prepare_texts, read_lines
from hf_rnn.utils.errors import UserError

pytest.importorskip("sentence_transformers", reason="the extra pretrain is not installed")
TEXTS = ["the box stood near a door", "", "miro", "Selk, and [PAD] sand!", "ü zebra quartz"]


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    """The folder of a tiny BERT, saved as a sentence encoder with pooling by mean and maximum."""
    folder = tmp_path_factory.mktemp("teacher") / "tiny-encoder"
    folder.mkdir()
    letters = [*string.ascii_lowercase, *",.!?[]"]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    pieces += [word for word in dict.fromkeys([*NEUTRAL, "miro", "selk"]) if word not in pieces]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        model = BertModel(
            BertConfig(vocab_size=len(pieces), max_position_embeddings=64, initializer_range=0.5, **size)
        )
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "2_Normalize").mkdir()
    return folder


@pytest.fixture(scope="module")
def settings(sentences, tmp_path_factory):
    texts = tmp_path_factory.mktemp("unlabeled") / "texts.txt"
    texts.write_text("".join(f"{text}\n" for text, _ in invent_rows(400, seed=7)), encoding="utf-8")
    return {
        "teacher": str(sentences),
        "input": [str(texts)],
        "embedding_size": 16,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "learning_rate": 3e-2,
        "held_out": 20,
        "per_device_train_batch_size": 32,
        "num_train_epochs": 6,
        "use_cpu": True,
    }


@pytest.fixture(scope="module")
def pretrained(settings, tmp_path_factory):
    return pretrain(**settings, output_dir=str(tmp_path_factory.mktemp("pretrained") / "encoder"))


def embed(folder, texts):
    """Return the unit vectors of an encoder's folder by the plain model and its projection."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    projection = {name: weight.float() for name, weight in load_file(folder / "2_Dense" / "model.safetensors").items()}
    found = []
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]], dtype=torch.long)
        with torch.no_grad():
            states = model(ids, torch.ones_like(ids)).last_hidden_state[0]
        pooled = states.mean(dim=0) if len(states) else torch.zeros(states.shape[1])
        vector = projection["linear.weight"] @ pooled + projection["linear.bias"]
        found.append((vector / vector.norm()).numpy())
    return np.stack(found)


def test_the_student_learns_and_reports_it(pretrained):
    folder = pretrained.folder
    record = json.loads((folder / "pretraining.json").read_text())
    assert record["held_out"]["cosine"] > 0.7 and record["held_out"]["rank_agreement"] > 0.6
    assert record["held_out"]["token_cosine"] > 0.7 and record["objective"] == "tokens"
    assert record["texts"]["learned"] + record["texts"]["held_out"] == record["texts"]["kept"] <= 400
    assert record["pieces_per_word"] == pytest.approx(1, abs=0.05) and record["unknown_token_share"] == 0
    assert "tiny-encoder" in (folder / "README.md").read_text()
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["RnnModel"]


def test_fused_vectors_are_those_of_the_plain_model(pretrained):
    found = SentenceEncoder.from_pretrained(pretrained.folder).encode(TEXTS)
    np.testing.assert_allclose(found, embed(pretrained.folder, TEXTS), atol=2e-6)


def test_onnx_gives_the_vectors(pretrained, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    from hf_rnn import OnnxModel
    from hf_rnn.inference.onnx import export

    monkeypatch.setattr("hf_rnn.inference.onnx.parity.TEXTS", 40)
    folder = shutil.copytree(pretrained.folder, tmp_path / "encoder")
    export(folder)
    found = OnnxModel.from_pretrained(folder).encode([*TEXTS, ""])
    np.testing.assert_allclose(found, embed(folder, [*TEXTS, ""]), atol=2e-6)


@pytest.mark.slow
def test_sentence_transformers_gives_the_same_vectors(pretrained, sentences):
    library = pytest.importorskip("sentence_transformers")
    own = library.SentenceTransformer(str(pretrained.folder), device="cpu", trust_remote_code=True)
    np.testing.assert_allclose(own.encode(TEXTS), embed(pretrained.folder, TEXTS), atol=2e-6)
    teacher = library.SentenceTransformer(str(sentences), device="cpu")
    found, _ = SentenceTeacher(str(sentences), None, torch.device("cpu"), bf16=False).answer(TEXTS)
    np.testing.assert_allclose(found, F.normalize(torch.from_numpy(teacher.encode(TEXTS))), atol=2e-6)


def test_the_states_of_a_teacher_are_those_of_its_tokens_in_a_text(sentences):
    teacher = SentenceTeacher(str(sentences), None, torch.device("cpu"), bf16=False)
    _, states = teacher.answer(TEXTS)
    model, tokenizer = AutoModel.from_pretrained(sentences).eval(), AutoTokenizer.from_pretrained(sentences)
    for text, found in zip(TEXTS, states, strict=True):
        inputs = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state[0]
        kept = [place for place, token in enumerate(inputs.tokens()) if token not in ("[CLS]", "[SEP]", "[PAD]")]
        np.testing.assert_allclose(found, hidden[kept].numpy(), atol=2e-6)


def test_sentence_vectors_alone_can_be_learned(settings, tmp_path):
    result = pretrain(
        **{**settings, "num_train_epochs": 1},
        objective="sentences",
        max_vocab_size=100,
        output_dir=str(tmp_path / "out"),
    )
    assert "token_cosine" not in result.metrics["held_out"]
    assert AutoModel.from_pretrained(result.folder).config.vocab_size <= 100
    assert not (result.folder / "pretraining_cache" / "states.npy").exists()


@pytest.mark.slow
def test_a_stopped_run_resumes_bit_for_bit(pretrained, settings, tmp_path, monkeypatch):
    folder = tmp_path / "out"

    def stop(self, args, state, control, **kwargs):
        if state.global_step == 20:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(SavePoints, "on_step_begin", stop)
        with pytest.raises(TrainingStopped):
            pretrain(**settings, output_dir=str(folder))
    pretrain(**settings, output_dir=str(folder), resume=True)
    for name in ("model.safetensors", "2_Dense/model.safetensors"):
        assert (folder / name).read_bytes() == (pretrained.folder / name).read_bytes()


def test_texts_are_read_once_each(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one  two\n\nthree\none two\n\xff\n")
    with gzip.open(tmp_path / "b.txt.gz", "wb") as file:
        file.write(b"First part. Second part here! Third?\nthree\n")
    counts = Counter()
    lines = read_lines([tmp_path / "a.txt", tmp_path / "b.txt.gz"], counts)
    found = [row["text"] for row in prepare_texts(lines, counts, split_words=5, limit=None)]
    assert found == ["one two", "three", "First part. Second part here!", "Third?"]
    assert counts == {"lines": 7, "blank": 1, "repeated": 2, "kept": 4, "refused": 1}
    assert cut_sentences("No end in this long sentence. Yes.", 2) == ["No end in this long sentence.", "Yes."]


def test_pruned_tokens_are_a_subset_that_spells_every_known_character(sentences):
    whole = AutoTokenizer.from_pretrained(sentences)
    texts = ["the box of sand stood"] * 3 + ["door days"]
    pruned, kept = prune_tokenizer(whole, texts, 8, 99)
    assert pruned.convert_ids_to_tokens(range(len(kept))) == whole.convert_ids_to_tokens(kept)
    assert pruned.tokenize("the box of sand stood") == ["the", "box", "of", "sand", "stood"]
    assert pruned("the zoo")["input_ids"][1] == pruned.unk_token_id
    assert pruned.pad_token_id not in pruned("[PAD] the")["input_ids"]
    assert pruned.model_max_length == 99 and len(pruned) == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": None}, "teacher"),
        ({"input": ["missing.txt"]}, "missing.txt"),
        ({"pooling": "max"}, "pooling"),
        ({"objective": "causal_lm"}, "causal_lm, which needs none: found teacher"),
        ({"max_vocab_size": 1000}, "leave out max_vocab_size"),
        ({"teacher": "missing-folder/teacher"}, "missing-folder"),
    ],
)
def test_mistakes_are_named(settings, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        pretrain(**{**settings, **change}, output_dir=str(tmp_path / "out"))


@pytest.mark.slow
def test_a_language_model_of_texts_without_a_teacher_is_a_start(settings, tmp_path):
    sizes = {"max_vocab_size": 300, "embedding_size": 8, "hidden_size": 8, "per_device_train_batch_size": 8}
    own = {name: value for name, value in settings.items() if name != "teacher"} | sizes
    result = pretrain(**own, objective="causal_lm", output_dir=str(tmp_path / "lm"))
    assert result.metrics["validation"]["perplexity"] < 300
    texts = (tmp_path / "lm" / "pretraining_cache" / "train.txt").read_text().splitlines()
    assert set(texts) < {text for text, _ in invent_rows(400, seed=7)}
    start = {"model_name_or_path": str(result.folder), "num_train_epochs": 1, "use_cpu": True, "baselines": False}
    model = train(train=invent_rows(60, seed=1), **start, output_dir=str(tmp_path / "out")).folder
    assert AutoModel.from_pretrained(model).config.hidden_size == 8
