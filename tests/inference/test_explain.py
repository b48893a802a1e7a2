"""Why an answer: the linear part is added up exactly, the network by leaving words out."""

import itertools
import json

import numpy as np
import pytest
import tiny_ngrams
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from hf_rnn import FastRnn, RnnConfig, RnnForSequenceClassification
from hf_rnn.cli.main import main
from hf_rnn.inference.explain import explain_spans
from hf_rnn.linear.ngrams import NgramTable
from hf_rnn.tokenizers.word_level import save_tokenizer, train_tokenizer
from hf_rnn.utils.errors import UserError

TEXT = "Late again, twice late again: no refund"
WORDS = TEXT.split()


@pytest.fixture(scope="module", params=["one label", "several labels", "numbers"])
def folder(request, tmp_path_factory):
    """A model of random weights with a linear part; the tokens of a text are its words."""
    folder = tmp_path_factory.mktemp("explain") / "model"
    problem = {"several labels": "multi_label_classification", "numbers": "regression"}
    torch.manual_seed(0)
    tokenizer = train_tokenizer([TEXT, TEXT], min_frequency=1)
    config = RnnConfig(
        vocab_size=len(tokenizer),
        embedding_size=6,
        hidden_size=5,
        num_labels=3,
        problem_type=problem.get(request.param),
    )
    model = RnnForSequenceClassification(config).eval()
    tiny_ngrams.attach(model)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return folder


