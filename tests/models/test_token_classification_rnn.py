"""The tagger's contract: padding, the exact conditional random field, saving."""

import itertools
from zlib import crc32

import pytest
import torch
from accelerate import cpu_offload
from test_modeling_rnn import TEXTS, TOLERANCE, pad_right
from transformers import AutoModelForTokenClassification

from hf_rnn import RnnConfig, RnnForTokenClassification
from hf_rnn.models.crf_rnn import Crf

# the tokens 3, 5, 8 and 11 continue a word, and the mark 4 belongs to the word after it
VOCABULARY = ["<unk>", "<pad>", "▁a", "b", "▁⇧", "ce", "▁d", "▁e", "f", "▁Gh", "▁9", "i", "▁j"]
TAGS = ("O", "B-a", "I-a", "B-b", "I-b")


def make(**settings):
    torch.manual_seed(3)
    sizes = {"vocab_size": 13, "embedding_size": 6, "hidden_size": 5, "word_hidden_size": 4}
    config = {**sizes, "id2label": dict(enumerate(TAGS)), **settings}
    model = RnnForTokenClassification(RnnConfig(**config)).eval()
    for weight in model.crf.parameters() if config.get("crf") else ():
        torch.nn.init.normal_(weight)
    if model.words is not None:
        model.words.read(VOCABULARY)
    return model


@pytest.mark.parametrize("crf", [False, True])
@pytest.mark.parametrize("word_forms", [0, 64])
@pytest.mark.parametrize(
    ("cell", "block"), [("gru", "plain"), ("lstm", "plain"), ("min_gru", "residual")]
)
def test_padding_changes_no_answer(cell, block, word_forms, crf):
    model = make(crf=crf, cell_type=cell, block_type=block, word_forms=word_forms)
    ids, mask = pad_right(TEXTS, extra=2)
    left = ids.flip(1), mask.flip(1)  # each text reversed, padding first
    labels = torch.randint(0, 5, ids.shape).masked_fill(mask == 0, -100)
    whole = model(ids, mask, labels=labels)
    losses, words = [], []
    for row, text in enumerate(TEXTS):
        alone = model(torch.tensor([text]), labels=labels[row : row + 1, : len(text)])
        torch.testing.assert_close(whole.logits[row, : len(text)], alone.logits[0], **TOLERANCE)
        reverse, padded = model(torch.tensor([text[::-1]])).logits[0], model(*left).logits[row]
        torch.testing.assert_close(padded[-len(text) :], reverse, **TOLERANCE)
        assert not whole.logits[row, len(text) :].any()
        words.append(
            sum(
                place == 0 or (text[place - 1] != 4 and VOCABULARY[token][0] == "▁")
                # fmt: skip
                for place, token in enumerate(text)
            )
            if word_forms
            else len(text)
        )
        losses.append(alone.loss * words[-1])
    torch.testing.assert_close(whole.loss, sum(losses) / sum(words), **TOLERANCE)
    holes, full = torch.tensor([[1, 0, 1, 1]]), torch.tensor([[5, 9, 7, 3]])
    torch.testing.assert_close(
        model(full, holes).logits[:, [0, 2, 3]], model(full[:, [0, 2, 3]]).logits, **TOLERANCE
    )


def enumerate_taggings(crf, emissions):
    """Return each tagging of a text with its score, by the definition."""
    for tags in itertools.product(range(emissions.shape[1]), repeat=len(emissions)):
        score = (
            crf.first[tags[0]]
            + crf.last[tags[-1]]
            + sum(emissions[place, tag] for place, tag in enumerate(tags))
        )
        yield tags, score + sum(crf.transitions[pair] for pair in itertools.pairwise(tags))


def is_valid(tags):
    before = "O"
    for name in (TAGS[tag] for tag in tags):
        if name[0] == "I" and before[2:] != name[2:]:
            return False
        before = name
    return True


def test_loss_and_best_tagging_equal_those_of_all_taggings():
    torch.manual_seed(0)
    crf, emissions = Crf(5).requires_grad_(False), 2 * torch.randn(4, 3, 5)
    for weight in crf.parameters():
        weight.normal_()
    valid = torch.tensor(
        [[True, True, True], [True, True, False], [True, True, False], [True, False, False]]
    )
    # one is not known
    labels = torch.tensor([[0, 1, 4], [3, 2, -100], [4, -100, -100], [0, -100, -100]])
    losses, best = crf.losses(emissions, labels, valid), crf.best_scores(emissions, valid, TAGS)
    for text, length in enumerate((4, 3, 1)):
        scored = dict(enumerate_taggings(crf, emissions[:length, text]))
        known = labels[:length, text].tolist()
        agree = [
            score
            for tags, score in scored.items()
            if all(b in (a, -100) for a, b in zip(tags, known, strict=True))
        ]
        expected = torch.stack(list(scored.values())).logsumexp(0) - torch.stack(agree).logsumexp(0)
        torch.testing.assert_close(losses[text], expected, atol=1e-4, rtol=1e-5)
        scored = {tags: score for tags, score in scored.items() if is_valid(tags)}
        top = max(scored, key=scored.get)
        assert best[:length, text].argmax(-1).tolist() == list(top)
        for place, tag in itertools.product(range(length), range(5)):
            through = [score for tags, score in scored.items() if tags[place] == tag]
            if through:
                torch.testing.assert_close(
                    best[place, text, tag], max(through) - scored[top], atol=1e-4, rtol=1e-5
                )
            else:
                assert best[place, text, tag] < -1000


