"""Other people's code on the models: sentence-transformers, TRL, PEFT, type checkers."""

import ast
import copy
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import run_python
from datasets import Dataset
from transformers import pipeline

import hf_rnn
from hf_rnn import RnnConfig, RnnForCausalLM, RnnForSequenceClassification, RnnModel
from hf_rnn.models.auto import HEADS, head_class

TEXTS = ["the box stood near a door.", "a dry door and sand.", "it was there for days."] * 4
IDS = torch.tensor([[5, 7, 2, 9, 3], [4, 8, 6, 1, 1]])
SIZES = {"vocab_size": 40, "embedding_size": 8, "hidden_size": 6, "num_hidden_layers": 2}


def make(name, **settings):
    torch.manual_seed(0)
    return head_class(name)(RnnConfig(bidirectional=name != "RnnForCausalLM", **SIZES, **settings))


def measure(model):
    """Return the sum of the outputs or the loss, and its gradients."""
    torch.manual_seed(1)
    labels = (
        torch.tensor([0, 1])
        if isinstance(model, RnnForSequenceClassification)
        else torch.ones_like(IDS)
    )
    if isinstance(model, RnnModel):
        loss = model(IDS).last_hidden_state.square().sum()
    else:
        loss = model(IDS, labels=IDS if isinstance(model, RnnForCausalLM) else labels).loss
    model.zero_grad()
    loss.backward()
    return loss.detach(), [
        parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None
    ]


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("block_type", ["plain", "residual"])
@pytest.mark.parametrize("head", HEADS)
def test_recomputed_activations_change_no_gradient(head, block_type, reentrant, monkeypatch):
    dropout = {"word_dropout": 0.2, "hidden_dropout": 0.2, "recurrent_dropout": 0.2}
    model = make(head, block_type=block_type, **dropout).train()
    expected, calls = measure(model), []
    # the name before transformers 5.24
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    enable = next(getattr(model, name) for name in names if hasattr(model, name))
    enable({"use_reentrant": reentrant})
    for direction in (
        module for module in model.modules() if type(module).__name__ == "RnnDirection"
    ):
        direction.register_forward_pre_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(measure(model), expected)
    assert len(calls) == 2 * 2 * model.config.num_directions, (
        "each layer ran in forward and in backward"
    )


