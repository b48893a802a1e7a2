"""Write a pretrained encoder: an ordinary model folder that sentence-transformers loads too, and its card."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelCardData
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase

from ... import __version__
from ...hub.model_folder import FinishedFolder
from ...models.configuration_rnn import RnnConfig
from ...models.settings_rnn import RnnSettings
from ...tokenizers.word_level import save_tokenizer
from ..recipes import load_recipe
from ..save import name_of_path, write_json
from ..settings import PretrainingArguments
from ..training_arguments import RnnTrainingArguments
from .student import EncoderStudent

METRICS = "pretraining.json"
_MODULES = (
    ("", "sentence_transformers.models.Transformer"),
    ("1_Pooling", "sentence_transformers.models.Pooling"),
    ("2_Dense", "sentence_transformers.models.Dense"),
    ("3_Normalize", "sentence_transformers.models.Normalize"),
)
_CARD = """# {name}

A recurrent encoder of texts: {network}, over
{pieces:,} word pieces, {parameters:,} parameters. It learned {objective}
of `{teacher}` from {learned:,} texts without labels ({files}).

| on {held_out:,} held-out texts | |
|---|---|
| mean cosine to the teacher's vectors | {cosine:.3f} |{token_row}
| rank agreement (Spearman) of the similarities of pairs | {rank:.3f} |

It is a start for classifiers and other heads of the package `hf-rnn`:

```bash
hf-rnn train --model_name_or_path {name} --data_dir DATA --output_dir OUT
```

It also gives sentence vectors of {size} numbers:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{name}", trust_remote_code=True)
vectors = model.encode(["so good", "so bad"])
```

Made with

```bash
{command}
```

Limits: it knows the language and the kind of texts that it has read. They have {pieces_per_word:.2f} pieces per word.
It repeats what its teacher has learned, biases included, and follows the teacher less closely on other texts.
"""


def write_encoder(
    folder: FinishedFolder,
    model: EncoderStudent,
    tokenizer: PreTrainedTokenizerBase,
    record: Mapping[str, Any],
    own: PretrainingArguments,
    training: RnnTrainingArguments,
) -> None:
    """Write encoder, tokenizer, modules of sentence-transformers, `pretraining.json` and card to an empty folder."""
    encoder, root = model.rnn, folder.root
    dtype = getattr(torch, own.weights_dtype)
    encoder.to(dtype).save_pretrained(root)
    shutil.copymode(folder.config, folder.weights)
    config = json.loads(folder.config.read_text("utf-8")) | {"dtype": "float32"}  # rounded weights, exact products
    write_json(folder.config, config)
    save_tokenizer(tokenizer, root)
    _write_modules(root, model, tokenizer.model_max_length, dtype)
    command = _command(encoder.config, own, training)
    content = {**record, "command": command, "versions": {"hf-rnn": __version__, "torch": version("torch")}}
    write_json(root / METRICS, content)
    settings = encoder.config
    facts = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        license=training.license,
        language=training.language,
        tags=["hf-rnn", "recurrent", *(training.tags or ())],
    )
    texts, held_out = record["texts"], record["held_out"]
    token_cosine = held_out.get("token_cosine")
    body = _CARD.format(
        name=Path(str(training.output_dir)).resolve().name,
        network=_describe(settings),
        objective="the states at every token, and the sentence vectors," if token_cosine else "the sentence vectors",
        token_row=f"\n| mean cosine to its states at every token | {token_cosine:.3f} |" if token_cosine else "",
        pieces=settings.vocab_size,
        parameters=record["parameters"],
        teacher=record["teacher"]["name"],
        size=record["teacher"]["vector_size"],
        learned=texts["learned"],
        held_out=texts["held_out"],
        files=", ".join(map(name_of_path, own.input)) if own.input else f"data set {own.dataset_name}",
        cosine=held_out["cosine"],
        rank=held_out["rank_agreement"],
        command=command,
        pieces_per_word=record["pieces_per_word"],
    )
    ModelCard(f"---\n{facts.to_yaml()}\n---\n\n{body}").save(folder.card)


def _describe(config: RnnConfig) -> str:
    """Return the network in words."""
    cell = f"{'bidirectional' if config.bidirectional else 'one-directional'} {config.cell_type}"
    many = "s" * (config.num_hidden_layers > 1)
    if config.block_type == "residual":
        return f"{config.num_hidden_layers} residual block{many} of width {config.stream_size} around a {cell}"
    return f"{cell} of {config.num_hidden_layers} layer{many} with {config.hidden_size} units per direction"


def _write_modules(root: Path, model: EncoderStudent, max_length: int, dtype: torch.dtype) -> None:
    """Write pooling and projection in the format of sentence-transformers."""
    weight, bias = model.projection.weight.detach(), model.projection.bias.detach()
    modes = {"mean_tokens": True, "cls_token": False, "max_tokens": False, "mean_sqrt_len_tokens": False}
    pooling = {f"pooling_mode_{mode}": on for mode, on in modes.items()}
    dense = {
        "in_features": weight.shape[1],
        "out_features": weight.shape[0],
        "bias": True,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    contents = {
        "modules.json": [
            {"idx": number, "name": str(number), "path": path, "type": kind}
            for number, (path, kind) in enumerate(_MODULES)
        ],
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": weight.shape[1], **pooling},
        "2_Dense/config.json": dense,
    }
    for name, content in contents.items():
        (root / name).parent.mkdir(exist_ok=True)
        write_json(root / name, content)
    weights = {"linear.weight": weight.to(dtype).contiguous(), "linear.bias": bias.to(dtype)}
    save_file(weights, root / "2_Dense" / "model.safetensors", metadata={"format": "pt"})


def _command(config: Any, own: PretrainingArguments, training: RnnTrainingArguments) -> str:
    """Return the command that makes such an encoder, with names in place of paths."""
    parts = ["hf-rnn", "pretrain", "--teacher", name_of_path(str(own.teacher))]
    parts += ["--input", *map(name_of_path, own.input)] if own.input else ["--dataset_name", str(own.dataset_name)]
    for name in ("split_words", "max_texts", "max_vocab_size"):
        if (value := getattr(own, name)) is not None:
            parts += [f"--{name}", str(value)]
    usual = load_recipe("pretrain")
    if own.objective != "tokens":
        parts += ["--objective", own.objective]
    for field in fields(RnnSettings):
        name, value = field.name, getattr(config, field.name)
        if field.metadata.get("start") == "shape" and value != usual.get(name, field.default):
            parts += [f"--{name}", str(value)]
    parts += ["--learning_rate", str(training.learning_rate), "--num_train_epochs", f"{training.num_train_epochs:g}"]
    return shlex.join([*parts, "--seed", str(training.seed), "--output_dir", "OUT"])
