"""`TextGenerator` writes what `generate` of transformers writes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from hf_rnn import RnnConfig, RnnForCausalLM, train_tokenizer
from hf_rnn.hub.model_folder import load_model
from hf_rnn.inference.generation import TextGenerator, draw_token

TEXTS = ["Anna reads a b\u00f6ok.\n", "Bob sails \U0001f642 there\n\n", "Cleo sings, to Bob"] * 3
PROMPTS = ["A", "\n", "Bob sails \U0001f642", "Cleo <eos>sings \u2717", TEXTS[0] * 9]
CELLS = {
    "blocks": {"block_type": "residual", "cell_type": "min_gru", "residual_size": 32},
    "layers": {"tie_word_embeddings": True},
}


@pytest.fixture(scope="module", params=[(kind, cell) for kind in ("char", "bpe", "word") for cell in CELLS])
def folder(request, tmp_path_factory):
    kind, cell = request.param
    folder = tmp_path_factory.mktemp("writers") / "-".join(request.param)
    options = {"lowercase": False, "tokenizer": kind, "exact": True, "min_texts": 1}
    tokenizer = train_tokenizer(TEXTS, min_frequency=1, **options)
    torch.manual_seed(1)
    settings = {"hidden_size": 24, "bidirectional": False, "num_hidden_layers": 2, "embedding_size": 12}
    model = RnnForCausalLM(RnnConfig(vocab_size=len(tokenizer), eos_token_id=2, **settings, **CELLS[cell]))
    for parameter in model.parameters():
        parameter.data *= 3  # so that a text does not repeat one token
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_greedy_texts_are_those_of_transformers(folder):
    model, tokenizer = load_model(folder)
    ways = {"torch": TextGenerator(model, tokenizer)}
    lengths = set()
    for prompt in PROMPTS:
        ids = tokenizer(prompt)["input_ids"]
        given = torch.tensor([ids])
        whole = model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=40, do_sample=False,
                               suppress_tokens=[tokenizer.unk_token_id])[0].tolist()  # fmt: skip
        lengths.add(len(whole) - len(ids))
        for name, writer in ways.items():
            pieces = list(writer.stream(writer.tokenizer([prompt])["input_ids"][0], 40, temperature=0))
            assert "".join(pieces) == tokenizer.decode(whole, skip_special_tokens=True), name
            assert len(pieces) > 2 or len(whole) < len(ids) + 5, "as it grows"
            assert not any(piece.endswith("\ufffd") for piece in pieces[:-1])
    assert max(lengths) == 40


DRAWN = [{}, {"temperature": 0.7}, {"top_k": 4}, {"top_p": 0.8}, {"temperature": 2.0, "top_k": 9, "top_p": 0.5}]


@pytest.mark.parametrize("drawn", DRAWN)
def test_tokens_are_drawn_with_the_probabilities_of_transformers(drawn):
    logits, found = np.random.default_rng(0).normal(size=50).astype(np.float32) * 3, []
    logits[[5, 6, 7]] = np.sort(logits)[-4]  # equal ones at the border of top_k
    scores = torch.tensor(logits)[None]
    for name, kind in (
        ("temperature", TemperatureLogitsWarper),
        ("top_k", TopKLogitsWarper),
        ("top_p", TopPLogitsWarper),
    ):
        if name in drawn:
            scores = kind(drawn[name])(None, scores)
    chance = SimpleNamespace(choice=lambda size, p: found.append(p) or 3)
    assert draw_token(logits, chance, **drawn) == 3
    np.testing.assert_allclose(np.sort(found[0]), np.sort(scores.softmax(-1)[0]), atol=1e-6)
    tokens = [draw_token(logits, np.random.default_rng(seed), **drawn) for seed in range(300)]
    assert all(found[0][tokens] > 0) and len(set(tokens)) > 2
    assert draw_token(logits, None, temperature=1e-9) == logits.argmax()
