"""Settings: one merge of recipe, architecture of a given model, and flags or keywords; mistakes name their place."""

import dataclasses
import datetime
import json
import re
from pathlib import Path

import datasets
import pytest
import torch
from transformers import TrainingArguments

from hf_rnn.models.configuration_rnn import RnnConfig
from hf_rnn.training.distillation import DistillationArguments
from hf_rnn.training.recipes import load_recipe
from hf_rnn.training.save import describe_settings
from hf_rnn.training.settings import (
    DataArguments,
    ModelArguments,
    OwnSettings,
    TrainerSettings,
    make_parser,
    parse,
    parse_argv,
    parse_settings,
)
from hf_rnn.training.training_arguments import RnnTrainingArguments
from hf_rnn.utils.errors import UserError


def flags(*more):
    return ["--data_dir", "texts", "--output_dir", "out", "--recipe", "scratch", *map(str, more)]


@pytest.fixture
def mine(tmp_path):
    """Write `mine.yaml` and return its path."""

    def write(content, name="mine.yaml"):
        (tmp_path / name).write_text(content)
        return str(tmp_path / name)

    return write


# ---- declaration and help ----


def test_model_arguments_are_the_settings_of_the_config():
    names = [known.name for known in dataclasses.fields(ModelArguments)]
    offered = [known.name for known in dataclasses.fields(RnnConfig) if "help" in known.metadata]
    assert sorted([*names, "vocab_size", "pad_token_id"]) == sorted(offered)
    assert dataclasses.asdict(ModelArguments()) == {name: getattr(RnnConfig(), name) for name in names}


