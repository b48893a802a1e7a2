"""Training in two processes is training in one: the same losses, numbers and files, each row counted once.

gloo on CPUs. torch sometimes aborts such processes after all is done (`terminate called without an active
exception`), so the files they leave are looked at, not their exit codes.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import LABELS, invent_rows, write_rows

from hf_rnn.data import load_tsv
from hf_rnn.evaluation import evaluate_logits
from hf_rnn.hub import loading as model_loading
from hf_rnn.hub.model_folder import FinishedFolder
from hf_rnn.inference import reference as plain_inference
from hf_rnn.training.checkpointing import manifest as checkpoints

pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ROWS = {"train": 240, "dev": 61, "test": 67}
PER_STEP, PER_EVALUATION = 16, 8  # rows a step in all processes; rows at once in each

SETTINGS = {
    "embedding_size": 16,
    "hidden_size": 8,
    "min_frequency": 1,
    "word_dropout": 0,
    "embedding_dropout": 0,
    "num_train_epochs": 3,
    "per_device_eval_batch_size": PER_EVALUATION,
    "learning_rate": 0.02,
    "train_sampling_strategy": "sequential",
    "logging_strategy": "steps",
    "logging_steps": 1,
    "save_total_limit": 3,
}


@pytest.fixture(scope="module")
def noisy_dir(tmp_path_factory):
    """Texts of which each sixth has a label at random, so that no score is perfect."""
    folder, chance = tmp_path_factory.mktemp("noisy"), random.Random(0)
    for number, (split, count) in enumerate(ROWS.items()):
        rows = invent_rows(count, seed=number)
        rows = [(text, chance.choice(LABELS) if chance.random() < 1 / 6 else label) for text, label in rows]
        write_rows(folder / f"{split}.tsv", rows)
    return folder


def launch(processes, *arguments):
    launcher = TORCHRUN if processes == 2 else []
    command = [sys.executable, *launcher, *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def runs(noisy_dir, tmp_path_factory):
    """Of one process and of two: the finished folder and what was written to stdout."""
    found = {}
    for processes in (1, 2):
        folder = FinishedFolder(tmp_path_factory.mktemp("runs") / "model")
        settings = {**SETTINGS, "data_dir": noisy_dir, "output_dir": folder.root}
        settings["per_device_train_batch_size"] = PER_STEP // processes
        flags = [f"--{name}={value}" for name, value in settings.items()]
        # without a word of the processor: where there is no accelerator, several processes see each other all the same
        done = launch(processes, "-m", "hf_rnn", "train", *flags)
        assert folder.config.is_file(), done.stderr
        found[processes] = folder, done.stdout
    return found


def history(folder):
    """All that the run logged."""
    newest = checkpoints.list_checkpoints(folder.checkpoints)[0]
    return json.loads((newest / "trainer_state.json").read_text())["log_history"]


def logged(runs, key):
    return [[entry[key] for entry in history(runs[processes][0]) if key in entry] for processes in (1, 2)]


def test_the_same_losses_at_the_same_global_batch(runs):
    one, two = logged(runs, "loss")
    assert len(one) == 3 * ROWS["train"] / PER_STEP and one[-1] < one[0] - 0.2, "premise: it learns"
    assert two == pytest.approx(one, abs=1e-5)
    for key in ("grad_norm", "train_accuracy", "learning_rate"):
        one, two = logged(runs, key)
        assert two == pytest.approx(one, abs=1e-5), key


def test_an_evaluation_counts_each_row_once(runs):
    assert ROWS["dev"] % (2 * PER_EVALUATION) and ROWS["dev"] % PER_EVALUATION, "premise: the last batch is filled up"
    for key in ("eval_loss", "eval_accuracy", "eval_macro_f1", "eval_macro_recall"):
        one, two = logged(runs, key)
        assert len(one) == 3 and two == pytest.approx(one, abs=1e-5), key


def test_the_metrics_are_those_of_a_recount(runs, noisy_dir):
    """By the finished model of the two processes, in this one, without the Trainer."""
    folder = runs[2][0]
    model, tokenizer = model_loading.load_model(folder.root)
    texts = load_tsv(noisy_dir)
    recorded = json.loads(folder.metrics.read_text())
    for split, rows in (("validation", ROWS["dev"]), ("test", ROWS["test"])):
        logits = plain_inference.compute_logits(
            model, tokenizer, plain_inference.tokenize(tokenizer, texts[split]["text"])
        )
        expected = evaluate_logits(logits, texts[split]["label"], LABELS)
        found = recorded[split]
        assert found["rows"] == rows == sum(map(sum, found["confusion_matrix"]))
        assert found["confusion_matrix"] == expected["confusion_matrix"]
        assert 0.5 < found["accuracy"] < 1, "premise: there is something to count"
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-6)


def test_checkpoints_are_written_once_and_whole(runs):
    steps = [ROWS["train"] // PER_STEP * epoch for epoch in (1, 2, 3)]
    for processes in (1, 2):
        below = runs[processes][0].checkpoints
        assert sorted(path.name for path in below.iterdir()) == sorted(f"checkpoint-{step}" for step in steps)
        for checkpoint in below.iterdir():
            checkpoints.check_states(checkpoint, processes)


def test_the_finished_folder_is_the_same(runs):
    (one, _), (two, told) = runs[1], runs[2]
    names = [sorted(path.name for path in folder.root.iterdir()) for folder in (one, two)]
    assert names[0] == names[1]
    for path in (one.config, one.tokenizer, one.tokenizer_config):
        assert (two.root / path.name).read_bytes() == path.read_bytes()
    records = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    assert len(records) == 1 and records[0]["output_dir"] == str(two.root), "one process tells"
    (one, _), (two, _) = model_loading.load_model(one.root), model_loading.load_model(two.root)
    for name, weight in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], weight, atol=1e-4, rtol=0)


@pytest.mark.parametrize("further", [[], ['--accelerator_config={"dispatch_batches": false}']])
def test_a_stream_is_shared_out_as_a_table_is(runs, noisy_dir, tmp_path, further):
    """Batches of its rows are not padded to one length, and the rows that fill up the last are measured once."""
    folder = FinishedFolder(tmp_path / "streamed")
    settings = {**SETTINGS, "data_dir": noisy_dir, "output_dir": folder.root, "streaming": True}
    settings["per_device_train_batch_size"] = PER_STEP // 2
    flags = [f"--{name}={value}" for name, value in settings.items()]
    done = launch(2, "-m", "hf_rnn", "train", *flags, *further)
    assert folder.config.is_file(), done.stderr
    for key in ("loss", "eval_loss", "eval_macro_recall"):
        of_table = [entry[key] for entry in history(runs[1][0]) if key in entry]
        assert [entry[key] for entry in history(folder) if key in entry] == pytest.approx(of_table, abs=1e-5), key
    recorded, of_table = (json.loads(of.metrics.read_text()) for of in (folder, runs[1][0]))
    for split in ("validation", "test"):
        assert recorded[split]["rows"] == of_table[split]["rows"]
        assert recorded[split]["confusion_matrix"] == of_table[split]["confusion_matrix"]


def test_of_the_script_one_process_saves_and_tells(noisy_dir, tmp_path, monkeypatch):
    out = tmp_path / "model"
    script = Path(__file__).parents[2] / "scripts" / "train_sentiment.py"
    monkeypatch.setitem(ENVIRONMENT, "ACCELERATE_USE_CPU", "true")  # without accelerator they see each other then only
    done = launch(2, script, "--output_dir", out, "--data_dir", noisy_dir, "--num_train_epochs", "1")
    told = [line.partition("_")[0] for line in done.stdout.splitlines() if "_recall" in line and "eval_" not in line]
    assert told == ["{'validation", "{'test"], done.stderr
    assert done.stdout.count("best concert of my life") == 1
    assert "[rank1]: Traceback" not in done.stderr
    model, tokenizer = model_loading.load_model(out)
    assert len(tokenizer) == model.config.vocab_size


TRAIN_AND_READ = """
import os, sys
from pathlib import Path
from hf_rnn import train
from hf_rnn.hub.loading import load_model

