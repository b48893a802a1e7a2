"""Pretrained vectors in a training run, against tables known by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LABELS, invent_rows, write_rows
from safetensors.torch import load_file
from tiny_bert import PIECES
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from vector_files import make_tokenizer, write_text

from hf_rnn import train
from hf_rnn.training.arguments.run_arguments import parse_argv, parse_settings
from hf_rnn.training.prepare_vectors import prepare_vectors
from hf_rnn.utils.errors import UserError

INVENTED = ("the", "box", "miro", "selk", "unheard")


@pytest.fixture(scope="module")
def vector_file(tmp_path_factory):
    """Vectors of 8 numbers for some of the words of the invented texts, and for one that stands in none."""
    numbers = np.random.default_rng(3).normal(size=(len(INVENTED), 8)).astype(np.float32)
    path = tmp_path_factory.mktemp("vectors") / "invented.txt"
    path.write_bytes(write_text(dict(zip(INVENTED, numbers.tolist(), strict=True))))
    return path, dict(zip(INVENTED, torch.from_numpy(numbers), strict=True))


@pytest.fixture
def train_with(tiny_settings, vector_file, tmp_path):
    """Train with the vectors and return embedding by word, other weights, and the result."""

    def run(name, **changes):
        settings = {key: value for key, value in tiny_settings.items() if key != "embedding_size"}
        changes.setdefault("vectors", str(vector_file[0]))
        result = train(**{**settings, "num_train_epochs": 1, "output_dir": str(tmp_path / name), **changes})
        weights = load_file(result.folder / "model.safetensors")
        embedding = weights.pop(next(key for key in weights if key.endswith("embedding.weight")))
        vocabulary = AutoTokenizer.from_pretrained(result.folder).get_vocab()
        return {word: embedding[index] for word, index in vocabulary.items()}, weights, result

    return run


def test_frozen_vectors_stay_and_words_unseen_in_training_have_theirs(train_with, vector_file):
    embedding, _, result = train_with("frozen", freeze_embedding=True, widen_vocabulary=10)
    for word, vector in vector_file[1].items():
        torch.testing.assert_close(embedding[word], vector, rtol=0, atol=0)
    model = AutoModelForSequenceClassification.from_pretrained(result.folder)
    assert model.config.embedding_size == 8
    tokenizer = AutoTokenizer.from_pretrained(result.folder)
    assert tokenizer("unheard")["input_ids"] != [tokenizer.unk_token_id]
    with torch.no_grad():
        answers = [model(**tokenizer(text, return_tensors="pt")).logits for text in ("unheard", "unknown")]
    assert not torch.equal(*answers), "a word that training never saw is not just unknown"
    # 17 words of the texts, and unheard
    assert result.card.vectors["coverage_types"] == 5 / 18
    rows = [text.split() for text, _ in invent_rows(240, 1)]
    tokens = [word for row in rows for word in row]
    assert result.card.vectors["coverage_tokens"] == pytest.approx(sum(t in INVENTED for t in tokens) / len(tokens))
    card = (result.folder / "README.md").read_text(encoding="utf-8")
    assert "Its token vectors started from invented.txt, which has vectors for 27.8% of its vocabulary" in card


def test_the_same_texts_without_widening(train_with):
    embedding, _, result = train_with("narrow")
    assert "unheard" not in embedding
    assert result.card.vectors["coverage_types"] == 4 / 17


def test_the_embedding_moves_by_its_own_rate(train_with, vector_file):
    """One step of plain SGD: what the embedding moves is its rate times its gradient, and nothing else changes."""
    step = {
        "max_steps": 1,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "learning_rate": 0.25,
        "max_grad_norm": 0.0,
        "weight_decay": 0.0,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "metric_for_best_model": None,
        "early_stopping_patience": None,
    }
    runs = {
        rate: train_with(f"rate {rate}", **step, **({} if rate is None else {"embedding_learning_rate": rate}))
        for rate in (None, 0.0, 0.5, 1.0)
    }
    start = vector_file[1]
    moved = {
        rate: torch.stack([embedding[word] - start[word] for word in INVENTED[:4]])
        for rate, (embedding, _, _) in runs.items()
    }
    assert not moved[0.0].any()
    assert moved[0.5].abs().max() > 1e-5
    torch.testing.assert_close(moved[1.0], 2 * moved[0.5], rtol=1e-2, atol=1e-6)
    torch.testing.assert_close(moved[0.5], 2 * moved[None], rtol=1e-2, atol=1e-6)
    for _, weights, _ in runs.values():
        for name, weight in weights.items():
            torch.testing.assert_close(weight, runs[None][1][name], rtol=0, atol=0)


def test_tuned_vectors_move_and_the_run_learns(train_with, vector_file):
    embedding, _, result = train_with("tuned", num_train_epochs=6, embedding_learning_rate=0.02)
    assert (embedding["miro"] - vector_file[1]["miro"]).abs().max() > 1e-3
    assert not embedding["<pad>"].any()
    assert result.metrics["validation"]["accuracy"] > 0.8


def test_a_model_as_the_source_of_a_run(train_with, bert, tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    rows = [(f"{'a film' if label == 'good' else 'unseen <'} >", label) for label in LABELS for _ in range(6)]
    for name in ("train", "dev"):
        write_rows(texts / f"{name}.tsv", rows)
    settings = {"data_dir": str(texts), "min_frequency": 1, "freeze_embedding": True}
    embedding, _, result = train_with("bert", vectors=str(bert[0]), **settings)
    torch.testing.assert_close(embedding["film"], bert[1][PIECES.index("film")], rtol=0, atol=0)
    assert result.card.vectors["name"] == "tiny-bert"


def test_a_run_does_not_go_on_with_other_vectors(train_with, vector_file, tmp_path):
    train_with("run")
    other = tmp_path / "other.txt"
    other.write_bytes(vector_file[0].read_bytes().replace(b"miro -", b"miro ").replace(b"miro ", b"miro 1", 1))
    with pytest.raises(UserError, match="this has changed: the pretrained vectors"):
        train_with("run", vectors=str(other), resume=True, num_train_epochs=2)
    _, _, result = train_with("run", resume=True, num_train_epochs=2, resume_anyway=True)
    assert result.metrics["training"]["epochs"] == 2


def test_without_vectors_all_is_as_it_was():
    arguments = parse_settings({"data_dir": "x", "output_dir": "y"})
    tokenizer = make_tokenizer("the")
    assert prepare_vectors(arguments, tokenizer, None) == (arguments, tokenizer, None)


def test_words_of_a_recipe_are_left_out_with_a_tokenizer_that_cuts_them(tmp_path):
    """What the recipe sets goes with a vocabulary of the texts' words; what the user sets is refused elsewhere."""
    flags = ["--recipe", "best", "--vectors", "there", "--data_dir", "here", "--output_dir", "out"]
    assert parse_argv(flags).data.widen_vocabulary == 50_000
    for name in ("--tokenizer_name_or_path", "--tokenizer-name-or-path"):
        assert parse_argv([*flags, name, "there"]).data.widen_vocabulary is None
    tokenizer = ["--tokenizer_name_or_path", "there"]
    assert parse_argv([*flags, *tokenizer, "--widen_vocabulary", "7"]).data.widen_vocabulary == 7
    (tmp_path / "own.yaml").write_text("recipe: best\nwiden_vocabulary: 9\n")
    assert parse_argv([*flags, "--recipe", str(tmp_path / "own.yaml"), *tokenizer]).data.widen_vocabulary == 9


