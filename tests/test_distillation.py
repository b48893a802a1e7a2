"""A student learns from a teacher: the loss by hand, what is asked and what is kept, and whole runs."""

import gzip
import json
import os
import re
import shutil
import signal
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import LABELS, NEUTRAL, invent_rows, write_rows
from datasets import Dataset
from hub_server import Blob
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertTokenizerFast,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
    pipeline,
)

import hf_rnn.distillation.cache
import hf_rnn.finishing
from hf_rnn import DistillationArguments, distill, load_tsv, push, train, train_tokenizer
from hf_rnn.arguments import parse_settings
from hf_rnn.configuration_rnn import RnnConfig
from hf_rnn.distillation.answers import Answers
from hf_rnn.distillation.augmentation import MASKED, augment, find_mask, write_masks
from hf_rnn.distillation.cache import LogitsCache
from hf_rnn.distillation.folds import FOLDS_FILE, fold_folder, fold_of, write_folds
from hf_rnn.distillation.teacher import Teacher
from hf_rnn.distillation.teachers import JointAnswers, Teachers
from hf_rnn.distillation.trainer import NO_LABEL, DistillationTrainer, distillation_loss
from hf_rnn.distillation.unlabeled import read_unlabeled
from hf_rnn.errors import UserError
from hf_rnn.folder import FinishedFolder
from hf_rnn.modeling_rnn import RnnForSequenceClassification
from hf_rnn.normalization import NORMALIZERS
from hf_rnn.stopping import SavePoints, TrainingStopped
from hf_rnn.training_arguments import RnnTrainingArguments

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *NEUTRAL, "miro", "selk"]
SHAPE = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}


def bert_tokenizer():
    return BertTokenizerFast(vocab={word: index for index, word in enumerate(WORDS)}, model_max_length=32)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The folder of a BERT that knows the rule, its labels in another order than the data's."""
    folder = tmp_path_factory.mktemp("teachers") / "tiny-bert"
    names = ["plain", "bad", "good"]
    assert sorted(names) == sorted(LABELS) != names
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertForSequenceClassification(
            BertConfig(**SHAPE, num_labels=3, id2label=dict(enumerate(names)), hidden_dropout_prob=0.0)
        )
        tokenizer, rows = bert_tokenizer(), invent_rows(480, seed=11)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for step in range(60):
            texts, labels = zip(*rows[step * 48 % 480 :][:48], strict=True)
            batch = tokenizer(list(texts), padding=True, return_tensors="pt")
            loss = model(**batch, labels=torch.tensor([names.index(label) for label in labels])).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    classify = pipeline("text-classification", str(folder), device="cpu")
    said = [answer["label"] for answer in classify([text for text, _ in invent_rows(90, seed=12)])]
    assert np.mean([label == true for label, (_, true) in zip(said, invent_rows(90, seed=12), strict=True)]) > 0.95
    return folder


