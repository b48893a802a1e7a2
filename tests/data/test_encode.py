"""Rows become token ids and labels, compared with the tokenizer itself."""

import copy
import re

import datasets
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast
from tsv_files import GOOD, write

from hf_rnn.data.encode import encode
from hf_rnn.data.load import load_tsv
from hf_rnn.utils.errors import UserError


@pytest.fixture(scope="module")
def tokenizer():
    words = Tokenizer(
        models.WordLevel({"<unk>": 0, "<pad>": 1, "good": 2, "bad": 3, "day": 4}, unk_token="<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<pad>")


def test_encode_gives_ids_and_labels(tmp_path, tokenizer, caplog):
    write(tmp_path / "train.tsv", GOOD * 9 + b"good good bad day night\tpositive\n")
    write(tmp_path / "dev.tsv", GOOD)
    texts = load_tsv(tmp_path)
    encoded = encode(texts, tokenizer)
    assert type(encoded) is type(texts) and list(encoded) == ["train", "validation"]
    ids = {"good day": [2, 4], "bad day": [3, 4], "good good bad day night": [2, 2, 3, 4, 0]}
    for split in texts:
        rows = [{"input_ids": ids[row["text"]], "labels": row["label"]} for row in texts[split]]
        assert list(encoded[split]) == rows
        assert encoded[split].features["labels"] == texts[split].features["label"]
    caplog.clear()
    short = list(encode(texts["train"], tokenizer, max_length=3))
    assert short[-1]["input_ids"] == [2, 2, 3] and max(len(row["input_ids"]) for row in short) == 3
    assert re.search(r"\b1 of 19 texts in train .*longer than 3 tokens", caplog.text)
    with pytest.raises(UserError, match="max_length"):
        encode(texts, tokenizer, max_length=0)
    with pytest.raises(UserError, match="'text'"):
        encode(encoded, tokenizer)


def test_truncation_is_that_of_the_tokenizer(tokenizer):
    """Special tokens at the ends are kept."""
    own = copy.deepcopy(tokenizer)
    own.backend_tokenizer.post_processor = TemplateProcessing(
        single="<pad> $A <pad>", special_tokens=[("<pad>", 1)]
    )
    own.model_max_length = 4
    texts = datasets.Dataset.from_dict({"text": ["good bad good bad", "day"], "label": [0, 1]})
    encoded = encode(texts, own)["input_ids"][:]
    assert (
        encoded == own(texts["text"][:], truncation=True)["input_ids"] == [[1, 2, 3, 1], [1, 4, 1]]
    )


@pytest.mark.parametrize(
    ("texts", "found"),
    [(["good"] * 1500 + [None], r"\[1500\].*None"), ([["good", "day"]], r"\[0\].*\['good'")],
)
def test_an_invalid_text_is_named_by_its_position(tokenizer, texts, found):
    rows = datasets.Dataset.from_dict({"text": texts})
    with pytest.raises(UserError, match="texts" + found):
        encode(rows, tokenizer)