def test_an_audit_leaves_out_what_a_training_does(bert, trained, texts_dir, command):
    own = bert[0]
    for more in (["--tokenizer_name_or_path", own, "--vectors", own], ["--model_name_or_path", trained.folder]):
        code, out, err = command("audit", "--data_dir", texts_dir, "--recipe", "best", "--json", *more)
        assert code == 0, err
        assert '"summary"' in out


def test_settings_that_contradict_the_vectors(train_with, vector_file, tmp_path):
    with pytest.raises(UserError, match="embedding_size is 16, and the vectors of .* have 8 numbers: leave"):
        train_with("size", embedding_size=16)
    with pytest.raises(UserError, match="freeze_embedding leaves the embedding out of training"):
        train_with("frozen", freeze_embedding=True, embedding_learning_rate=0.1)
    with pytest.raises(UserError, match="embedding_learning_rate must be finite and not negative, found -1"):
        train_with("negative", embedding_learning_rate=-1.0)
    with pytest.raises(UserError, match="widen_vocabulary must be at least 1, found 0"):
        train_with("zero", widen_vocabulary=0)
    with pytest.raises(
        UserError, match="widen_vocabulary takes words of pretrained vectors, and none are given: give vectors"
    ):
        train_with("none", vectors=None, widen_vocabulary=5)
    assert not list(tmp_path.iterdir())


def test_mistakes_on_the_command_line(command, texts_dir, tmp_path):
    """Exit 2 and one line, before any folder is made."""
    (tmp_path / "bad.txt").write_bytes(b"the 0.5 0.25\nbox 0.5\n")
    for name, message in {
        "absent.txt": "there are no vectors at",
        "bad.txt": "bad.txt, line 2: 1 numbers should be 2",
    }.items():
        code, out, err = command(
            "train", "--data_dir", texts_dir, "--output_dir", tmp_path / "out", "--vectors", tmp_path / name
        )
        assert (code, out) == (2, "")
        assert "Traceback" not in err
        assert message in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_vectors_on_the_command_line(command, texts_dir, vector_file, tmp_path):
    flags = ["--num_train_epochs", "1", "--hidden_size", "8", "--use_cpu", "--widen_vocabulary", "5"]
    flags += ["--embedding_learning_rate", "1e-4", "--vectors", vector_file[0]]
    code, out, err = command("train", "--data_dir", texts_dir, "--output_dir", tmp_path / "out", *flags)
    assert code == 0, err
    assert "vectors of invented.txt: 5 of 18 words (27.8%), " in err
    assert "embedding_size is 8, that of the vectors" in err
    assert Path(tmp_path / "out" / "model.safetensors").is_file()


def test_a_name_that_no_file_could_have_is_one_line(command, texts_dir, tmp_path):
    code, out, err = command(
        "train", "--data_dir", texts_dir, "--output_dir", tmp_path / "out", "--vectors", "a" * 300
    )
    assert (code, out) == (2, "") and "there can be no vectors at aaa" in err and "Traceback" not in err
