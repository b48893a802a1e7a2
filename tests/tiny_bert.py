"""A BERT of a few pieces, whose table is known, as a source of vectors."""

import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film", "un", "##seen", "##k"]
PIECES += ["mention", "##film", "<", ">", ":", ")"]


def make_bert(folder):
    """Leave in a folder a BERT whose pieces have 8 numbers each, and return its table."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 8,
        }
        model = BertModel(BertConfig(vocab_size=len(PIECES), max_position_embeddings=16, **sizes))
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return model.get_input_embeddings().weight.detach().clone()
