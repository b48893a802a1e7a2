"""The language model: losses in pieces, padding, `generate` against decoding without a cache."""

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from hf_rnn import RnnConfig, RnnForCausalLM
from hf_rnn.models.cells_rnn import CELLS

IDS = torch.tensor([[3, 4, 5, 9, 2, 8, 7, 3, 6, 10, 4, 2]])
PROMPTS = [[3, 4, 5], [7], [2, 2, 9, 6, 8]]
EXACT = {"atol": 1e-12, "rtol": 1e-12}


def make(cell="lstm", **settings):
    torch.manual_seed(3)
    sizes = {
        "vocab_size": 11,
        "embedding_size": 6,
        "hidden_size": 5,
        "num_hidden_layers": 2,
        "bidirectional": False,
    }
    model = RnnForCausalLM(RnnConfig(cell_type=cell, **sizes, **settings)).double().eval()
    # transformers' is in float32
    model.loss_function = lambda logits, shift_labels, **_: nn.functional.cross_entropy(
        logits.flatten(0, 1), shift_labels.flatten(), reduction="sum"
    )
    return model


def pad(texts, left):
    width = max(map(len, texts)) + 2
    rows = [
        [1] * (width - len(ids)) + ids if left else ids + [1] * (width - len(ids)) for ids in texts
    ]
    return torch.tensor(rows)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("training", [False, True])
def test_the_loss_in_pieces_is_that_of_one_pass(cell, tied, training):
    model = make(cell, tie_word_embeddings=tied).train(training)
    log_p = model(IDS).logits.log_softmax(-1)[0, :-1]
    expected = -log_p.gather(1, IDS[0, 1:, None]).sum()
    torch.testing.assert_close(model(IDS, labels=IDS).loss, expected, **EXACT)
    found, cache = 0.0, None
    for start in range(0, IDS.shape[1] - 1, 4):
        piece = slice(start, min(start + 4, IDS.shape[1] - 1))
        after = IDS[:, 1:][:, piece]
        output = model(IDS[:, :-1][:, piece], shift_labels=after, cache=cache, use_cache=True)
        found, cache = found + output.loss, output.cache
    torch.testing.assert_close(found, expected, **EXACT)
    assert cache.get_seq_length() == IDS.shape[1] - 1
    parameters = list(model.parameters())  # gradients flow through the state
    both = (torch.autograd.grad(loss, parameters) for loss in (found, expected))
    torch.testing.assert_close(*both, **EXACT)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "settings", [{}, {"tie_word_embeddings": True}, {"block_type": "residual"}], ids=str
)
def test_the_logits_are_the_output_layer_of_the_last_hidden_state(settings, training):
    """Other libraries, such as TRL, train what they compute so."""
    model, ids = make(**settings, classifier_dropout=0.4).train(training), pad(PROMPTS, left=False)
    torch.manual_seed(0)
    expected = model(ids).logits
    torch.manual_seed(0)
    states = model.base_model(ids, (ids != 1).long(), use_cache=False).last_hidden_state
    layer = model.get_output_embeddings()
    torch.testing.assert_close(states @ layer.weight.T + layer.bias, expected, **EXACT)
    shown = model.base_model(ids, output_hidden_states=True)
    assert torch.equal(shown.hidden_states[-1], shown.last_hidden_state)


@pytest.mark.parametrize("left", [False, True])
def test_padding_changes_no_logit_and_no_loss(left):
    model, ids = make(), pad(PROMPTS, left)
    logits, loss = model(ids, labels=ids).logits, model(ids, labels=ids).loss
    alone = [torch.tensor([prompt]) for prompt in PROMPTS]
    for row, prompt, whole in zip(logits, alone, ids, strict=True):
        torch.testing.assert_close(row[whole != 1], model(prompt).logits[0], **EXACT)
    torch.testing.assert_close(
        loss, sum(model(prompt, labels=prompt).loss for prompt in alone), **EXACT
    )