def change_config(folder, target, **changes):
    """A copy of a model's folder with another configuration."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("checkpoints"))
    path = target / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return target


@pytest.fixture(scope="module")
def quick(tiny_settings, teacher):
    """Settings of a distillation of two epochs; figures take longer than it, and nothing hangs on them."""

    def refuse(*args):
        raise UserError("no figures here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hf_rnn.finishing, "plot_learning_curve", refuse)
        patch.setattr(hf_rnn.finishing, "plot_confusion_matrix", refuse)
        yield {**tiny_settings, "teacher": str(teacher), "num_train_epochs": 2, "baselines": False}


@pytest.fixture(scope="module")
def unlabeled(tmp_path_factory):
    path = tmp_path_factory.mktemp("unlabeled") / "unlabeled.txt"
    path.write_text("".join(f"{text}\n" for text, _ in invent_rows(100, seed=21)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def taught(quick, unlabeled, tmp_path_factory):
    """Settings by name, and what a distillation with them returned; nobody changes its folder."""
    settings = {**quick, "unlabeled": str(unlabeled), "temperature": 3.0}
    return settings, distill(**settings, output_dir=str(tmp_path_factory.mktemp("taught") / "model"))


@pytest.fixture
def asked(monkeypatch):
    """How many texts each forward call of a BERT was given."""
    calls, forward = [], BertForSequenceClassification.forward

    def counted(self, input_ids=None, *args, **kwargs):
        calls.append(len(input_ids))
        return forward(self, input_ids, *args, **kwargs)

    counted.__signature__ = __import__("inspect").signature(forward)
    monkeypatch.setattr(BertForSequenceClassification, "forward", counted)
    return calls


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def same_weights(one, other):
    one, other = weights_of(one), weights_of(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def answers_of(folder, texts):
    return [answer["label"] for answer in pipeline("text-classification", str(folder), device="cpu")(texts)]


# ---- the loss ----


def softmax(values):
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def make_batch(rows=7, classes=4, seed=0):
    generator = np.random.default_rng(seed)
    logits, teachers = generator.normal(size=(2, rows, classes)) * 3
    labels = generator.integers(classes, size=rows)
    labels[::3] = NO_LABEL
    return logits, labels, teachers


@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 0.5), (2.0, 0.9), (5.0, 1.0), (0.5, 0.0)])
def test_the_loss_by_hand(temperature, weight):
    logits, labels, teachers = make_batch()
    weights, smoothing, classes = np.array([0.5, 1.0, 2.0, 1.5]), 0.1, 4
    tilted = weights * softmax(teachers)
    p = tilted ** (1 / temperature)
    p, q = p / p.sum(axis=1, keepdims=True), softmax(logits / temperature)
    expected = weight * temperature**2 * (p * (np.log(p) - np.log(q))).sum()
    for row, label in zip(softmax(logits), labels, strict=True):
        if label != NO_LABEL:
            share = np.full(classes, smoothing / classes)
            share[label] += 1 - smoothing
            expected -= (1 - weight) * (share * weights * np.log(row)).sum()
    found = distillation_loss(
        *map(torch.from_numpy, (logits, labels, teachers)), temperature, weight, torch.from_numpy(weights), smoothing
    )
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 0.3), (4.0, 0.8)])
def test_its_gradient(temperature, weight):
    """By finite differences, and as Hinton et al. have it: a T (q - p) + (1 - a) (softmax - one-hot)."""
    logits, labels, teachers = make_batch()
    values = torch.from_numpy(logits).requires_grad_()
    others = (torch.from_numpy(labels), torch.from_numpy(teachers), temperature, weight)
    assert torch.autograd.gradcheck(lambda values: distillation_loss(values, *others), values)
    distillation_loss(values, *others).backward()
    expected = weight * temperature * (softmax(logits / temperature) - softmax(teachers / temperature))
    labelled = labels != NO_LABEL
    one_hot = np.eye(4)[labels[labelled]]
    expected[labelled] += (1 - weight) * (softmax(logits[labelled]) - one_hot)
    np.testing.assert_allclose(values.grad.numpy(), expected, atol=1e-12)


def test_rows_without_labels_have_no_part_in_the_cross_entropy():
    logits, _, teachers = map(torch.from_numpy, make_batch())
    none = torch.full((7,), NO_LABEL)
    assert distillation_loss(logits, none, teachers, 2.0, 0.0).item() == 0
    assert distillation_loss(logits, none, logits, 2.0, 0.7).item() == pytest.approx(0, abs=1e-12), "they agree"


def make_trainer(tmp_path, batch, steps, **more):
    """A Trainer that takes one plain step of gradient descent over eight rows."""
    torch.manual_seed(3)
    model = RnnForSequenceClassification(RnnConfig(vocab_size=9, embedding_size=4, hidden_size=4, num_labels=4))
    generator = np.random.default_rng(5)
    logits, labels, teachers = make_batch(rows=8, seed=1)
    rows = Dataset.from_dict(
        {
            "input_ids": [generator.integers(2, 9, size=size).tolist() for size in (3, 1, 5, 2, 4, 4, 2, 6)],
            "labels": labels.tolist(),
            "teacher_logits": teachers.astype(np.float32).tolist(),
        }
    )
    settings = RnnTrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=batch, gradient_accumulation_steps=steps, max_steps=1,
        optim="sgd", learning_rate=0.5, max_grad_norm=0, use_cpu=True, report_to=[], save_strategy="no",
        train_sampling_strategy="sequential", lr_scheduler_type="constant", disable_tqdm=True, **more,
    )  # fmt: skip
    trainer = DistillationTrainer(
        model=model,
        args=settings,
        train_dataset=rows,
        processing_class=train_tokenizer(["a b c d e f g"], min_frequency=1),
        class_counts=[1, 2, 3, 4],
        temperature=3.0,
        soft_label_weight=0.6,
    )
    trainer.silence()
    return trainer, rows


@pytest.mark.parametrize("more", [{}, {"class_weight_power": 0.7, "label_smoothing_factor": 0.1}])
def test_a_step_is_one_over_the_mean_of_all_rows(tmp_path, more):
    """Also in accumulated batches, whose labelled rows are not equally many; against a step taken by hand."""
    stepped = {}
    for batch, steps in ((8, 1), (4, 2), (2, 4)):
        trainer, rows = make_trainer(tmp_path, batch, steps, **more)
        before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
        trainer.train()
        stepped[batch] = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    counts = [sum(label != NO_LABEL for label in rows["labels"][first : first + 2]) for first in (0, 2, 4, 6)]
    assert len(set(counts)) > 1, "premise"
    model = trainer.model
    model.load_state_dict(before)
    model.zero_grad()
    width = max(map(len, rows["input_ids"]))
    ids = torch.tensor([ids + [1] * (width - len(ids)) for ids in rows["input_ids"]])
    mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in rows["input_ids"]])
    total = distillation_loss(
        model(input_ids=ids, attention_mask=mask).logits,
        torch.tensor(rows["labels"]),
        torch.tensor(rows["teacher_logits"]),
        3.0,
        0.6,
        trainer._class_weights,
        more.get("label_smoothing_factor", 0.0),
    )
    assert ("class_weight_power" in more) == (trainer._class_weights is not None)
    (total / 8).backward()
    for name, weight in model.named_parameters():
        expected = before[name] - 0.5 * weight.grad
        for batch, state in stepped.items():
            torch.testing.assert_close(state[name], expected, atol=1e-6, rtol=1e-4, msg=f"{name}, batches of {batch}")


# ---- augmentation ----


@given(
    st.lists(st.text(), max_size=5),
    st.integers(0, 6),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=150, deadline=None)
def test_copies_of_anything(texts, copies, hidden, cut, seed):
    def draw(texts):
        return list(augment(texts, copies, mask_probability=hidden, ngram_probability=cut, seed=seed))

    assert draw(texts) == draw(texts)
    for number, copy in draw(texts):
        assert {MASKED, *texts[number].split()} >= set(copy.split(" ")), "the number is that of its text"
    for text in texts:
        words, drawn = text.split(), [copy for _, copy in draw([text])]
        assert len(drawn) <= copies and len(set(drawn)) == len(drawn) and " ".join(words) not in drawn
        for copy in drawn:
            kept = copy.split(" ")
            places = range(len(words) - len(kept) + 1)
            assert any(
                all(word in (MASKED, original) for word, original in zip(kept, words[place:], strict=False))
                for place in places
            ), "neighbouring words in their order, some hidden"
            assert set(kept) != {MASKED} or MASKED in words
            assert len(kept) == len(words) or len(kept) <= 5


def test_more_copies_begin_with_those_of_fewer():
    texts = ["a b c d e f g h", "", "i j k l m n o p q r", "s"]
    three, seven = (list(augment(texts, copies, seed=3)) for copies in (3, 7))
    assert 3 < len(three) < len(seven) and seven[: len(three)] == three
    assert seven != list(augment(texts, 7, seed=4))


def test_as_many_words_are_hidden_and_copies_cut_as_asked():
    text = " ".join(f"w{number}" for number in range(40))
    copies = [copy for _, copy in augment([text] * 2000, 1, mask_probability=0.3, ngram_probability=0.25)]
    cut = [copy for copy in copies if len(copy.split()) < 40]
    hidden = Counter(word == MASKED for copy in copies if len(copy.split()) == 40 for word in copy.split())
    # a copy whose only words are hidden is not made: of those of one word 0.3, of those of two 0.09, ...
    assert len(cut) / 2000 == pytest.approx(0.25 * (1 - (0.3 + 0.09 + 0.027 + 0.008 + 0.002) / 5), abs=0.03)
    assert hidden[True] / hidden.total() == pytest.approx(0.3, abs=0.01)
    assert {len(copy.split()) for copy in cut} == {1, 2, 3, 4, 5}


def bytes_tokenizer():
    backend = Tokenizer(BPE({symbol: index for index, symbol in enumerate(sorted(ByteLevel.alphabet()))}, []))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_a_hidden_word_is_what_the_tokenizer_does_not_know():
    bert = bert_tokenizer()
    assert find_mask(bert) == "[MASK]"
    ids = bert(write_masks([f"the {MASKED} sand"], "[MASK]"), add_special_tokens=False)["input_ids"]
    assert bert.convert_ids_to_tokens(ids[0]) == ["the", "[MASK]", "sand"]
    assert find_mask(bytes_tokenizer()) == "", "every byte is known"
    for normalizer in NORMALIZERS:
        own = train_tokenizer(["the sand unk mask"], min_frequency=1, normalizer=normalizer)
        (copy,) = write_masks([f"the {MASKED} sand"], find_mask(own))
        assert own.convert_ids_to_tokens(own(copy)["input_ids"]) == ["the", "<unk>", "sand"], normalizer


# ---- unlabelled texts ----


def test_every_line_is_accounted_for(tmp_path, caplog):
    path = tmp_path / "texts.txt"
    path.write_bytes(b"the dry box\n\nsand \xff\nThe  DOOR\n \t\nmiro\xe2\x80\xa8selk\r\nsa\0nd\nthe dry box\nA  box")
    found = read_unlabeled(path, held_out={"the door"}, labeled={"a box"})
    assert found.texts.to_pylist() == ["the dry box", "miro\u2028selk", "the dry box"]
    assert found.describe() == {
        "file": "texts.txt", "lines": 9, "refused": 2, "blank": 2, "held_out": 1, "labeled": 1, "kept": 3,
    }  # fmt: skip
    (line,) = caplog.messages
    assert "of the 9 lines of texts.txt" in line and "2 are no text (the first is texts.txt:3: not UTF-8" in line
    assert "2 are blank, 1 are in the validation or test split too, 1 are in the training split, with a label" in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no text to learn from: of its 0 lines there is none"),
        (b"\n \n", "of its 2 lines 2 are blank"),
        (gzip.compress(b"miro\n", mtime=0), "compressed file"),
    ],
    ids=["empty", "blank", "gzip"],  # the same in each process: pytest-xdist compares them
)
def test_a_file_without_texts(tmp_path, content, message):
    (tmp_path / "texts.txt").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)):
        read_unlabeled(tmp_path / "texts.txt")


# ---- the teacher ----


def ask(folder, texts, cache, **options):
    return Answers(Teacher.open(str(folder), **options), cache).to(texts)


def test_answers_are_those_of_one_text_alone(teacher, trained, tmp_path):
    """In batches by length, cut where the reading ends; of a BERT, of our own, and of one that cannot pad."""
    texts = [text for text, _ in invent_rows(40, seed=31)] + ["sand " * 50, "?", "miro"]
    gpt = tmp_path / "gpt"
    shape = {"vocab_size": 256, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    GPT2ForSequenceClassification(GPT2Config(**shape, num_labels=3)).save_pretrained(gpt)
    bytes_tokenizer().save_pretrained(gpt)
    assert Teacher.open(str(gpt)).batch_size == 1
    for folder, limit in ((teacher, 32), (trained.folder, 512), (gpt, 62)):
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


def test_labels_without_a_meaning_are_not_guessed(teacher, tmp_path):
    nameless = change_config(teacher, tmp_path / "nameless", id2label=None, label2id=None, num_labels=3)
    opened = Teacher.open(str(nameless))
    assert opened.label_names() == ["LABEL_0", "LABEL_1", "LABEL_2"]
    with pytest.raises(UserError, match=r"Such names do not tell .* --teacher_labels bad good plain"):
        opened.align(["bad", "good", "plain"])
    assert opened.align(["bad", "good", "plain"], ["plain", "bad", "good"]) == [1, 2, 0]
    assert opened.align(["LABEL_1", "LABEL_0", "LABEL_2"]) == [1, 0, 2], "unless the data has the same names"
    assert opened.fingerprint == Teacher.open(str(teacher)).fingerprint, "names change no logit"


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


# ---- the cache ----


def test_a_second_run_reads_what_was_kept(teacher, tmp_path, asked, monkeypatch):
    monkeypatch.setattr(hf_rnn.distillation.cache, "BLOCK_TEXTS", 30)
    texts = [text for text, _ in invent_rows(100, seed=41)]
    first = ask(teacher, texts, tmp_path / "cache")
    assert sum(asked) == 100
    monkeypatch.setattr(Teacher, "load", None)  # it is not even loaded
    assert np.array_equal(ask(teacher, iter(texts), tmp_path / "cache"), first)
    assert sum(asked) == 100
    monkeypatch.undo()
    monkeypatch.setattr(hf_rnn.distillation.cache, "BLOCK_TEXTS", 30)
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_only_what_is_new_is_asked(teacher, tmp_path, asked, monkeypatch):
    monkeypatch.setattr(hf_rnn.distillation.cache, "BLOCK_TEXTS", 30)
    texts = [text for text, _ in invent_rows(100, seed=41)]
    first = ask(teacher, texts, tmp_path / "cache")
    asked.clear()
    more = ask(teacher, [*texts, "miro", "selk"], tmp_path / "cache")
    assert sum(asked) == 12, "the last ten lie in a block of their own with the two"
    np.testing.assert_allclose(more[:100], first, atol=1e-5)
    asked.clear()
    ask(teacher, texts, tmp_path / "cache", max_length=5)
    assert sum(asked) == 100


HARMS = {
    "truncated": lambda content: content[: len(content) // 2],
    "a bit flipped": lambda content: content[:-3] + bytes([content[-3] ^ 4]) + content[-2:],
    "empty": lambda content: b"",
    "something else": lambda content: b"hello" * 99,
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_file_is_computed_again(teacher, tmp_path, asked, caplog, harm):
    texts = [text for text, _ in invent_rows(10, seed=42)]
    first = ask(teacher, texts, tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    content = path.read_bytes()
    path.write_bytes(HARMS[harm](content))
    assert np.array_equal(ask(teacher, texts, tmp_path / "cache"), first)
    assert sum(asked) == 20
    assert caplog.messages == [f"{path} is damaged: the teacher is asked again"]
    assert path.read_bytes() == content, "and put right"


def test_of_a_killed_run_no_half_file_is_left(tmp_path, monkeypatch):
    def fail(*args):
        raise KeyboardInterrupt

    cache = LogitsCache(tmp_path / "cache", "teacher")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        cache.look_up(["a"], lambda texts: np.zeros((1, 2), np.float32), 2)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_full_disk_costs_the_cache_only(tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where a folder should be")
    found = LogitsCache(tmp_path / "cache", "teacher").look_up(["a"], lambda texts: np.ones((1, 2), np.float32), 2)
    assert found.tolist() == [[1, 1]]
    (line,) = caplog.messages
    assert "answers are not kept" in line


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4), st.text(), st.text())
@settings(max_examples=100, deadline=None)
def test_keys_differ_where_texts_or_teachers_do(one, other, teacher, another):
    def key(texts, source):
        return LogitsCache(None, source)._key(texts)

    assert (key(one, teacher) == key(other, teacher)) == (one == other)
    assert (key(one, teacher) == key(one, another)) == (teacher == another)


# ---- runs ----


def test_a_run_leaves_a_finished_folder(command, quick, teacher, unlabeled, texts_dir, tmp_path, asked):
    quick = {name: value for name, value in quick.items() if name not in ("use_cpu", "num_train_epochs")}
    flags = [f"--{name}={value}" for name, value in quick.items()]
    flags += ["--unlabeled", unlabeled, "--num_train_epochs", 4, "--use_cpu", "--output_dir", tmp_path / "out"]
    code, out, err = command("distill", *flags, "--augmentations", 2)
    assert code == 0, err
    told = json.loads(out)
    assert told["output_dir"] == str(tmp_path / "out") and told["teacher"]["name"] == "tiny-bert"
    folder = FinishedFolder(tmp_path / "out")
    folder.check_finished()
    metrics = json.loads(folder.metrics.read_text())

    texts = {split: (texts_dir / f"{split}.tsv").read_text().splitlines() for split in ("train", "dev", "test")}
    rows = {split: [line.split("\t") for line in lines] for split, lines in texts.items()}
    for split, name in (("dev", "validation"), ("test", "test")):
        known = [text for text, _ in rows[split]]
        true = [label for _, label in rows[split]]
        teachers, students = answers_of(teacher, known), answers_of(folder.root, known)
        found = metrics["teacher"]["results"][name]
        assert found["accuracy"] == pytest.approx(np.mean(np.array(teachers) == np.array(true)))
        assert found["agreement"] == pytest.approx(np.mean(np.array(teachers) == np.array(students)))
        assert metrics[name]["accuracy"] == pytest.approx(np.mean(np.array(students) == np.array(true)))
        assert found["agreement"] > 0.8, "a third by chance"
    counts = metrics["teacher"]["rows"]
    known = {text for split in ("train", "dev", "test") for text, _ in rows[split]}
    lines = unlabeled.read_text().splitlines()
    assert counts["train"] == 240 == metrics["training"]["rows"]
    assert counts["unlabeled"] == sum(line not in known for line in lines)
    left_out = metrics["teacher"]["unlabeled"]
    assert counts["unlabeled"] + left_out["held_out"] + left_out["labeled"] == 100
    assert 240 < counts["copies"] <= 480
    assert metrics["training"]["steps"] == 4 * -(-sum(counts.values()) // 16)
    assert sum(asked) >= sum(counts.values()) + 120, "and the pipeline above"

    card = folder.card.read_text()
    assert f"It was distilled: it learned the answers of tiny-bert to texts (240 training, {counts['copies']} " in card
    assert "hf-rnn distill --recipe training_args.json --teacher tiny-bert --unlabeled unlabeled.txt" in card
    recorded = json.loads(folder.training_args.read_text())
    assert (recorded["teacher"], recorded["temperature"], recorded["augmentations"]) == ("tiny-bert", 2.0, 2)
    for path in (folder.card, folder.metrics, folder.training_args, folder.card_facts):
        assert str(tmp_path) not in path.read_text() and str(teacher.parent) not in path.read_text()


def test_training_args_repeat_the_run(quick, teacher, unlabeled, taught, tmp_path):
    again = distill(
        recipe=str(taught[1].folder / "training_args.json"),
        teacher=str(teacher),
        data_dir=quick["data_dir"],
        unlabeled=str(unlabeled),
        output_dir=str(tmp_path / "b"),
        use_cpu=True,
    )
    assert same_weights(taught[1].folder, again.folder)
    assert again.metrics["teacher"] == taught[1].metrics["teacher"]


def test_four_dataclasses_do_the_same_and_find_the_answers_of_another_run(taught, tmp_path, asked):
    settings, first = taught
    cache = first.folder / "teacher_cache"
    own = ("teacher", "unlabeled", "temperature")
    plain = {name: value for name, value in settings.items() if name not in own}
    arguments = parse_settings({**plain, "output_dir": str(tmp_path / "b")})
    further = DistillationArguments(**{name: settings[name] for name in own}, teacher_cache=str(cache))
    second = distill(*arguments, further)
    assert asked == [], "no text is read by the teacher twice"
    assert same_weights(first.folder, second.folder)
    assert second.metrics["teacher"] == first.metrics["teacher"]
    assert not (second.folder / "teacher_cache").exists()
    with pytest.raises(TypeError, match="not both: found teacher"):
        distill(*arguments, teacher="x")
    with pytest.raises(TypeError, match="or settings by name"):
        distill(*arguments)


def test_without_the_teachers_part_it_is_train(quick, tmp_path):
    plain = {name: value for name, value in quick.items() if name != "teacher"}
    alone = train(**plain, output_dir=str(tmp_path / "alone"))
    taught = distill(**quick, soft_label_weight=0.0, augmentations=0, output_dir=str(tmp_path / "taught"))
    one, other = weights_of(alone.folder), weights_of(taught.folder)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=1e-4)


def test_a_seed_of_its_own(taught, tmp_path):
    settings, first = taught
    assert not same_weights(first.folder, distill(**settings, seed=7, output_dir=str(tmp_path / "seven")).folder)


def test_a_stopped_run_goes_on_bit_for_bit(quick, taught, tmp_path, monkeypatch, asked):
    settings, whole = taught
    steps = whole.metrics["training"]["steps"]

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == steps // 2 + 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(SavePoints, "on_step_begin", on_step_begin)
        with pytest.raises(TrainingStopped) as stopped:
            distill(**settings, output_dir=str(tmp_path / "out"))
    assert stopped.value.checkpoint.name == f"checkpoint-{steps // 2 + 4}"
    for change, told in (
        ({"temperature": 2.0}, r"temperature \(was 3.0, now 2.0\)"),
        ({"soft_label_weight": 0.5}, r"soft_label_weight \(was 0.9, now 0.5\)"),
        ({"augmentations": 3}, "the texts or their labels"),
        ({"teacher_max_length": 4}, "the answers of the teacher"),
    ):
        with pytest.raises(UserError, match=f"has changed: {told}"):
            distill(**{**settings, **change}, output_dir=str(tmp_path / "out"), resume=True)
    plain = {name: value for name, value in quick.items() if name != "teacher"}
    with pytest.raises(UserError, match="has changed: .*the answers of the teacher"):
        train(**plain, output_dir=str(tmp_path / "out"), resume=True)
    asked.clear()
    torch.rand(7)  # nothing may hang on where the generators stand
    resumed = distill(**settings, output_dir=str(tmp_path / "out"), resume=True)
    assert asked == [], "the answers were kept"
    assert same_weights(resumed.folder, whole.folder)
    for name in ("validation", "test", "teacher"):
        assert resumed.metrics[name] == whole.metrics[name]
    assert resumed.metrics["training"]["loss"] == whole.metrics["training"]["loss"]


def test_a_stopped_command_tells_how_to_go_on(command, quick, tmp_path, monkeypatch):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(SavePoints, "on_step_begin", on_step_begin)
    flags = [f"--{name}={value}" for name, value in quick.items()]
    code, out, err = command("distill", *flags, "--output_dir", tmp_path / "out")
    assert (code, out) == (143, "")
    assert "to go on, type: hf-rnn distill" in err.splitlines()[-1] and err.endswith(" --resume\n")


def test_answers_are_kept_when_the_teacher_is_interrupted(quick, tmp_path, monkeypatch, asked, caplog):
    whole, first = Answers.to, []

    def stop_at_the_second(self, texts):
        if first:
            raise KeyboardInterrupt
        first.append(None)
        return whole(self, texts)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Answers, "to", stop_at_the_second)
        distill(**quick, output_dir=str(tmp_path / "out"))
    assert "what the teacher has answered stays in" in caplog.text
    assert sum(asked) > 0, "premise: some texts were answered"
    distill(**quick, output_dir=str(tmp_path / "out"))
    of_both = sum(asked)
    asked.clear()
    distill(**quick, output_dir=str(tmp_path / "undisturbed"))
    assert sum(asked) == of_both, "none was asked twice"


def test_answers_of_a_run_that_stopped_are_in_nobodys_way(taught, tmp_path):
    settings, whole = taught
    shutil.copytree(whole.folder / "teacher_cache", tmp_path / "out" / "teacher_cache")
    assert same_weights(distill(**settings, output_dir=str(tmp_path / "out")).folder, whole.folder)
    with pytest.raises(UserError, match="is not empty"):
        distill(**settings, output_dir=str(tmp_path / "out"))
    FinishedFolder(tmp_path / "out").weights.write_bytes(b"of an earlier run")
    again = distill(**settings, output_dir=str(tmp_path / "out"), overwrite_output_dir=True)
    assert same_weights(again.folder, whole.folder)


def test_the_student_moves_towards_its_teacher(quick, teacher, tmp_path):
    """Few labels, each second one wrong at random; the teacher knows the rule, and unlabelled texts show it."""
    folder = tmp_path / "noisy"
    folder.mkdir()
    generator = np.random.default_rng(0)
    rows = invent_rows(90, seed=1)
    noisy = [(text, str(generator.choice(LABELS)) if row % 2 else label) for row, (text, label) in enumerate(rows)]
    write_rows(folder / "train.tsv", noisy)
    write_rows(folder / "dev.tsv", invent_rows(60, seed=2))
    (tmp_path / "more.txt").write_text("".join(f"{text}\n" for text, _ in invent_rows(300, seed=51)))
    settings = {**quick, "data_dir": str(folder), "num_train_epochs": 4}
    plain = {name: value for name, value in settings.items() if name != "teacher"}
    alone = train(**plain, output_dir=str(tmp_path / "alone"))
    taught = distill(**settings, unlabeled=str(tmp_path / "more.txt"), output_dir=str(tmp_path / "taught"))
    texts = [text for text, _ in invent_rows(150, seed=52)]
    teachers = np.array(answers_of(teacher, texts))
    agreement = {}
    for name, run in (("alone", alone), ("taught", taught)):
        agreement[name] = np.mean(np.array(answers_of(run.folder, texts)) == teachers)
    assert agreement["taught"] > 0.9
    assert agreement["taught"] > agreement["alone"] + 0.1


def test_it_is_the_teachers_answers_that_are_learned_by_name(quick, teacher, tmp_path):
    """A teacher that calls good what the data calls bad, and no word from the labels: the student does as it."""
    wrong = change_config(
        teacher,
        tmp_path / "wrong",
        id2label={0: "plain", 1: "good", 2: "bad"},
        label2id={"plain": 0, "good": 1, "bad": 2},
    )
    settings = {**quick, "soft_label_weight": 1.0, "num_train_epochs": 6, "learning_rate": 0.01, "word_dropout": 0}
    settings |= {"load_best_model_at_end": False, "early_stopping_patience": 0}
    told = {}
    for name, folder in (("right", teacher), ("wrong", wrong)):
        result = distill(**{**settings, "teacher": str(folder)}, output_dir=str(tmp_path / name / "out"))
        told[name] = answers_of(result.folder, ["the dry miro sand", "the dry selk sand", "the dry box of sand"])
        assert result.metrics["teacher"]["results"]["validation"]["agreement"] > 0.8
    assert told == {"right": ["good", "bad", "plain"], "wrong": ["bad", "good", "plain"]}


def test_words_of_unlabelled_texts_are_words_and_copies_count_none(quick, tmp_path):
    (tmp_path / "more.txt").write_text("zebra miro\nzebra selk\nzebra sand\nonce upon\n")
    folder = tmp_path / "texts"
    shutil.copytree(quick["data_dir"], folder)
    with (folder / "train.tsv").open("a") as file:
        file.write("the rare box\tplain\n")
    settings = {**quick, "data_dir": str(folder), "augmentations": 8, "num_train_epochs": 1}
    result = distill(**settings, unlabeled=str(tmp_path / "more.txt"), output_dir=str(tmp_path / "out"))
    words = json.loads((result.folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert "zebra" in words, "three times in the unlabelled texts"
    assert "rare" not in words and "once" not in words, "once, whatever the copies say"


def test_the_teachers_tokenizer_and_calibration(quick, teacher, tmp_path):
    result = distill(**quick, tokenizer_name_or_path=str(teacher), calibrate=True, output_dir=str(tmp_path / "out"))
    config = json.loads((result.folder / "config.json").read_text())
    assert config["vocab_size"] == len(WORDS)
    assert result.metrics["calibration"]["fitted_on"] == "validation"
    assert set(answers_of(result.folder, ["the miro box", "the selk box"])) <= set(LABELS)


# ---- cross-fitted teachers ----


@pytest.fixture(scope="module")
def crew(teacher, tmp_path_factory):
    """A folder of three cross-fitted teachers, which differ in what they lean to."""
    folder = tmp_path_factory.mktemp("crews") / "crew"
    for fold in range(3):
        model = BertForSequenceClassification.from_pretrained(teacher)
        with torch.no_grad():
            model.classifier.bias[fold] += 0.5
        model.save_pretrained(fold_folder(folder, fold))
        bert_tokenizer().save_pretrained(fold_folder(folder, fold))
    write_folds(folder, 3)
    return folder


@given(st.text(), st.integers(1, 9))
def test_a_text_and_its_duplicates_lie_in_one_fold(text, folds):
    fold = fold_of(text, folds)
    assert 0 <= fold < folds
    assert fold_of(f"  {text}\t", folds) == fold
    if text.isascii():
        assert fold_of(text.upper(), folds) == fold


def test_folds_are_about_equal():
    counts = Counter(fold_of(f"text number {number}", 3) for number in range(3000))
    assert all(abs(count - 1000) < 4 * (3000 * 2 / 9) ** 0.5 for count in counts.values()), "four standard deviations"


def log_probabilities(folder, texts):
    """Of each text alone, by transformers."""
    model, tokenizer = BertForSequenceClassification.from_pretrained(folder).eval(), bert_tokenizer()
    with torch.no_grad():
        logits = [model(**tokenizer(text, truncation=True, return_tensors="pt")).logits[0] for text in texts]
    return torch.stack(logits).log_softmax(dim=-1).numpy()


def test_who_answers_for_a_text(crew, tmp_path, asked):
    sources = [text for text, _ in invent_rows(40, seed=61)]
    texts = [source.split()[0] for source in sources]
    assert {fold_of(source, 3) for source in sources} == {0, 1, 2}, "premise"
    assert [fold_of(text, 3) for text in texts] != [fold_of(source, 3) for source in sources], "premise"
    by_fold = [log_probabilities(fold_folder(crew, fold), texts) for fold in range(3)]
    asked.clear()
    answers = JointAnswers(Teachers.open(str(crew)), tmp_path)
    found = answers.to_trained(texts, sources)
    assert sum(asked) == len(texts), "each by one teacher"
    expected = [by_fold[fold_of(source, 3)][row] for row, source in enumerate(sources)]
    normalised = found - np.log(np.exp(found).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(normalised, expected, atol=1e-5)
    np.testing.assert_allclose(answers.to_others(texts), np.mean(by_fold, axis=0), atol=1e-5)
    assert sum(asked) == 4 * len(texts)
    assert answers.counts == (4 * len(texts), 0)
    again = JointAnswers(Teachers.open(str(crew)), tmp_path)
    assert np.array_equal(again.to_trained(texts, sources), found)
    again.to_others(texts)
    assert sum(asked) == 4 * len(texts) and again.counts == (0, 4 * len(texts)), "all was kept"


def test_one_teacher_alone_answers_for_all(teacher, tmp_path):
    texts = [text for text, _ in invent_rows(9, seed=62)]
    opened = Teachers.open(str(teacher))
    assert (opened.name, opened.folds, len(opened.members)) == ("tiny-bert", None, 1)
    answers = JointAnswers(opened, tmp_path / "joint")
    plain = ask(teacher, texts, tmp_path / "plain")
    assert np.array_equal(answers.to_trained(texts, texts), plain)
    assert np.array_equal(answers.to_others(texts), plain), "logits as they are"


def test_no_training_text_is_asked_of_a_teacher_that_has_seen_it(quick, crew, unlabeled, tmp_path, monkeypatch):
    """A whole run: who is asked what, and what is told of it."""
    heard = {}
    ask_one = Answers._ask

    def listen(self, texts):
        heard.setdefault(self._teacher.name, []).extend(texts)
        return ask_one(self, texts)

    monkeypatch.setattr(Answers, "_ask", listen)
    settings = {**quick, "teacher": str(crew), "unlabeled": str(unlabeled), "augmentations": 2, "ngram_probability": 0}
    result = distill(**settings, output_dir=str(tmp_path / "out"))
    training, others = set(load_tsv(quick["data_dir"])["train"]["text"]), set()
    for split in ("validation", "test"):
        others |= set(load_tsv(quick["data_dir"])[split]["text"])
    further = set(unlabeled.read_text(encoding="utf-8").splitlines())
    assert further & training - others, "premise: some have a label, which a teacher may have seen"
    others |= further - training
    assert set(heard) == {"fold-1", "fold-2", "fold-3"} and len(training - others) > 9, "premise"
    for number in range(3):
        told = set(heard[f"fold-{number + 1}"])
        assert told & (training - others) == {text for text in training - others if fold_of(text, 3) == number}
        assert others <= told, "all others are asked of each"
    told = result.metrics["teacher"]
    assert (told["name"], told["folds"]) == ("crew", 3)
    card = (result.folder / "README.md").read_text(encoding="utf-8")
    assert "the answers of crew, 3 models that each answered for training texts that it had not seen itself" in card


def test_crews_that_are_none(crew, tmp_path):
    def refused(change):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(crew, folder)
        change(folder)
        with pytest.raises(UserError) as caught:
            Teachers.open(str(folder))
        return str(caught.value)

    assert "has no config.json" in refused(lambda folder: (folder / FOLDS_FILE).unlink())
    for damaged in ("{", "[]", "{}", "3"):
        told = refused(lambda folder, text=damaged: (folder / FOLDS_FILE).write_text(text))
        assert "folds.json cannot be read: make the teachers anew with finetune_teacher.py --folds" in told
    for number in ('"3"', "1", "true", "2.5"):
        told = refused(lambda folder, text=number: (folder / FOLDS_FILE).write_text(f'{{"folds": {text}}}'))
        assert "folds must be a number from 2, found" in told
    assert "speaks of 4 teachers, and there is no folder" in refused(lambda folder: write_folds(folder, 4))
    assert "fold-2" in refused(lambda folder: (folder / "fold-2" / "config.json").unlink())

    def rename(folder):
        path = folder / "fold-3" / "config.json"
        path.write_text(path.read_text().replace('"plain"', '"dull"'))

    assert "fold-1 and fold-3" in refused(rename) and "have not the same labels" in refused(rename)

    def other_words(folder):
        words = {word: index for index, word in enumerate([*WORDS[:-1], "other"])}
        BertTokenizerFast(vocab=words, model_max_length=32).save_pretrained(folder / "fold-2")

    assert "fold-1 and fold-2" in refused(other_words) and "have not the same tokenizer" in refused(other_words)


# ---- mistakes ----


def mistake(result):
    code, out, err = result
    assert (code, out) == (2, ""), err
    assert "Traceback" not in err
    *_, last = err.splitlines()
    assert last.startswith("hf-rnn distill: error: ")
    return last


def test_mistakes_are_one_line(command, teacher, texts_dir, tmp_path, monkeypatch):
    def run(*more, teacher=teacher):
        flags = ["--data_dir", texts_dir, "--output_dir", tmp_path / "out", "--hidden_size", 4, "--use_cpu"]
        return mistake(command("distill", *flags, *(["--teacher", teacher] if teacher else []), *more))

    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("")
    assert "teacher is not set" in run(teacher=None)
    assert "there is no folder nowhere: give the folder of a teacher" in run(teacher="nowhere")
    assert "empty.txt is a file" in run(teacher=tmp_path / "empty.txt")
    assert "has no config.json" in run(teacher=texts_dir)
    assert "temperature must be finite and greater than 0, found 0.0" in run("--temperature", 0)
    assert "temperature must be finite and greater than 0, found -1.0" in run("--temperature", -1)
    assert "temperature must be finite and greater than 0, found nan" in run("--temperature", "nan")
    assert "soft_label_weight must be from 0 to 1, found 1.5" in run("--soft_label_weight", 1.5)
    assert "augmentations must be at least 0, found -1" in run("--augmentations", -1)
    assert "mask_probability must be from 0 to 1" in run("--mask_probability", 2)
    assert "teacher_batch_size must be at least 1" in run("--teacher_batch_size", 0)
    assert "has no text to learn from" in run("--unlabeled", tmp_path / "empty.txt")
    assert "is a folder: give a file" in run("--unlabeled", tmp_path)
    assert "there is no file more.txt" in run("--unlabeled", "more.txt")
    assert "empty.txt is a file: give a folder" in run("--teacher_cache", tmp_path / "empty.txt")
    assert "cannot be made: Not a directory" in run("--teacher_cache", tmp_path / "empty.txt" / "below")
    assert "streaming" in run("--streaming")
    assert "Did you mean --temperature?" in run("--temprature", 2)
    assert "hidden_size must be at least 1" in run("--hidden_size", 0)

    def teach(name, **changes):
        return run(teacher=change_config(teacher, tmp_path / name, **changes))

    assert "gives a number (regression)" in teach(
        "one", problem_type=None, id2label={0: "score"}, label2id={"score": 0}
    )
    assert "gives a number (regression)" in teach("regression", problem_type="regression")
    assert "any number of labels" in teach("several", problem_type="multi_label_classification")
    told = teach("other", id2label={0: "plain", 1: "bad", 2: "fine"}, label2id={"plain": 0, "bad": 1, "fine": 2})
    assert "'plain', 'bad', 'fine'" in told and "'bad', 'good', 'plain'" in told
    assert "cannot be loaded" in teach("broken", model_type="bart")
    assert "cannot be loaded" in teach("unknown", model_type="no such kind")
    assert "cannot be loaded" in teach("wide", hidden_size=64)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name != "teacher_cache"]


def test_what_is_no_trained_classifier(command, teacher, texts_dir, tmp_path):
    flags = ["--data_dir", texts_dir, "--output_dir", tmp_path / "out", "--use_cpu", "--teacher"]
    masked = tmp_path / "masked"
    BertForMaskedLM(BertConfig(**SHAPE)).save_pretrained(masked)
    bert_tokenizer().save_pretrained(masked)
    assert "is a BertForMaskedLM, which classifies no texts" in mistake(command("distill", *flags, masked))
    config = json.loads((masked / "config.json").read_text())
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: index for index, name in enumerate(LABELS)}}
    (masked / "config.json").write_text(json.dumps({**config, "architectures": None, **names}))
    told = mistake(command("distill", *flags, masked))
    assert "is no trained classifier: its weights lack " in told
    pickled = change_config(teacher, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    assert "has no model.safetensors" in mistake(command("distill", *flags, pickled))
    code, _, err = command("distill", *flags, "owner/name")
    assert code == 2 and "nor can it be had from the Hub" in err.splitlines()[-1]


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
        (32, 20, None, 18),
        (10**30, 20, None, 18),
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


def test_logits_that_are_none(teacher, tmp_path):
    spoilt = tmp_path / "spoilt"
    shutil.copytree(teacher, spoilt)
    model = BertForSequenceClassification.from_pretrained(teacher)
    with torch.no_grad():
        model.classifier.bias[0] = float("nan")
    model.save_pretrained(spoilt)
    with pytest.raises(UserError, match="gives logits that are not finite, for one to 'sand'"):
        ask(spoilt, ["sand"], tmp_path / "cache")