result = train(data_dir=sys.argv[1], output_dir=sys.argv[2], num_train_epochs=1)
load_model(result.folder)
Path(sys.argv[2], os.environ["RANK"]).touch()
"""


def test_the_folder_is_there_when_train_returns_in_any_process(noisy_dir, tmp_path):
    (tmp_path / "read.py").write_text(TRAIN_AND_READ)
    done = launch(2, tmp_path / "read.py", noisy_dir, tmp_path / "model")
    assert {"0", "1"} <= {path.name for path in (tmp_path / "model").iterdir()}, done.stderr


ROW_COUNTS = (240, 237, 229)
DRAW_BATCHES = """
import json, sys
from pathlib import Path
from hf_rnn import RnnConfig, RnnForSequenceClassification, encode, load_tsv, train_tokenizer
from hf_rnn.training.arguments.training_arguments import RnnTrainingArguments
from hf_rnn.training.trainer import RnnTrainer

texts, out = load_tsv(sys.argv[1])["train"], Path(sys.argv[2])
tokenizer = train_tokenizer(texts["text"], min_frequency=1)
data = encode({"train": texts}, tokenizer)["train"].remove_columns("labels")
args = RnnTrainingArguments(
    str(out / "trainer"), per_device_train_batch_size=8, train_sampling_strategy="group_by_length", use_cpu=True
)
config = RnnConfig(vocab_size=len(tokenizer), embedding_size=4, hidden_size=4, num_labels=len(data))
drawn = []
for rows in map(int, sys.argv[3:]):
    numbered = data.select(range(rows)).add_column("labels", list(range(rows)))  # so that a batch tells its rows
    model = RnnForSequenceClassification(config)
    loader = RnnTrainer(model, args, train_dataset=numbered, processing_class=tokenizer).get_train_dataloader()
    for epoch in range(2):
        loader.set_epoch(epoch)
        drawn.append([batch["labels"].tolist() for batch in loader])
