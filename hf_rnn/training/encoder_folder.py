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
from torch import nn
from transformers import PreTrainedTokenizerBase

from .. import __version__
from ..hub.model_folder import FinishedFolder
from ..models.settings_rnn import RnnSettings
from ..tokenizers.word_level import save_tokenizer
from .recipes import load_recipe
from .save import name_of_path, write_json
from .teacher_settings import PretrainingArguments
from .training_arguments import RnnTrainingArguments

_MODULES = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense", "3_Normalize": "Normalize"}
_CARD = """# {name}

A recurrent encoder of texts: {layers} layers or blocks of {cell} over {pieces:,} pieces of words, {parameters:,}
parameters. It learned the states at every token, and the sentence vectors, of `{teacher}` from {learned:,} texts
without labels ({files}).

| on {held_out:,} held-out texts | |
|---|---|
| mean cosine to the teacher's vectors minus their mean | {cosine:.3f} |
| mean cosine to its states at every token minus their mean | {token_cosine:.3f} |
| rank agreement (Spearman) of the similarities of pairs | {rank_agreement:.3f} |

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

Limits: it knows the languages and the kinds of text that it has read. They have {pieces_per_word:.2f} pieces per word.
It repeats what its teacher has learned, biases included, and follows the teacher less closely on other texts.
"""


def write_encoder(
    folder: FinishedFolder,
    encoder: Any,
    projection: nn.Linear,
    tokenizer: PreTrainedTokenizerBase,
    record: Mapping[str, Any],
    own: PretrainingArguments,
    training: RnnTrainingArguments,
) -> None:
    """Write encoder, tokenizer, modules of sentence-transformers, `pretraining.json` and card to an empty folder."""
    root, dtype = folder.root, getattr(torch, own.weights_dtype)
    encoder.to(dtype).save_pretrained(root)
    shutil.copymode(folder.config, folder.weights)
    config = json.loads(folder.config.read_text("utf-8")) | {"dtype": "float32"}  # rounded weights, exact products
    write_json(folder.config, config)
    save_tokenizer(tokenizer, root)
    _write_modules(root, projection.to(dtype), tokenizer.model_max_length)
    command = _command(encoder.config, own, training)
    content = {**record, "command": command, "versions": {"hf-rnn": __version__, "torch": version("torch")}}
    write_json(folder.pretraining, content)
    facts = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        license=training.license,
        language=training.language,
        tags=["hf-rnn", "recurrent", *(training.tags or ())],
    )
    body = _CARD.format(
        name=Path(str(training.output_dir)).resolve().name,
        layers=encoder.config.num_hidden_layers,
        cell=encoder.config.cell_type,
        pieces=encoder.config.vocab_size,
        teacher=record["teacher"]["name"],
        size=projection.out_features,
        learned=record["texts"]["learned"],
        files=", ".join(map(name_of_path, own.input or ())),
        command=command,
        **{name: record[name] for name in ("parameters", "pieces_per_word")},
        **{**record["held_out"], "held_out": record["texts"]["held_out"]},
    )
    ModelCard(f"---\n{facts.to_yaml()}\n---\n\n{body}").save(folder.card)


def _write_modules(root: Path, projection: nn.Linear, max_length: int) -> None:
    """Write pooling and projection in the format of sentence-transformers."""
    width, size = projection.in_features, projection.out_features
    dense = {"in_features": width, "out_features": size, "bias": True}
    contents = {
        "modules.json": [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for number, (path, kind) in enumerate(_MODULES.items())
        ],
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True},
        "2_Dense/config.json": {**dense, "activation_function": "torch.nn.modules.linear.Identity"},
    }
    for name, content in contents.items():
        (root / name).parent.mkdir(exist_ok=True)
        write_json(root / name, content)
    weights = {f"linear.{name}": weight.detach().contiguous() for name, weight in projection.named_parameters()}
    save_file(weights, root / "2_Dense" / "model.safetensors", metadata={"format": "pt"})


def _command(config: Any, own: PretrainingArguments, training: RnnTrainingArguments) -> str:
    """Return the command that makes such an encoder, with names in place of paths."""
    usual = load_recipe("pretrain")
    values = {field.name: getattr(own, field.name) for field in fields(own) if field.metadata.get("recorded", True)}
    given = {name: value for name, value in values.items() if value != getattr(PretrainingArguments, name)}
    for field in fields(RnnSettings):
        if (value := vars(config)[field.name]) != usual.get(field.name, field.default):
            given[field.name] = value
    given |= {name: getattr(training, name) for name in ("learning_rate", "num_train_epochs", "seed")}
    parts = ["hf-rnn", "pretrain"]
    for name, value in given.items():
        words = list(map(str, value if isinstance(value, list) else [value]))
        parts += [f"--{name}", *(map(name_of_path, words) if name in ("teacher", "input") else words)]
    return shlex.join([*parts, "--output_dir", "OUT"])