def explain_by_hand(folder):
    """Numbers by phrase: torch for each text without a word, and a walk over all n-grams."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = RnnForSequenceClassification.from_pretrained(folder).eval()
    ids = tokenizer([TEXT])["input_ids"][0]
    with torch.no_grad():
        whole = model(torch.tensor([ids])).logits[0].double().numpy()
        label = int(whole.argmax())
        stored = {name: value.numpy() for name, value in model.ngrams.state_dict().items()}
        model.ngrams = None
        texts = [ids, *(ids[:place] + ids[place + 1 :] for place in range(len(ids)))]
        network = [model(torch.tensor([text])).logits[0].double().numpy() for text in texts]

    def read(values):
        shared = model.config.problem_type not in ("multi_label_classification", "regression")
        return values[label] - (values.mean() if shared else 0.0)

    numbers = dict.fromkeys(WORDS, 0.0)
    for word, logits in zip(WORDS, network[1:], strict=True):
        numbers[word] += read(network[0]) - read(logits)
    table = NgramTable(**stored)
    seen = set()
    for size, first in itertools.product((1, 2, 3), range(len(ids))):
        ngram = tuple(ids[first : first + size])
        row = table.find_rows(np.array([tiny_ngrams.hash_of(ngram)]))[0]
        if len(ngram) < size or ngram in seen or row < 0:
            continue
        seen.add(ngram)
        start = sum(len(word) for word in WORDS[:first])  # places in the text without spaces
        end = start + sum(len(word) for word in WORDS[first : first + size])
        places = [place for place, letter in enumerate(TEXT) if letter != " "]
        phrase = TEXT[places[start] : places[end - 1] + 1]
        weight = stored["weight"][row].astype(float) * stored["scale"] / len(ids) ** 0.5
        numbers[phrase] = numbers.get(phrase, 0.0) + read(weight)
    return numbers


def test_numbers_are_those_of_a_walk_by_hand(folder):
    model = FastRnn.from_pretrained(folder)
    answer = model.explain(TEXT, most=100)
    because = answer.pop("because")
    assert answer == model.predict([TEXT])[0]
    expected = explain_by_hand(folder)
    assert {phrase for phrase, _ in because} == set(expected)
    for phrase, number in because:
        assert number == pytest.approx(expected[phrase], abs=2e-3), phrase
    sizes = [abs(number) for _, number in because]
    assert sizes == sorted(sizes, reverse=True)


def test_the_engines_agree(folder):
    in_c = FastRnn.from_pretrained(folder).explain(TEXT)["because"]
    model = RnnForSequenceClassification.from_pretrained(folder).eval()
    handle = model.register_forward_hook(lambda *_: None)  # a hook keeps the kernel out
    in_torch = FastRnn(model, AutoTokenizer.from_pretrained(folder)).explain(TEXT)["because"]
    handle.remove()
    assert [phrase for phrase, _ in in_c] == [phrase for phrase, _ in in_torch]
    np.testing.assert_allclose([n for _, n in in_c], [n for _, n in in_torch], atol=2e-3)


def test_the_command_prints_the_reasons(folder, tmp_path, capsys):
    lines = tmp_path / "lines.txt"
    lines.write_text(f"{TEXT}\n\nno refund\n", encoding="utf-8")
    main(["predict", str(folder), "--input", str(lines), "--explain"])
    first, empty, last = map(json.loads, capsys.readouterr().out.splitlines())
    model = FastRnn.from_pretrained(folder)
    assert first["because"] == model.explain(TEXT)["because"]
    assert last["because"] == model.explain("no refund")["because"]
    assert "because" not in empty


def test_texts_without_spaces_and_without_words(folder):
    model = FastRnn.from_pretrained(folder)
    assert model.explain("")["because"] == []
    assert [phrase for phrase, _ in model.explain("今日は")["because"]] == ["今日は"]


def test_what_cannot_be_explained(folder, tmp_path, capsys):
    table = tmp_path / "table.csv"
    table.write_text("text\nno refund\n", encoding="utf-8")
    assert main(["predict", str(folder), "--input", str(table), "--explain"]) == 2
    model = FastRnn.from_pretrained(folder)
    model.config.sep_token_id = 1
    with pytest.raises(UserError, match="pairs"):
        model.explain(TEXT)


# ---- words on their characters ----

TWEET_WORDS = (
    "the box of dry sand miro selk <user> <url> <number> soo don't ! # & \U0001f60a \u2764"
)


def make(normalizer):
    tokenizer = train_tokenizer([TWEET_WORDS], 1, normalizer=normalizer, model_max_length=512)
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "embedding_size": 8, "hidden_size": 6}
    model = RnnForSequenceClassification(RnnConfig(**sizes, num_labels=3)).eval()
    tiny_ngrams.attach(model)
    return FastRnn(model, tokenizer)


MODELS = {name: make(name) for name in ("none", "tweet", "cased")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(@me), sand", ["(", "@me", ")", ",", "sand"]),
        ("soooooo dry!!!!", ["soooooo", "dry", "!!!!"]),
        ("box&amp;sand", ["box", "&amp;", "sand"]),
        ("e\u0301gal (of", ["e\u0301gal", "(", "of"]),
    ],
)
def test_words_are_shown_as_they_were_written(text, words):
    parts = explain_spans(MODELS["tweet"], text).parts()
    assert [part for part, number in parts if number is not None] == words


HOSTILE = ["<script>alert(1)</script>", "{{value}}", '" onmouseover="x', "\u202e", "\r", "\0"]
TEXTS = st.lists(
    st.text(max_size=8)
    | st.sampled_from(
        [*TWEET_WORDS.split(), "@me", "http://t.co/x", "sooooo", "&amp;", " ", *HOSTILE]
    ),
    max_size=12,
).map("".join)


@given(text=TEXTS, name=st.sampled_from([*MODELS]))
def test_any_text_is_shown_whole_and_its_parts_add_up(text, name):
    explanation = explain_spans(MODELS[name], text)
    parts = list(explanation.parts())
    assert "".join(part for part, _ in parts) == text
    numbers = [number for _, number in parts if number is not None]
    assert sum(numbers) == pytest.approx(sum(share[2] for share in explanation.shares), abs=1e-4)


def test_a_text_that_is_not_valid_is_refused():
    with pytest.raises(UserError, match="not UTF-8 at character 2"):
        explain_spans(MODELS["none"], "a \ud800")