@pytest.mark.parametrize(
    ("argv", "in_force"),
    [
        ([], {**load_recipe("default"), "recipe": "default", "hidden_size": 5}),  # that of `english`
        (["--recipe", "fast"], {**load_recipe("fast"), "recipe": "fast"}),
        (["--hidden_size", "9"], {**load_recipe("scratch"), "recipe": "scratch"}),
    ],
)
def test_the_help_shows_the_defaults_in_force(argv, in_force, capsys):
    with pytest.raises(SystemExit):
        parse_argv([*argv, "--help_all"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    options = re.split(r" (?=--)", " ".join(" ".join(lines).split()))
    shown = {option.split()[0].replace("[no_]", ""): option for option in options if "default:" in option}
    for setting, value in in_force.items():
        assert f"(default: {value})" in shown[f"--{setting}"], setting


def test_the_short_help_cuts_no_parenthesis(capsys):
    with pytest.raises(SystemExit):
        parse_argv(["--help"])
    lines = capsys.readouterr().out.split("\n  --")
    assert all(line.count("(") == line.count(")") for line in lines) and len(lines) > 20


def test_the_settings_of_the_trainer_are_those_of_its_source():
    known = {known.name: known for known in dataclasses.fields(RnnTrainingArguments)}
    for flag in dataclasses.fields(TrainerSettings):
        kind = known.pop(flag.name)
        assert flag.metadata.get("help") in (None, kind.metadata["help"])
        assert flag.default in (None, getattr(kind.default, "value", kind.default))
    assert known.keys() == {own.name for own in dataclasses.fields(OwnSettings)}


# ---- the merge ----


def test_recipe_then_file_then_flags(mine):
    path = mine("recipe: tutorial\nhidden_size: 20\nlearning_rate: 1e-1\n")
    for argv in (flags("--recipe", path, "--hidden_size", 30), ["--hidden-size=30", *flags(f"--recipe={path}")]):
        arguments = parse_argv(argv)
        assert arguments.model.num_hidden_layers == 2, "from the recipe"
        assert arguments.training.learning_rate == 0.1, "from the file; YAML itself reads 1e-1 as text"
        assert arguments.model.hidden_size == 30, "from the flag"


def test_values_of_every_type(mine):
    path = mine(
        "recipe: null\nbidirectional: false\nsparse_embedding: yes\nclass_names: [-1, 'no way', é]\n"
        "max_vocab_size: null\neval_strategy: no\nlr_scheduler_type: cosine_with_min_lr\n"
        "lr_scheduler_kwargs: {min_lr: 0.001}\nnum_train_epochs: 2.5\nmax_bad_rows: 3\n"
        "data_dir: -dash\nlanguage: [en, no]\ntags: alone\ncalibrate: true\nreport_to: [tensorboard, wandb]\n"
    )
    model, data, training = parse_argv(["--output_dir", "out", "--recipe", path])
    assert (model.bidirectional, model.sparse_embedding, data.max_bad_rows) == (False, True, "3")
    assert (data.class_names, data.max_vocab_size, data.data_dir) == (["-1", "no way", "é"], None, "-dash")
    assert (training.eval_strategy, training.language) == ("no", ["en", "no"])
    assert training.report_to == ["tensorboard", "wandb"]
    assert (training.tags, training.calibrate) == (["alone"], True)
    assert (training.lr_scheduler_kwargs, training.num_train_epochs) == ({"min_lr": 0.001}, 2.5)


def test_keywords_are_flags(tmp_path):
    given = {"data_dir": "texts", "output_dir": "out", "hidden_size": 9, "class_names": ["a", "b"], "streaming": True}
    by_name = parse_settings({**given, "recipe": "scratch"})
    by_flag = parse_argv(flags("--hidden_size", 9, "--class_names", "a", "b", "--streaming"))
    assert [dataclasses.asdict(part) for part in by_name[:2]] == [dataclasses.asdict(part) for part in by_flag[:2]]
    assert by_name.training.to_dict() == by_flag.training.to_dict()
    mapping = parse_settings({"recipe": {"recipe": "tutorial", "hidden_size": 9}, "output_dir": tmp_path / "out"})
    assert (mapping.model.hidden_size, mapping.model.num_hidden_layers) == (9, 2)
    assert (mapping.training.recipe, mapping.training.output_dir) == (None, str(tmp_path / "out"))


def test_none_resets_a_setting_of_the_recipe():
    reset = {"early_stopping_patience": None, "hidden_size": None}
    cleared = parse_settings({"output_dir": "out", "recipe": "scratch", **reset})
    assert load_recipe("scratch")["early_stopping_patience"] != 0
    assert (cleared.training.early_stopping_patience, cleared.model.hidden_size) == (None, RnnConfig().hidden_size)


@pytest.mark.parametrize(
    ("content", "given", "expected"),
    [
        ("dataset_name: me/x\ndataset_config: en", {"data_dir": "a"}, {"data_dir": "a", "dataset_config": None}),
        ("data_dir: a\nrecipe: scratch\nembedding_size: 77", {"vectors": "v.txt"}, {"embedding_size": 300}),
        ("data_dir: a\nrecipe: scratch\nvectors: v.txt\nembedding_size: 77", {}, {"embedding_size": 77}),
        (
            "data_dir: a\nmetric_for_best_model: accuracy\ngreater_is_better: true",
            {"metric_for_best_model": "loss"},
            {"greater_is_better": False},
        ),
    ],
)
def test_a_setting_removes_contradicting_ones_of_the_recipe(mine, content, given, expected):
    for arguments in (
        parse_settings({"recipe": mine(content), "output_dir": "out", **given}),
        parse_argv(
            ["--recipe", mine(content), "--output_dir=out", *(f"--{key}={value}" for key, value in given.items())]
        ),
    ):
        found = {name: value for part in arguments for name, value in vars(part).items()}
        assert {name: found[name] for name in expected} == expected


def test_a_model_to_fine_tune_brings_its_architecture(trained, mine):
    start = {"model_name_or_path": str(trained.folder), "output_dir": "out"}
    for recipe in ("tutorial", mine("cell_type: gru\nhidden_size: 77\nvectors: v.txt\n")):
        model, data, _ = parse_settings({**start, "recipe": recipe})
        assert (model.cell_type, model.hidden_size, data.vectors) == ("lstm", 8, None)
    assert parse_settings({**start, "word_dropout": 0.25}).model.word_dropout == 0.25
    for wrong in ({"hidden_size": 9}, {"recipe": {"hidden_size": 9, "model_name_or_path": str(trained.folder)}}):
        with pytest.raises(UserError, match="hidden_size .*found 9"):
            parse_settings({**start, **wrong} if "hidden_size" in wrong else {"output_dir": "out", **wrong})


@pytest.mark.parametrize(
    ("given", "recipe"),
    [
        ({"cell_type": "gru"}, "scratch"),
        ({"num_hidden_layers": 3}, "scratch"),
        ({"normalizer": "tweet"}, "scratch"),
        ({"vectors": "glove.txt"}, "best"),
        ({"recipe": "best", "tokenizer_name_or_path": "bert", "vectors": "bert"}, "blocks"),
        ({"recipe": "best", "cell_type": "lstm", "tokenizer_name_or_path": "bert", "vectors": "bert"}, "best"),
        ({"task": "token-classification", "hidden_size": 9}, "token-classification-scratch"),
        ({"cell_type": "LSTM", "hidden_size": 5}, "default"),  # those of `english`
        ({"pooling": "last"}, "default"),
    ],
)
def test_what_the_default_start_overrules_takes_another_recipe(given, recipe, caplog):
    caplog.set_level("INFO")
    parsed = parse_settings({"output_dir": "out", **given})
    assert parsed.training.recipe == recipe
    settings = {name: value for part in parsed for name, value in vars(part).items()}
    for name in given.keys() - {"recipe"}:
        assert str(settings[name]).lower() == str(given[name]).lower()
    logged = [line for line in caplog.messages if line.startswith(f"recipe {recipe}: ")]
    assert len(logged) == (recipe not in ("default", given.get("recipe")))


def test_a_named_recipe_refuses_what_it_overrules():
    for given in ({"cell_type": "gru", "recipe": "default"}, {"recipe": {"min_frequency": 1}}):
        with pytest.raises(UserError, match="english.*recipe scratch"):
            parse_settings({"output_dir": "out", **given})


def test_recipe_student_is_refused_without_vectors(mine):
    def frozen(*more):
        argv = ["--teacher", "t", "texts", "out", "--recipe", *more]
        flags = make_parser("hf-rnn distill", DistillationArguments).parse_flags(argv)
        return parse(flags, "hf-rnn distill", DistillationArguments)[0].freeze_embedding

    for recipe in ("student", mine("recipe: student\n")):
        with pytest.raises(UserError, match=r"student.yaml:\d+: freeze_embedding keeps random vectors"):
            frozen(recipe)
    assert frozen("student", "--vectors", "t") and frozen("student", "--freeze_embedding")
    assert not frozen("student", "--freeze_embedding", "false")
    assert frozen(mine("recipe: student\nfreeze_embedding: true\n"))


@pytest.mark.parametrize("argv", [["--recipe=best", "--vectors=~/glove.txt"], ["--recipe=~/mine.yaml"]])
def test_a_tilde_is_the_home_folder(argv, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("recipe: best\nvectors: ~/glove.txt\n")
    _, data, training = parse_argv(["--data_dir=texts", "--output_dir=~/out", *argv])
    assert Path(data.vectors) == tmp_path / "glove.txt" and Path(training.output_dir) == tmp_path / "out"
    assert parse_argv(flags("--tags", "~")).training.tags == ["~"]


# ---- mistakes ----


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hiden_size: 7", r"mine.yaml:2: there is no setting 'hiden_size'. Did you mean hidden_size\?"),
        ("hidden_size: many", r"mine.yaml:2: hidden_size: expected a whole number: found 'many'"),
        ("cell_type: rnn", r"mine.yaml:2: cell_type: expected one of .*lstm.* found 'rnn'"),
        ("bidirectional: perhaps", r"mine.yaml:2: bidirectional: .*true/false"),
    ],
)
def test_a_mistake_in_a_recipe_names_file_line_and_setting(mine, content, message):
    with pytest.raises(UserError, match=message):
        parse_argv(flags("--recipe", mine(f"# mine\n{content}\n")))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--hiden-size=7"], r"unknown option '--hiden-size=7'. Did you mean --hidden_size\?"),
        (["--hidden", "7"], r"unknown option '--hidden'"),  # no abbreviations
        (["--teacher", "x"], r"unknown option '--teacher': it belongs to hf-rnn distill"),
        (
            ["--recipe", "student"],
            r"student.yaml:\d+: there is no setting 'augmentations': it belongs to hf-rnn distill",
        ),
        (["stray"], r"'stray' belongs to no option"),
        (["--recipe", "tutorail"], r"Did you mean 'tutorial'"),
        (["--learning_rate", "-0.1"], r"learning_rate must be at least 0; found -0.1"),
        (["--eval_strategy", "no", "--load_best_model_at_end", "false"], r"early_stopping_patience needs"),
        (["--lr_scheduler_kwargs", "{a:1}"], r"Expecting property name.*found '{a:1}'"),
        (["--resume", "--overwrite_output_dir"], r"give one of them"),
        (["--widen_vocabulary", "9"], r"needs word vectors: .*--vectors FILE"),
    ],
)
def test_a_mistake_in_a_flag(argv, message):
    with pytest.raises(UserError, match=message):
        parse_argv(flags(*argv))


