"""Pretraining: a student learns a teacher's states, survives a stop, and all libraries load it."""

import gzip
import json
import random
import shlex
import shutil
import string
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import NEUTRAL, invent_rows, run_until
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    PreTrainedTokenizerFast,
)

from hf_rnn import SentenceEncoder, pretrain
from hf_rnn.cli.pretrain import FLAGS
from hf_rnn.inference.engine import pad_ids
from hf_rnn.training.pretrain import (
    Encoder,
    StateCollator,
    cut_sentences,
    encode_pairs,
    prune_tokenizer,
)
from hf_rnn.training.teacher import read_unlabeled
from hf_rnn.utils.errors import UserError

TEXTS = ["the box stood near a door", "", "miro", "Selk, and [PAD] sand!", "ü zebra quartz"]


def save_bert(folder, pieces, tokenizer, **more):
    """Save a tiny BERT whose states share a large mean, and its tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        size = {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
        }
        config = BertConfig(
            vocab_size=len(pieces),
            max_position_embeddings=64,
            initializer_range=0.5,
            **size,
            **more,
        )
        model = BertModel(config)
        model.encoder.layer[-1].output.LayerNorm.bias.data += 3 * torch.randn(16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """The folder of a tiny BERT."""
    letters = [*string.ascii_lowercase, *",.!?[]"]
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *letters,
        *(f"##{letter}" for letter in letters),
    ]
    pieces += [word for word in dict.fromkeys([*NEUTRAL, "miro", "selk"]) if word not in pieces]
    tokenizer = BertTokenizerFast(vocab={piece: index for index, piece in enumerate(pieces)})
    return save_bert(tmp_path_factory.mktemp("teacher") / "tiny-encoder", pieces, tokenizer)


@pytest.fixture(scope="module")
def unigram(tmp_path_factory):
    """The folder of an encoder with the kind of tokens that XLM-R has, also for other scripts."""
    scored = {
        "<s>": 0,
        "<pad>": 0,
        "</s>": 0,
        "<unk>": 0,
        "▁": -2,
        **dict.fromkeys(["▁the", "▁box", "▁sand"], -4),
    }
    scored |= dict.fromkeys([*string.ascii_lowercase, *"<>шар沙箱"], -8.0) | {"箱沙": -9.0}
    scored |= {f"▁{word}": -6.0 for word in [*NEUTRAL, "miro", "selk"] if f"▁{word}" not in scored}
    backend = Tokenizer(
        models.Unigram([(piece, float(score)) for piece, score in scored.items()], unk_id=3)
    )
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        "<s> $0 </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special, model_max_length=64)
    return save_bert(
        tmp_path_factory.mktemp("teacher") / "tiny-e5", scored, tokenizer, pad_token_id=1
    )


@pytest.fixture(scope="module")
def settings(bert, tmp_path_factory):
    texts = tmp_path_factory.mktemp("unlabeled") / "texts.txt"
    texts.write_text("".join(f"{text}\n" for text, _ in invent_rows(400, seed=7)), encoding="utf-8")
    return {
        "teacher": str(bert),
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
    model, tokenizer = (
        AutoModel.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    projection = {
        name: weight.float()
        for name, weight in load_file(folder / "2_Dense" / "model.safetensors").items()
    }
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
    assert min(record["held_out"].values()) > 0.25, "0 without learning"
    assert record["held_out"].keys() == pretrained.metrics["held_out"].keys()
    assert (
        record["texts"]["learned"] + record["texts"]["held_out"] == record["texts"]["kept"] <= 400
    )
    assert (
        record["pieces_per_word"] == pytest.approx(1, abs=0.05)
        and record["unknown_token_share"] == 0
    )
    card = (folder / "README.md").read_text()
    assert (
        "# encoder\n" in card and "tiny-encoder" in card and not (folder / "checkpoints").exists()
    )
    typed = shlex.split(
        next(line for line in card.splitlines() if line.startswith("hf-rnn pretrain "))
    )
    assert FLAGS.read(typed[2:])["hidden_size"] == "32" and str(folder.parent) not in card
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["RnnModel"]


def test_every_way_gives_the_same_vectors(pretrained, tmp_path, monkeypatch):
    expected = embed(pretrained.folder, TEXTS)
    found = SentenceEncoder.from_pretrained(pretrained.folder).encode(TEXTS)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    library = pytest.importorskip(
        "sentence_transformers", reason="the extra pretrain is not installed"
    )
    own = library.SentenceTransformer(str(pretrained.folder), device="cpu", trust_remote_code=True)
    np.testing.assert_allclose(own.encode(TEXTS), expected, atol=2e-6)
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    from hf_rnn.export import export
    from hf_rnn.export.check import open_session, run_session

    monkeypatch.setattr("hf_rnn.export.check.TEXTS", 40)
    folder = shutil.copytree(pretrained.folder, tmp_path / "encoder")
    export(folder)
    ids = SentenceEncoder.from_pretrained(folder)._encode(TEXTS)
    session = open_session((folder / "onnx" / "model.onnx").read_bytes())
    found = run_session(session, *pad_ids(ids))["sentence_embedding"]
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("kind", ["bert", "unigram"])
def test_the_states_of_a_teacher_are_those_of_transformers(kind, request):
    """At its own tokens, minus the mean; a mistyped word has those of the word without mistakes."""
    folder = request.getfixturevalue(kind)
    training = SimpleNamespace(device=torch.device("cpu"), bf16=False)
    teacher, texts = (
        Encoder.open(str(folder), None, training),
        [text for text, _ in invent_rows(40, seed=3)],
    )
    pruned, pieces = prune_tokenizer(teacher.tokenizer, texts, None, 99)
    teacher.pieces.extend(pieces)
    rows = encode_pairs(texts, pruned, 62, typos=0.5, draw=random.Random(0))
    model, tokenizer = (
        AutoModel.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    expected = []
    for text, row in zip(texts, rows, strict=True):
        inputs = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            expected.append(model(**inputs).last_hidden_state[0, 1:-1])
        assert [pieces[index] for index in row["teacher_ids"]] == inputs["input_ids"][
            0, 1:-1
        ].tolist()
    mean = torch.cat(expected).mean(0)
    batch = StateCollator(teacher, rows)([rows[row] for row in range(40)])
    assert mean.norm() > 5 and batch["attention_mask"].sum(1).tolist() == rows["length"][:].tolist()
    mistyped = 0
    for place, (row, states) in enumerate(zip(rows, expected, strict=True)):
        found = batch["states"][place, : len(row["input_ids"])]
        clean = row["input_ids"].tolist() == row["teacher_ids"].tolist()
        mistyped += not clean
        for word, state in zip(row["input_words"], found, strict=True):
            wanted = (states - mean)[row["teacher_words"] == word].mean(0)
            torch.testing.assert_close(state, wanted, atol=1e-4, rtol=0)
        torch.testing.assert_close(
            batch["labels"][place], (states - mean).mean(0), atol=1e-4, rtol=0
        )
        assert not batch["states"][place, len(found) :].any()
    assert 5 < mistyped < 35


def test_a_stopped_run_resumes_bit_for_bit(pretrained, settings, tmp_path):
    folder = tmp_path / "out"
    run_until(21, lambda: pretrain(**settings, output_dir=str(folder)))
    pretrain(**settings, output_dir=str(folder), resume=True)
    for name in ("model.safetensors", "2_Dense/model.safetensors"):
        assert (folder / name).read_bytes() == (pretrained.folder / name).read_bytes()


def test_an_encoder_is_taught_further(pretrained, unigram, settings, tmp_path):
    """It has its pieces, starts where the first run ended, and ends nearer to the teacher."""
    new = {key: settings[key] for key in ("teacher", "input", "held_out", "use_cpu")} | {
        "learning_rate": 0.0
    }
    start = {**new, "model_name_or_path": str(pretrained.folder)}
    same = pretrain(**start, output_dir=str(tmp_path / "same"))
    for name in ("model.safetensors", "2_Dense/model.safetensors", "tokenizer.json"):
        assert (same.folder / name).read_bytes() == (pretrained.folder / name).read_bytes()
    further = pretrain(
        **start | {"learning_rate": 1e-2, "num_train_epochs": 3},
        output_dir=str(tmp_path / "further"),
    )
    assert further.metrics["held_out"]["cosine"] > pretrained.metrics["held_out"]["cosine"] + 0.02
    with pytest.raises(UserError, match="pieces that the teacher lacks"):
        pretrain(**start | {"teacher": str(unigram)}, output_dir=str(tmp_path / "refused"))


def test_a_student_of_unigrams_keeps_their_table(unigram, settings, tmp_path):
    """Pruned, frozen, and with the principal components of the rows that it keeps."""
    own = {
        "teacher": str(unigram),
        "max_vocab_size": 100,
        "freeze_embedding": True,
        "weights_dtype": "bfloat16",
    }
    own |= {"num_train_epochs": 1, "embedding_size": 4}
    folder = pretrain(**{**settings, **own}, output_dir=str(tmp_path / "out")).folder
    student, kept = (
        AutoTokenizer.from_pretrained(folder),
        AutoTokenizer.from_pretrained(unigram).get_vocab(),
    )
    ids = [kept[student.convert_ids_to_tokens(index)] for index in range(len(student))]
    table = load_file(unigram / "model.safetensors")["embeddings.word_embeddings.weight"][
        ids
    ].double()
    left, size, _ = torch.linalg.svd(table - table.mean(0), full_matrices=False)
    expected = (left * size)[1:, :4].abs()
    found = load_file(folder / "model.safetensors")["embedding.weight"][1:].double().abs()
    torch.testing.assert_close(found / found.norm(), expected / expected.norm(), atol=2e-3, rtol=0)


def test_texts_are_read_once_each(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one  two\n\nthree\none two\n\xff\nsee @me\n@you see\n")
    with gzip.open(tmp_path / "b.txt.gz", "wb") as file:
        file.write("First part. Second part here! Third?\nthree\n这是。那是。\n".encode())
    (tmp_path / "c.csv").write_text(
        "id,text\n" + "".join(f"{number},row {number}\n" for number in range(20))
    )
    files = [tmp_path / name for name in ("a.txt", "b.txt.gz", "c.csv")]
    options = {
        "fault": lambda text: None if text else "blank",
        "cut": lambda text: cut_sentences(text, 29),
    }
    texts, counts = read_unlabeled(files, **options)
    expected = [
        "one two",
        "three",
        "see @user",
        "@user see",
        "First part. Second part here!",
        "Third?",
    ]
    assert texts == [*expected, "这是。那是。", *(f"row {number}" for number in range(20))]
    assert counts == {"lines": 31, "blank": 1, "repeated": 2, "kept": 27, "refused": 1}
    assert len(read_unlabeled(files, **options, most=8)[0]) == 8
    assert list(cut_sentences("No end in this long sentence. Yes. 这是。那是。", 6)) == [
        "No end in this long sentence.", "Yes.", "这是。", "那是。"]  # fmt: skip


def test_pruned_tokens_are_a_subset_that_spells_every_known_character(bert, unigram):
    whole = AutoTokenizer.from_pretrained(bert)
    pruned, kept = prune_tokenizer(whole, ["the box of sand stood"] * 3 + ["door days"], 40, 99)
    assert pruned.convert_ids_to_tokens(range(len(kept))) == whole.convert_ids_to_tokens(kept)
    assert pruned.tokenize("the box of sand stood doo") == [
        "the",
        "box",
        "of",
        "sand",
        "stood",
        "d",
        "##o",
        "##o",
    ]
    assert pruned("the z")["input_ids"][1] == pruned.unk_token_id
    assert pruned.pad_token_id not in pruned("[PAD] the")["input_ids"]
    assert pruned.model_max_length == 99
    whole = AutoTokenizer.from_pretrained(unigram)
    pruned, kept = prune_tokenizer(whole, ["the box", "the шар", "箱沙 沙 ш"] * 2, 16, 99)
    assert pruned.convert_ids_to_tokens(range(len(kept))) == whole.convert_ids_to_tokens(kept)
    assert len(kept) == 16 and pruned.tokenize("the шар 箱沙") == [
        "▁the",
        "▁",
        "ш",
        "а",
        "р",
        "▁",
        "箱",
        "沙",
    ]
    assert pruned.tokenize("box 沙") == ["▁box", "▁", "沙"] and pruned("ok")["input_ids"][-1] == 1
    assert pruned.pad_token_id not in pruned("<pad> the <unk>")["input_ids"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": None}, "teacher"),
        ({"input": ["missing.txt"]}, "missing.txt"),
        ({"embedding_size": 17}, "embedding_size is at most"),
        ({"push_to_hub": True}, "leave it out"),
        ({"teacher": "missing-folder/teacher"}, "missing-folder"),
    ],
)
def test_mistakes_are_named(settings, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        pretrain(**{**settings, **change}, output_dir=str(tmp_path / "out"))