(out / f"{args.process_index}.json").write_text(json.dumps(drawn))
"""


def test_length_bucketed_batches_of_two_processes_hold_every_row(noisy_dir, tmp_path):
    """Each once where the rows fill the batches; else a few fill up the last round, as everywhere in accelerate."""
    (tmp_path / "draw.py").write_text(DRAW_BATCHES)
    done = launch(2, tmp_path / "draw.py", noisy_dir, tmp_path, *ROW_COUNTS)
    paths = [tmp_path / f"{process}.json" for process in (0, 1)]
    assert all(path.is_file() for path in paths), done.stderr
    first, second = (json.loads(path.read_text()) for path in paths)
    for number, rows in enumerate(ROW_COUNTS):
        orders = []
        for epoch in (2 * number, 2 * number + 1):
            assert len(first[epoch]) == len(second[epoch]), "else one would wait for the other for ever"
            seen = [row for batch in first[epoch] + second[epoch] for row in batch]
            assert set(seen) == set(range(rows))
            assert len(seen) == -(-rows // 16) * 16
            orders.append(seen)
        assert orders[0] != orders[1]


SHARD = """
import sys, torch
from pathlib import Path
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing import assert_close
from hf_rnn import RnnConfig, RnnForSequenceClassification

mesh = init_device_mesh("cpu", (2,))
ids, labels = torch.tensor([[3, 4, 5, 1], [6, 7, 8, 9]]), torch.tensor([0, 2])
for cell in ("rnn_tanh", "rnn_relu", "gru", "lstm", "min_gru"):
    torch.manual_seed(0)
    config = RnnConfig(vocab_size=10, embedding_size=6, hidden_size=4, cell_type=cell, num_labels=3)
    plain, sharded = RnnForSequenceClassification(config), RnnForSequenceClassification(config)
    sharded.load_state_dict(plain.state_dict())
    parts = [part for part in sharded.modules() if type(part).__name__ in sharded._no_split_modules]
    assert len(parts) == 1, "premise: one is sharded by itself"
    for part in [*parts, sharded]:
        fully_shard(part, mesh=mesh)
    for model in (plain, sharded):
        model(ids, labels=labels).loss.backward()
    for (name, weight), shard in zip(plain.named_parameters(), sharded.parameters(), strict=True):
        assert_close(shard.grad.full_tensor(), weight.grad, msg=f"{cell} {name}")
Path(sys.argv[1], str(torch.distributed.get_rank())).touch()
"""


def test_a_model_in_shards_has_the_gradients_of_the_whole_one(tmp_path):
    (tmp_path / "shard.py").write_text(SHARD)
    done = launch(2, tmp_path / "shard.py", tmp_path)
    assert {"0", "1"} <= {path.name for path in tmp_path.iterdir()}, done.stderr


def test_a_distillation_is_the_same_too(noisy_dir, trained, tmp_path):
    """Rows without a label count as others do, wherever they fall; one process asks the teacher, and both learn."""
    unlabeled = tmp_path / "more.txt"
    unlabeled.write_text("".join(f"{text}\n" for text, _ in invent_rows(80, seed=9)), encoding="utf-8")
    losses, taught = [], []
    for processes in (1, 2):
        folder = FinishedFolder(tmp_path / str(processes))
        settings = {**SETTINGS, "num_train_epochs": 2, "data_dir": noisy_dir, "output_dir": folder.root}
        settings |= {"teacher": trained.folder, "unlabeled": unlabeled, "augmentations": 1, "class_weight_power": 0.7}
        settings["per_device_train_batch_size"] = PER_STEP // processes
        flags = [f"--{name}={value}" for name, value in settings.items()]
        done = launch(processes, "-m", "hf_rnn", "distill", *flags, "--use_cpu")
        assert folder.config.is_file(), done.stderr
        assert done.stderr.count("of the answers are new") == 1
        losses.append([entry["loss"] for entry in history(folder) if "loss" in entry])
        taught.append(json.loads(folder.metrics.read_text())["teacher"])
    assert len(losses[0]) > 2 * (ROWS["train"] + 70) / PER_STEP and losses[0][-1] < losses[0][0] - 0.2, "premise"
    # the last step of an epoch is filled up in two processes with rows of its start
    steps = len(losses[0]) // 2 - 1
    assert losses[1][:steps] == pytest.approx(losses[0][:steps], abs=1e-5)
    assert taught[0]["rows"] == taught[1]["rows"]
