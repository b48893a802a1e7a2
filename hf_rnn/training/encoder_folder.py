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
from ..models.configuration_rnn import RnnConfig
from ..models.modeling_rnn import RnnModel
from ..models.settings_rnn import RnnSettings
from ..settings.arguments import PretrainingArguments
from ..settings.recipes import load_recipe
from ..settings.training_arguments import RnnTrainingArguments
from ..tokenizers.word_level import save_tokenizer
from .save import write_json

_MODULES = {  # folder: class of sentence-transformers since 6.0
    "": "base.modules.transformer.Transformer",
    "1_Pooling": "sentence_transformer.modules.pooling.Pooling",
    "2_Dense": "base.modules.dense.Dense",
    "3_Normalize": "base.modules.normalize.Normalize",
}
_CARD = Path(__file__).parents[1] / "hub" / "card" / "encoder_card.md"


def write_encoder(
    folder: FinishedFolder,
    encoder: RnnModel,
    projection: nn.Linear,
    tokenizer: PreTrainedTokenizerBase,
    record: Mapping[str, Any],
    pretraining: PretrainingArguments,
    training: RnnTrainingArguments,
) -> None:
    """Write encoder, tokenizer, modules of sentence-transformers, `pretraining.json` and card to an empty folder."""
    root, short = folder.root, pretraining.weights_dtype == "float8"
    dtype = torch.bfloat16 if short else getattr(torch, pretraining.weights_dtype)
    weights = encoder.to(dtype).state_dict()
    if short:
        weights["embedding.weight"] = weights["embedding.weight"].to(torch.float8_e4m3fn)
    encoder.save_pretrained(root, state_dict=weights)
    shutil.copymode(folder.config, folder.weights)
    config = json.loads(folder.config.read_text("utf-8")) | {"dtype": "float32"}  # rounded weights, exact products
    write_json(folder.config, config)
    save_tokenizer(tokenizer, root)
    write_modules(root, projection.to(dtype))
    command = _command(encoder.config, pretraining, training)
    content = {**record, "command": command, "versions": {"hf-rnn": __version__, "torch": version("torch")}}
    write_json(folder.pretraining, content)
    facts = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        license=training.license,
        language=training.language,
        tags=["hf-rnn", "recurrent", *(training.tags or ())],
    )
    body = _CARD.read_text("utf-8").format(
        **encoder.config.to_dict(),
        **{name: record[name] for name in ("parameters", "pieces_per_word")},
        **{**record["held_out"], **record["texts"]},
        name=Path(str(training.output_dir)).resolve().name,
        teacher=record["teacher"]["name"],
        size=projection.out_features,
        command=command,
    )
    ModelCard(f"---\n{facts.to_yaml()}\n---\n\n{body}").save(folder.card)


def write_modules(root: Path, projection: nn.Linear) -> None:
    """Write pooling and projection in the format of sentence-transformers."""
    width, size = projection.in_features, projection.out_features
    dense: dict[str, Any] = {"in_features": width, "out_features": size, "bias": True}
    dense |= {"activation_function": "torch.nn.modules.linear.Identity"}
    states = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    vectors = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
    contents = {
        "modules.json": [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.{kind}"}
            for number, (path, kind) in enumerate(_MODULES.items())
        ],
        "config_sentence_transformers.json": {
            "default_prompt_name": None,
            "model_type": "SentenceTransformer",
            "prompts": {"document": "", "query": ""},
            "similarity_fn_name": "cosine",
        },
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction",
            "modality_config": states,
            "module_output_name": "token_embeddings",
        },
        "1_Pooling/config.json": {"embedding_dimension": width, "pooling_mode": "mean", "include_prompt": True},
        "2_Dense/config.json": {**dense, **vectors},
        "3_Normalize/config.json": vectors,
    }
    for name, content in contents.items():
        (root / name).parent.mkdir(exist_ok=True)
        write_json(root / name, content)
    weights = {f"linear.{name}": weight.detach().contiguous() for name, weight in projection.named_parameters()}
    save_file(weights, root / "2_Dense" / "model.safetensors", metadata={"format": "pt"})


def _command(config: RnnConfig, pretraining: PretrainingArguments, training: RnnTrainingArguments) -> str:
    """Return the command that makes such an encoder, with names in place of paths."""
    usual, parts = load_recipe("pretrain"), ["hf-rnn", "pretrain"]
    for known in (*fields(pretraining), *fields(RnnSettings)):
        value = getattr(pretraining if hasattr(pretraining, known.name) else config, known.name)
        if value != usual.get(known.name, known.default) and known.metadata.get("recorded", True):
            parts += [
                f"--{known.name}",
                *(Path(str(item)).name for item in (value if isinstance(value, list) else [value])),
            ]
    for name in ("learning_rate", "num_train_epochs", "seed"):
        parts += [f"--{name}", str(getattr(training, name))]
    return shlex.join([*parts, *["--bf16"] * training.bf16, "--output_dir", "OUT"])
