"""transformers' own common tests of models, configurations, tokenizers: all heads, three cells.

They are in the source distribution of transformers, which pip downloads; without it, these tests
are skipped. The tables below list those that do not apply: a test that is skipped or fails, and is
not there, fails here, and so does an excuse that no test needs. The archive lacks the tests of
`generate` (`GenerationTesterMixin`) and of exporters; `test_causal_lm_rnn.py` and
`test_modeling_rnn.py` hold those promises.
"""

import importlib
import re
import subprocess
import sys
import tarfile
import types
import unittest

import pytest
import torch
import transformers

from hf_rnn import RnnConfig, train_tokenizer
from hf_rnn.models.auto import HEADS, head_class

pytestmark = pytest.mark.slow

PACKAGE = "transformers_tests"
CASES = [  # cell, head, settings
    *(("lstm", head, {}) for head in HEADS),
    ("gru", "RnnForSequenceClassification", {"pooling": "attention"}),
    ("gru", "RnnForSequenceClassification", {"ngram_rows": 30}),
    ("gru", "RnnForSequenceClassification", {"sep_token_id": 5}),
    ("gru", "RnnForTokenClassification", {"word_forms": 16, "word_hidden_size": 4}),
    ("gru", "RnnForCausalLM", {}),
    ("min_gru", "RnnModel", {"block_type": "residual", "residual_size": 12}),
    ("min_gru", "RnnForSequenceClassification", {"block_type": "residual"}),
    ("min_gru", "RnnForTokenClassification", {"crf": True}),
    ("min_gru", "RnnForCausalLM", {"tie_word_embeddings": True}),
]
SKIPPED = {  # pattern of names: why they do not apply
    "attention|attn|sdpa|eager_matches|sliding_window|multimodal": "the models have no attention",
    "rope|position_vector": "the models have no positions",
    "moe|router|grouped": "the models have no experts",
    "encoder_decoder": "the models encode texts only",
    "composite|subconfig": "the configuration has no parts",
    "keep_in_fp32|already_mapped|reverse_loading|tp_plan": "the models do not define it",
    "capture": "hidden states are returned without hooks of transformers",
    "deepspeed|kernels|offload|model_parallelism": "needs an accelerator or a library",
    "device_context|global_device": "needs an accelerator",
    "compile|conversion_reversible": "transformers marks it as slow",
    "causal_lm_loss|bc_cache_name|shift_labels": "for language models",
    "chat_template|test_integration": "tokenizers have no template and no stored answers",
    "resize_embeddings_untied|tied": "the models do not have it",
}
EXPECTED = {  # pattern of CASE.TEST: why it fails
    r"\.test_tokenize_special_tokens$": "a special token that is typed in a text is text",
    r"RnnModel.*\.test_training": "an encoder has no loss",
    r"word_forms.*\.test_inputs_embeds": "forms of words need the tokens",
    r"ngram_rows.*\.test_inputs_embeds": "n-grams need the tokens",
    r"sep_token_id.*\.test_inputs_embeds": "the separator of a pair is a token",
    r"tie_word.*\.test_can_init_all_missing_weights$": "the bias of a tied layer starts otherwise",
    r"CausalLM.*\.test_generation_tester_mixin_inheritance$": "no tests of generate",
}


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """Return the folder of transformers' tests, of the installed version."""
    folder, name = tmp_path_factory.mktemp("source"), f"transformers=={transformers.__version__}"
    options = [
        "--no-deps",
        "--no-binary",
        "transformers",
        "--no-build-isolation",
        "--quiet",
        "--dest",
        str(folder),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, name], capture_output=True, text=True
    )
    archives = list(folder.glob("*.tar.gz"))
    if not archives:
        pytest.skip(f"pip downloads no source distribution of {name}: {done.stderr[-200:]}")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.glob("transformers-*/tests"))


@pytest.fixture(scope="session")
def common(source, request):
    """Return a function that imports a module of transformers' tests; missing modules are empty."""
    for path in source.glob("test_*.py"):
        for marker in re.findall(r"\bmark\.(\w+)", path.read_text(encoding="utf-8")):
            request.config.addinivalue_line("markers", marker)
    shared = {
        "dtype": "float16",
        "is_decoder": True,
        "id2label": {0: "label"},
        "label2id": {"label": 0},
    }
    shared |= {
        "eos_token_id": 8,
        "bos_token_id": 6,
        "problem_type": "regression",
        "output_hidden_states": True,
    }
    missing = {
        "exporters.test_export": {"ExportTesterMixin": object},
        "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
        "utils.test_configuration_utils": {"config_common_kwargs": shared},
    }
    (source / "__init__.py").touch()
    (source / "fixtures").mkdir(exist_ok=True)
    (source / "fixtures" / "sample_text.txt").write_text("This is a sample text.\n")
    modules = {PACKAGE: {"__path__": [str(source)]}}
    for name, content in missing.items():
        modules |= {
            f"{PACKAGE}.{name.split('.')[0]}": {"__path__": []},
            f"{PACKAGE}.{name}": content,
        }
    for name, content in modules.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(content)
    yield lambda name: importlib.import_module(f"{PACKAGE}.{name}")
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