def test_long_texts_keep_the_digits_of_their_scores():
    """A conditional random field in float64; sums over 3,000 tokens in float32 were 1e-3 off."""
    torch.manual_seed(0)
    crf, emissions, valid = (
        Crf(5).requires_grad_(False),
        5 * torch.randn(3000, 1, 5),
        torch.ones(3000, 1).bool(),
    )
    exact = crf.double().best_scores(emissions.double(), valid, TAGS)
    torch.testing.assert_close(
        crf.float().best_scores(emissions, valid, TAGS), exact.float(), atol=1e-4, rtol=1e-6
    )


def test_gradients_of_the_loss_are_finite_for_extreme_scores():
    crf = Crf(3)
    torch.nn.init.constant_(crf.transitions, -80.0)
    emissions = (1e3 * torch.randn(5, 2, 3)).requires_grad_()
    crf.losses(
        emissions, torch.zeros(5, 2, dtype=torch.long), torch.ones(5, 2, dtype=torch.bool)
    ).sum().backward()
    assert emissions.grad.isfinite().all() and crf.transitions.grad.isfinite().all()


def test_the_tokens_of_a_word_have_one_tag():
    # ⇧dbce a ji
    model, tokens = make(crf=True, word_forms=64), torch.tensor([[4, 6, 3, 5, 2, 12, 11]])
    with torch.no_grad():
        model.classifier.bias[1] = 50.0  # every word begins an entity of a
    assert model(tokens).logits.argmax(-1).tolist() == [[1, 2, 2, 2, 1, 1, 2]]


def test_a_word_has_the_states_of_its_tokens_and_its_form():
    model, ids, seen = make(word_forms=64), torch.tensor([[4, 6, 3, 5, 2]]), []  # ⇧dbce a
    words = model.words
    words.dropout.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, 0]))
    model(ids)
    states = model.rnn(ids[:, 1:]).last_hidden_state[0]  # the encoder does not read the mark
    codes = [crc32(VOCABULARY[token].encode()) for token in (6, 3, 5)]
    rows = [*words.forms[6, :5], *words.forms[5, 5:], words.forms[4, 0]]
    rows.append(sum(c * (2 * i + 1) for i, c in enumerate(codes)) % 64)
    form = words.table.weight[[int(row) for row in rows]].sum(0)
    torch.testing.assert_close(seen[0][0], torch.cat([states[2, :5], states[0, 5:], form]))
    torch.testing.assert_close(seen[0][1, :10], states[3])


def test_a_new_head_and_new_tokens_have_no_forms_yet(tmp_path):
    """Buffers that no checkpoint has are initialised, and grow with the vocabulary."""
    make().rnn.save_pretrained(tmp_path)
    model = AutoModelForTokenClassification.from_pretrained(
        tmp_path, word_forms=64, word_hidden_size=4
    )
    assert (
        model.words.kinds.eq(1).all()
        and not model.words.codes.any()
        and not model.words.forms.any()
    )
    model.words.read(VOCABULARY)
    before = model(torch.tensor([[4, 6, 3]])).logits
    model.resize_token_embeddings(15, mean_resizing=False)
    torch.testing.assert_close(model(torch.tensor([[4, 6, 3]])).logits, before)
    assert model(torch.tensor([[14, 6]])).logits.isfinite().all()
    model.words.read([*VOCABULARY, "▁new", "er"])
    assert model.words.kinds[13:].tolist() == [1, 0]


@pytest.mark.parametrize("offload_buffers", [False, True])
def test_offloaded_weights_give_the_same_answers(offload_buffers):
    model, ids = make(word_forms=64, crf=True), torch.tensor([[4, 6, 3, 5, 2]])
    expected = model(ids).logits
    torch.testing.assert_close(
        cpu_offload(model, "cpu", offload_buffers=offload_buffers)(ids).logits, expected
    )


@pytest.mark.slow
def test_torch_export():
    model = make(word_forms=64, crf=True)
    program = torch.export.export(model, (torch.tensor([[4, 6, 3, 5, 2]]),), strict=False).module()
    other = torch.tensor([[2, 6, 4, 5, 1]])
    torch.testing.assert_close(program(other).logits, model(other).logits)