@pytest.mark.parametrize(
    "settings", [{}, {"bidirectional": False}, {"block_type": "residual", "residual_size": 10}]
)
def test_hidden_size_is_the_units_per_direction_on_every_path(settings, tmp_path):
    config, width = (
        RnnConfig(**SIZES, **settings),
        settings.get("residual_size") or 6 * len(settings or "ab"),
    )
    config.save_pretrained(tmp_path)
    copies = [
        RnnConfig(**config.to_dict()),
        RnnConfig(**dataclasses.asdict(config)),
        copy.deepcopy(config),
    ]
    copies += [RnnConfig.from_pretrained(tmp_path), dataclasses.replace(config, pooling="max")]
    config.hidden_size = config.hidden_size
    for same in (config, *copies):
        assert (same.hidden_size, same.to_dict()["hidden_size"], same.output_size) == (6, 6, width)
        assert "hidden_size=6" in repr(dataclasses.replace(same)) or '"hidden_size": 6' in repr(
            same
        )
        assert RnnModel(same)(IDS).last_hidden_state.shape[-1] == width
    assert RnnConfig.from_pretrained(tmp_path, hidden_size=7).hidden_size == 7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "width"), [({}, 12), ({"block_type": "residual", "residual_size": 10}, 10)]
)
def test_sentence_transformers_knows_the_width_of_the_states(settings, width, tmp_path):
    st = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.losses import SoftmaxLoss

    model, tokenizer = make("RnnModel", **settings).eval(), hf_rnn.train_tokenizer(TEXTS, 1)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = st.SentenceTransformer(str(tmp_path))
    assert (
        encoder.encode(TEXTS).shape
        == (len(TEXTS), encoder.get_embedding_dimension())
        == (12, width)
    )
    states = model(**tokenizer(TEXTS[:1], return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(
        torch.from_numpy(encoder.encode(TEXTS[:1])), states.mean(1), atol=1e-6, rtol=1e-5
    )
    loss = SoftmaxLoss(encoder, encoder.get_embedding_dimension(), num_labels=3)
    assert loss([encoder.tokenize(TEXTS), encoder.tokenize(TEXTS)], torch.arange(12) % 3).isfinite()


def make_writer(tmp_path, **settings):
    """Return a language model and its tokenizer, which `tmp_path` also holds."""
    tokenizer = hf_rnn.train_tokenizer(TEXTS, 1, tokenizer="char", exact=True)
    sizes = {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "classifier_dropout": 0.1,
    }
    torch.manual_seed(0)
    RnnForCausalLM(
        RnnConfig(bidirectional=False, **{**SIZES, **sizes, **settings})
    ).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return RnnForCausalLM.from_pretrained(tmp_path), tokenizer


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_trl_fine_tunes_the_function_that_the_model_computes(tied, tmp_path):
    trl = pytest.importorskip("trl")
    model, tokenizer = make_writer(tmp_path, tie_word_embeddings=tied)
    arguments = trl.SFTConfig(str(tmp_path / "out"), max_steps=20, learning_rate=0.03, use_cpu=True)
    rows = Dataset.from_dict({"text": TEXTS})
    trainer = trl.SFTTrainer(
        model=model, processing_class=tokenizer, train_dataset=rows, args=arguments
    )
    assert all(ids[-1] == 2 and 2 not in ids[:-1] for ids in trainer.train_dataset["input_ids"])
    batch = next(iter(trainer.get_eval_dataloader(trainer.train_dataset)))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}

    def measure():
        with torch.no_grad():
            return trainer.compute_loss(model.eval(), dict(batch)).item(), model(
                **inputs
            ).loss.item()

    before, expected = measure()
    assert before == pytest.approx(expected, abs=1e-5)
    trainer.train()
    assert arguments.gradient_checkpointing and measure()[1] < before - 0.3


def test_an_empty_prompt_continues_the_end_of_a_text(tmp_path):
    tokenizer = hf_rnn.train_tokenizer(TEXTS, 1, tokenizer="char", exact=True)
    model = make("RnnForCausalLM", eos_token_id=tokenizer.eos_token_id)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    generate = pipeline("text-generation", str(tmp_path), max_new_tokens=4, do_sample=False)
    expected = model.eval().generate(torch.tensor([[2]]), max_new_tokens=4, do_sample=False)[0, 1:]
    assert generate("")[0]["generated_text"] == tokenizer.decode(expected, skip_special_tokens=True)
    with pytest.raises(ValueError, match="bos_token_id"):
        make("RnnForCausalLM").generate(max_new_tokens=4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "head", ["RnnForSequenceClassification", "RnnForTokenClassification", "RnnForCausalLM"]
)
def test_peft_adapts_blocks(head):
    peft = pytest.importorskip("peft")
    model = make(head, block_type="residual", cell_type="min_gru").eval()
    expected = model(IDS).logits
    saved = None if head == "RnnForCausalLM" else ["classifier"]
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(target_modules="all-linear", modules_to_save=saved)
    )
    torch.testing.assert_close(adapted(input_ids=IDS).logits, expected)
    adapted(input_ids=IDS).logits.sum().backward()
    assert all(
        weight.grad is not None for name, weight in adapted.named_parameters() if "lora_B" in name
    )