def test_a_mistake_in_a_keyword():
    with pytest.raises(UserError, match=r"train: there is no setting 'hidden_sise'. Did you mean hidden_size\?"):
        parse_settings({"hidden_sise": 3, "output_dir": "out"})
    rows = datasets.DatasetDict(train=datasets.Dataset.from_dict({"text": ["a"], "label": [0]}))
    with pytest.raises(UserError, match=r"train: data_dir: expected one value: found DatasetDict"):
        parse_settings({"output_dir": "out", "data_dir": rows})
    with pytest.raises(UserError, match="no setting 'no_baselines'. Write baselines=False"):
        parse_settings({"no_baselines": True})
    assert not parse_settings({"output_dir": "out", "baselines": False}).training.baselines


def test_a_run_without_an_output_folder_takes_a_new_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    today = datetime.date.today()
    for expected in (f"tweets-{today}", f"tweets-{today}-2"):
        assert parse_settings({"data_dir": "data/tweets"}).training.output_dir == expected
        Path(expected).mkdir()
    with pytest.raises(UserError, match="output_dir is missing: .*resume"):
        parse_settings({"data_dir": "data/tweets", "resume": True})


# ---- data ----


def test_a_limit_on_leaks_is_a_share():
    for written, share in (("1%", 0.01), ("0.01", 0.01), ("0", 0), ("100%", 1), (" 2.5 %", 0.025)):
        assert DataArguments(fail_on_leak=written).leak_limit() == pytest.approx(share)
    for wrong in ("1", "101%", "few"):
        with pytest.raises(UserError, match="fail_on_leak"):
            DataArguments(fail_on_leak=wrong)