class ModelTester:
    """The small model and batch that the common tests ask for."""

    batch_size, seq_length, num_hidden_layers, is_training = 3, 7, 2, True

    def __init__(self, cell, head, settings):
        self.settings = {
            "cell_type": cell,
            "bidirectional": head != "RnnForCausalLM",
            "vocab_size": 99,
            **settings,
        }
        self.settings |= {"hidden_size": 4, "num_hidden_layers": 2, "num_labels": 3}
        self.settings |= {"embedding_size": 6}
        config = self.get_config()  # the tests compare the width of the first hidden states alone
        self.hidden_size = (
            config.output_size if config.block_type == "residual" else config.embedding_size
        )

    def get_config(self):
        return RnnConfig(**self.settings)

    def prepare_config_and_inputs_for_common(self):
        ids = torch.randint(
            2, 99, (self.batch_size, self.seq_length), generator=torch.Generator().manual_seed(0)
        )
        mask = torch.ones_like(ids)
        mask[1, 5:] = 0
        return self.get_config(), {"input_ids": ids, "attention_mask": mask}


USED = set()


def run(case, where):
    """Run the tests of a `TestCase`; return how many passed, and lines of those that did not."""
    result, lines, skipped = unittest.TestResult(), [], 0
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    wrong = [
        (test, text.strip().splitlines()[-1], EXPECTED)
        for test, text in result.failures + result.errors
    ]
    for test, reason, table in [*wrong, *((test, why, SKIPPED) for test, why in result.skipped)]:
        name = f"{where}.{test.id().rpartition('.')[2]}"
        skipped += table is SKIPPED
        parts = "|".join(table).split("|")
        excuses = {
            part for part in parts if re.search(part, name if table is EXPECTED else test.id())
        }
        USED.update(excuses)
        if not excuses:
            lines.append(f"{name}: {reason}")
    return result.testsRun - skipped - len(wrong), lines


@pytest.mark.parametrize(("cell", "head", "settings"), CASES, ids=str)
def test_models(cell, head, settings, common):
    class Case(common("test_modeling_common").ModelTesterMixin, unittest.TestCase):
        all_model_classes = (head_class(head),)
        has_attentions = False
        test_can_init_all_missing_weights_before_2023 = True

        def setUp(self):
            self.model_tester = ModelTester(cell, head, settings)

        def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
            inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
            # transformers knows the labels of its own classes only
            if return_labels and head != "RnnModel":
                shape = (3,) if head == "RnnForSequenceClassification" else (3, 7)
                inputs["labels"] = torch.zeros(shape, dtype=torch.long)
            return inputs

    passed, lines = run(Case, f"{cell}-{head}-{settings}")
    assert not lines, "\n".join(lines)
    assert passed > 60


def test_configurations(common):
    module = common("test_configuration_common")

    class Case(unittest.TestCase):
        def test_common(self):
            names = ["hidden_size", "num_hidden_layers", "eos_token_id", "bos_token_id"]
            module.ConfigTester(
                self, config_class=RnnConfig, common_properties=names
            ).run_common_tests()

    assert run(Case, "config") == (1, [])


@pytest.mark.parametrize("kind", ["word", "char", "bpe"])
def test_tokenizers(kind, common, tmp_path):
    texts = [
        "This is the first sentence.\n",
        "This sentence (contains #) over symbols and numbers 12 3.\n",
    ]
    size = 300 if kind == "bpe" else None
    tokenizer = train_tokenizer(
        texts, 1, size, lowercase=False, tokenizer=kind, exact=True, model_max_length=512
    )
    tokenizer.save_pretrained(tmp_path)

    class Case(common("test_tokenization_common").TokenizerTesterMixin, unittest.TestCase):
        tokenizer_class = rust_tokenizer_class = type(tokenizer)
        from_pretrained_id = str(tmp_path)
        test_sentencepiece = False

    passed, lines = run(Case, kind)
    assert not lines, "\n".join(lines)
    assert passed > 30


def test_no_excuse_is_stale(common):
    stale = set("|".join([*SKIPPED, *EXPECTED]).split("|")) - USED
    assert not stale, ", ".join(sorted(stale))