@pytest.mark.slow
@pytest.mark.parametrize("head", ["RnnForSequenceClassification", "RnnForCausalLM"])
def test_peft_learns_a_prompt_of_the_width_of_the_token_vectors(head, tmp_path):
    peft = pytest.importorskip("peft")
    model = make(head)
    sizes = {
        "num_virtual_tokens": 3,
        "token_dim": model.config.embedding_size,
        "num_attention_heads": 1,
    }
    kind = "SEQ_CLS" if head == "RnnForSequenceClassification" else "CAUSAL_LM"
    prompted = peft.get_peft_model(model, peft.PromptTuningConfig(task_type=kind, **sizes))
    labels = torch.tensor([0, 1]) if kind == "SEQ_CLS" else IDS
    prompted(input_ids=IDS, attention_mask=torch.ones_like(IDS), labels=labels).loss.backward()
    assert prompted.prompt_encoder["default"].embedding.weight.grad.abs().sum() > 0


PROGRAM = """
from pathlib import Path

from hf_rnn import FastRnn, RnnClassifier, RnnConfig, RnnModel, SentenceEncoder
from hf_rnn import distill, pretrain, train

result = train(
    Path("data"), "out", recipe="fast", hidden_size=64, label_columns=["a", "b"], adam_beta2=0.9
)
train(data_dirr="data")  # MISSPELT
distill(teachr="bert")  # MISSPELT
pretrain(inputt=["a"])  # MISSPELT
RnnClassifier(hiden_size=3)  # MISSPELT
RnnClassifier.from_pretrained("out", use_cpuu=True)  # MISSPELT
classifier = RnnClassifier(hidden_size=3, random_state=0)
classifier = classifier.fit(["a", "b"], [0, 1], eval_set=(["c"], [1]))
answers = FastRnn.from_pretrained("out").predict(["so good"])
labels: list[str] = [answer["label"] for answer in answers]
FastRnn.from_pretrained("out", precision="int8").predict(["so good"])
SentenceEncoder.from_pretrained("out").encode(["so good"]).mean()

reveal_type(result.folder)
reveal_type(RnnClassifier.from_pretrained("out"))
reveal_type(FastRnn.from_pretrained("out").predict_table({"a": ["so good"]}))
reveal_type(train)
reveal_type(RnnConfig().num_directions)
reveal_type(RnnModel)
"""


@pytest.mark.slow
def test_types_reach_a_users_type_checker(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "program.py").write_text(PROGRAM)
    options = [
        "--strict",
        "--follow-imports=silent",
        "--cache-dir",
        str(tmp_path / "cache"),
        "program.py",
    ]
    # mypy does not see an editable installation, but a wheel
    environment = {**os.environ, "MYPYPATH": str(Path(hf_rnn.__file__).parents[1])}
    command = [sys.executable, "-m", "mypy", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    revealed = [
        line.partition("Revealed type is ")[2]
        for line in done.stdout.splitlines()
        if "Revealed" in line
    ]
    assert len(revealed) == 6 and revealed[4] in ('"int"', '"builtins.int"'), (
        done.stdout + done.stderr
    )
    assert not any(
        kind in ('"Any"', '"Unknown"') or kind.endswith('-> Any"') for kind in revealed
    ), done.stdout
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert all("did you mean" in line for line in errors) and len(errors) == PROGRAM.count(
        "MISSPELT"
    ), done.stdout


def test_type_checkers_see_all_names():
    tree = ast.parse(Path(hf_rnn.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    assert {alias.asname for node in block.body for alias in node.names} == {*hf_rnn.__all__} - {
        "__version__"
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "import hf_rnn",
        "import transformers.models.auto.modeling_auto, hf_rnn",
        "import hf_rnn.models.modeling_rnn",
        "from hf_rnn import RnnForTokenClassification",
    ],
)
def test_auto_classes_know_the_heads_whatever_is_imported_first(first):
    program = (
        f"{first}\nimport transformers, hf_rnn.models.auto\n"
        "sizes = dict(vocab_size=9, embedding_size=2, hidden_size=2)\n"
        "config = hf_rnn.RnnConfig(**sizes, bidirectional=False)\n"
        "for _, auto in hf_rnn.models.auto.HEADS.values():\n"
        "    print(type(getattr(transformers, auto).from_config(config)).__name__)"
    )
    assert run_python(program).split() == list(HEADS)
