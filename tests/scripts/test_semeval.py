"""The normalizer of the source tutorial makes its files of raw tweets."""

import importlib.util
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_rnn.tokenizers.normalizers import NORMALIZERS

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
WORD = r"[a-z'.-]*[a-z][a-z'.-]*|<<<(url|mention|hashtag|digit)>>>"


@pytest.fixture(scope="module")
def normalize():
    spec = importlib.util.spec_from_file_location("semeval", ROOT / "scripts" / "semeval.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert NORMALIZERS.pop("semeval") is module.build_semeval
    stages = {lowercase: module.build_semeval(lowercase)[0] for lowercase in (True, False)}
    return lambda text, lowercase=True: stages[lowercase].normalize_str(text).split()


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the tweets are not at {DATA}")
@pytest.mark.parametrize("split", ["train", "dev"])
def test_raw_tweets_become_the_preprocessed_rows(normalize, split):
    columns = []
    for folder in ("semeval2016_raw", "semeval2016"):
        lines = (DATA / folder / f"{split}.tsv").read_text("utf-8").split("\n")
        columns.append([line.split("\t")[0] for line in lines if line])
    pairs = list(zip(*columns, strict=True))
    same = [" ".join(normalize(raw, False)) == prepared for raw, prepared in pairs]
    assert len(pairs) > 1000 and sum(same) / len(same) > 0.995


PIECES = ["&amp;", "@ann", "#tag", "http://ex.am", ":D", "it's", "x'!", "7:40", "12", "mr.", "-"]


@given(text=st.text() | st.lists(st.sampled_from([*PIECES, " ", "é", "<<<URL>>>"])).map("".join))
def test_any_text_becomes_plain_words_and_placeholders(normalize, text):
    assert all(re.fullmatch(WORD, word) for word in normalize(text))