# ---- training ----


def test_each_evaluation_is_saved_if_the_best_one_is_kept():
    settings = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 7, "save_steps": 20}
    settings |= {"output_dir": "out", "recipe": "scratch"}
    assert parse_settings(settings).training.save_steps == 7
    assert parse_settings({**settings, "load_best_model_at_end": False}).training.save_steps == 20


def test_bfloat16_works_on_a_cpu(monkeypatch):
    """The premise: the Trainer's own arguments refuse it there, unless use_cpu is given too."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: False)
    with pytest.raises(ValueError, match="use_cpu"):
        TrainingArguments(output_dir="out", bf16=True)
    arguments = RnnTrainingArguments(output_dir="out", bf16=True)
    assert (arguments.device.type, arguments.bf16) == ("cpu", True)
    assert not RnnTrainingArguments(output_dir="out").use_cpu


# ---- the record ----


def test_the_record_is_a_recipe_that_repeats_the_run(mine):
    more = ["--recipe", "tutorial", "--cell_type", "gru", "--warmup_steps", 0.1, "--class_names", "a", "b"]
    schedule = ["--lr_scheduler_type", "cosine_with_min_lr", "--lr_scheduler_kwargs", '{"min_lr": 0.001}']
    arguments = parse_argv(flags(*more, *schedule, "--accelerator_config", '{"use_seedable_sampler": false}'))
    again = parse_argv(flags("--recipe", mine(json.dumps(describe_settings(arguments)), "training_args.json")))
    assert [dataclasses.asdict(part) for part in again[:2]] == [dataclasses.asdict(part) for part in arguments[:2]]
    before, after = arguments.training.to_dict(), again.training.to_dict()
    assert {name for name in before if before[name] != after[name]} == {"recipe"}
    path = mine(json.dumps(describe_settings(parse_argv(flags()))), "training_args.json")
    again = parse_argv(flags("--recipe", path, "--seed=7")).training
    assert (again.seed, again.data_seed) == (7, 7), "another seed draws another order"


def test_the_record_has_no_secrets_and_paths(tmp_path):
    home = tmp_path / "home" / "somebody"
    home.mkdir(parents=True)
    paths = {"data_dir": home, "output_dir": home / "out", "tokenizer_name_or_path": home, "run_name": home}
    settings = {**paths, "recipe": "scratch", "hub_token": "hf_secret", "hub_model_id": "me/x"}
    record = describe_settings(parse_settings(settings))
    assert str(tmp_path) not in json.dumps(record) and "secret" not in json.dumps(record)
    assert record["data_dir"] == "somebody"


# ---- settings without effect ----


@pytest.mark.parametrize(
    ("unused", "used"),
    [
        ("--warmup_steps=0.1", "--lr_scheduler_type=linear"),
        ("--num_train_epochs=3 --max_steps=9", "--max_steps=-1"),
        (
            "--metric_for_best_model=accuracy --load_best_model_at_end=false --early_stopping_patience=0",
            "--early_stopping_patience=2 --load_best_model_at_end=true",
        ),
    ],
)
def test_given_settings_without_effect_are_logged(unused, used, caplog):
    parse_argv(flags(*unused.split()))
    (record,) = caplog.records
    assert f"no effect of {unused[2:].split('=')[0]}" in record.getMessage()
    caplog.clear()
    parse_argv(flags(*unused.split(), *used.split()))
    assert not caplog.records