@pytest.mark.parametrize("block_type", ["plain", "residual"])
@pytest.mark.parametrize("cell", CELLS)
def test_greedy_text_is_that_of_whole_passes(cell, block_type):
    model, ids = make(cell, block_type=block_type), torch.tensor([PROMPTS[0]])
    expected = ids
    for _ in range(9):
        expected = torch.cat([expected, model(expected).logits[:, -1:].argmax(-1)], dim=1)
    found = model.generate(ids, do_sample=False, max_new_tokens=9)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 4}, {"num_beams": 3, "num_return_sequences": 2}]
)
def test_a_batch_continues_as_its_prompts_alone_and_as_without_cache(options):
    model, ids = make("gru"), pad(PROMPTS, left=True)
    settings = {"do_sample": False, "max_new_tokens": 7, "pad_token_id": 1, **options}
    alone = [
        model.generate(torch.tensor([prompt]), **settings)[:, len(prompt) :] for prompt in PROMPTS
    ]
    mask = (ids != 1).long()
    for use_cache in (True, False):
        found = model.generate(ids, attention_mask=mask, use_cache=use_cache, **settings)
        assert torch.equal(found[:, ids.shape[1] :], torch.cat(alone))


def test_samples_follow_the_model_and_never_are_padding():
    model = make()
    torch.manual_seed(0)
    drawn = model.generate(
        torch.tensor([[3]]).expand(4000, 1), do_sample=True, max_new_tokens=1, top_k=0
    )[:, 1]
    share = torch.bincount(drawn, minlength=11) / len(drawn)
    expected = model(torch.tensor([[3]])).logits[0, -1].softmax(-1)
    assert share[1] == 0 and expected[1] < 1e-12
    torch.testing.assert_close(share, expected.float(), atol=0.03, rtol=0)


def test_generation_continues_from_a_state():
    model, ids = make(), torch.tensor([PROMPTS[2]])
    whole = model.generate(ids, max_new_tokens=6, do_sample=False)
    options = {"cache": model(ids[:, :3]).cache, "max_new_tokens": 6, "do_sample": False}
    assert torch.equal(model.generate(ids, **options), whole)
    shown = model.generate(ids, **options, output_logits=True, return_dict_in_generate=True)
    torch.testing.assert_close(shown.logits[0], model(ids).logits[:, -1].float())
    found = model.generate(ids[:, 3:], attention_mask=torch.ones_like(ids), **options)
    assert torch.equal(found[:, 2:], whole[:, 5:])
    with pytest.raises(ValueError, match="found 2 tokens. Give generate the whole text"):
        model.generate(ids[:, 3:], **options)


def test_the_usual_decoding_loop_passes_the_whole_mask():
    model, ids = make(), pad(PROMPTS, left=True)
    mask, whole = (
        (ids != 1).long(),
        model.generate(ids, attention_mask=(ids != 1).long(), max_new_tokens=4),
    )
    inputs, cache = ids, None
    for _ in range(4):
        output = model(inputs, attention_mask=mask, cache=cache, use_cache=True)
        inputs, cache = output.logits[:, -1:].argmax(-1), output.cache
        ids, mask = torch.cat([ids, inputs], dim=1), nn.functional.pad(mask, (0, 1), value=1)
    assert torch.equal(ids, whole)
    # has such a loop
    model.generate(ids, attention_mask=mask, max_new_tokens=3, guidance_scale=1.5)


def test_generate_reads_given_vectors_once_and_forwards_arguments():
    model, ids = make(), torch.tensor([PROMPTS[2]])
    expected = model.generate(ids, max_new_tokens=5)
    vectors = model.rnn.embedding(ids)
    assert torch.equal(model.generate(inputs_embeds=vectors, max_new_tokens=5), expected[:, 5:])
    assert torch.equal(
        model.generate(input_ids=ids, inputs_embeds=vectors, max_new_tokens=5), expected
    )
    shown = model.generate(
        ids, max_new_tokens=2, output_hidden_states=True, return_dict_in_generate=True
    )
    assert [states[0].shape[1] for states in shown.hidden_states] == [5, 1]


def test_the_plain_trainer_finds_the_labels(tmp_path):
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, per_device_eval_batch_size=2)
    rows = [{"input_ids": ids, "labels": ids} for ids in IDS.expand(2, -1)]
    assert Trainer(make().float(), arguments, eval_dataset=rows).evaluate()["eval_loss"] > 0


def test_smoothed_labels_are_those_of_the_next_tokens(tmp_path):
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, label_smoothing_factor=0.1)
    model, rows = make().float(), IDS.expand(2, -1)
    loss = Trainer(model, arguments).compute_loss(model, {"input_ids": rows, "labels": rows}).item()
    scores = model(IDS).logits[0, :-1]
    expected = nn.functional.cross_entropy(scores, IDS[0, 1:], label_smoothing=0.1)
    assert loss == pytest.approx(expected.item(), abs=1e-6) and loss < 10
