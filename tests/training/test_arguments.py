"""Settings become typed arguments by one way only; recipe < YAML < flags; a mistake names its place."""

import dataclasses
import importlib.util
import json
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from transformers import SchedulerType, Trainer, TrainingArguments
from transformers.trainer_utils import IntervalStrategy
from transformers.training_args import OptimizerNames

from hf_rnn.data import load_named
from hf_rnn.data.vectors import load_vectors
from hf_rnn.hub.push import push
from hf_rnn.inference.onnx.runtime import OnnxClassifier
from hf_rnn.models.configuration_rnn import RnnConfig
from hf_rnn.tokenizers.word_level import train_tokenizer
from hf_rnn.training.arguments.run_arguments import (
    ModelArguments,
    parse_argv,
    parse_argv_with,
    parse_settings,
    parse_settings_with,
)
from hf_rnn.training.arguments.text_arguments import DataArguments, TableArguments
from hf_rnn.training.arguments.training_arguments import RnnTrainingArguments
from hf_rnn.training.checks import check_early
from hf_rnn.training.distillation import DistillationArguments
from hf_rnn.training.distillation.ensemble import Teachers
from hf_rnn.training.recipes import load_recipe
from hf_rnn.training.settings_record import describe_settings
from hf_rnn.utils.errors import UserError


def flags(*more):
    return ["--data_dir", "texts", "--output_dir", "out", *more]


def own_settings():
    """The fields that RnnConfig itself declares, told from its source rather than from the generated class."""
    return [
        name for name in RnnConfig.__annotations__ if name in {field.name for field in dataclasses.fields(RnnConfig)}
    ]


def test_model_arguments_are_the_settings_of_the_config():
    names = [field.name for field in dataclasses.fields(ModelArguments)]
    assert names == [name for name in own_settings() if name not in ("vocab_size", "pad_token_id", "model_type")]
    config = RnnConfig()
    assert dataclasses.asdict(ModelArguments()) == {name: getattr(config, name) for name in names}
    assert all(field.metadata["help"] for field in dataclasses.fields(ModelArguments))


def test_each_flag_is_declared_once():
    ours = [field.name for kind in (ModelArguments, TableArguments) for field in dataclasses.fields(kind)]
    theirs = [field.name for field in dataclasses.fields(TrainingArguments)]
    assert len({*ours, *theirs}) == len(ours) + len(theirs)


def help_of(capsys, *argv):
    """The help by flag, its lines joined."""
    with pytest.raises(SystemExit):
        parse_argv(argv)
    told = {}
    for line in capsys.readouterr().out.splitlines():
        if match := re.match(r"  (?:-\w, )?(--\w+)", line):
            told[flag := match[1]] = line
        elif told:
            told[flag] += " " + line.strip()
    return told


@pytest.mark.parametrize(("argv", "name"), [([], "default"), (["--recipe", "fast"], "fast")])
def test_the_help_shows_what_a_run_would_take(argv, name, capsys):
    told = help_of(capsys, *argv, "--help")
    recipe = load_recipe(name)
    assert len(recipe) > 10 and f"(default: {name})" in told["--recipe"]
    for flag, value in recipe.items():
        assert f"(default: {value})" in told[f"--{flag}"]
    arguments = parse_argv(flags(*argv))
    assert f"(default: {arguments.model.pooling})" in told["--pooling"], "premise: set by no recipe"
    assert "bidirectional false" in told["--no_bidirectional"] and "default" not in told["--no_bidirectional"]


@pytest.mark.parametrize("value", ["--overwrite_output_dir", "-neg"])
def test_a_value_of_several_is_never_a_flag(value):
    settings = {"data_dir": "x", "output_dir": "y", "class_names": ["pos", value]}
    with pytest.raises(UserError, match=f"class_names: {value!r} cannot be one of several values"):
        parse_settings(settings)
    numbers = parse_settings({**settings, "class_names": ["-1", "1"]}).data.class_names
    assert numbers == ["-1", "1"]


def test_a_negated_flag_is_that_flag_with_false():
    assert not parse_argv(flags("--no_bidirectional")).model.bidirectional
    assert parse_argv(flags()).model.bidirectional
    assert parse_argv(flags("--no_baselines")).data == parse_argv(flags("--baselines", "false")).data


def test_without_a_recipe_it_is_default():
    arguments = parse_argv(flags())
    recipe = load_recipe("default")
    assert arguments.training.recipe == "default"
    assert arguments.model.hidden_size == recipe["hidden_size"] != RnnConfig().hidden_size
    assert arguments.training.class_weight_power == recipe["class_weight_power"] > 0
    assert (arguments.data.data_dir, arguments.training.output_dir) == ("texts", "out")


def test_recipe_then_file_then_flags(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("recipe: tutorial\nhidden_size: 20\nlearning_rate: 1e-1\n")
    arguments = parse_argv(flags("--recipe", str(path), "--hidden_size", "30"))
    assert arguments.model.num_hidden_layers == 2  # of the recipe
    assert arguments.training.learning_rate == 0.1  # of the file; YAML itself reads 1e-1 as text
    assert arguments.model.hidden_size == 30  # of the flag
    early = parse_argv(["--hidden_size", "30", *flags(f"--recipe={path}")])
    assert early.model.hidden_size == 30, "wherever the recipe stands"


def test_values_of_every_kind(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "recipe: null\nbidirectional: false\nsparse_embedding: yes\nclass_names: [-1, 'no way', é]\n"
        "max_vocab_size: null\neval_strategy: no\nlr_scheduler_type: cosine_with_min_lr\n"
        "lr_scheduler_kwargs: {min_lr: 0.001}\nnum_train_epochs: 2.5\nreport_to: [none]\n"
        "logging_strategy: 'no'\ndata_dir: -dash\nlanguage: [en, no]\ntags: [yes, null, true]\n"
    )
    model, data, training = parse_argv(["--output_dir", "out", "--recipe", str(path)])
    assert (model.bidirectional, model.sparse_embedding) == (False, True)
    assert (data.class_names, data.max_vocab_size, data.data_dir) == (["-1", "no way", "é"], None, "-dash")
    assert (training.eval_strategy, training.logging_strategy, training.report_to) == ("no", "no", [])
    assert (training.language, training.tags) == (["en", "no"], ["yes", "None", "true"])
    assert (training.lr_scheduler_kwargs, training.num_train_epochs) == ({"min_lr": 0.001}, 2.5)


def test_switching_off_what_a_recipe_switches_on():
    assert parse_argv(flags("--no_bidirectional")).model.bidirectional is False
    assert parse_argv(flags("--bidirectional", "false")).model.bidirectional is False
    assert parse_argv(flags("--early_stopping_patience", "0")).training.early_stopping_patience == 0


def test_settings_by_name_take_the_same_way():
    by_name = parse_settings(
        {"data_dir": "texts", "output_dir": "out", "hidden_size": 9, "class_names": ["a", "b"], "header": True}
    )
    by_flag = parse_argv(flags("--hidden_size", "9", "--class_names", "a", "b", "--header"))
    assert [dataclasses.asdict(part) for part in by_name[:2]] == [dataclasses.asdict(part) for part in by_flag[:2]]
    assert by_name.training.to_dict() == by_flag.training.to_dict()


def test_none_by_name_forgets_the_recipe():
    usual = parse_settings({"output_dir": "out"})
    cleared = parse_settings({"output_dir": "out", "early_stopping_patience": None, "hidden_size": None})
    recipe = load_recipe("default")
    expected = (recipe["early_stopping_patience"], recipe["hidden_size"])
    assert (usual.training.early_stopping_patience, usual.model.hidden_size) == expected
    assert None not in expected, "premise: the recipe sets both"
    assert (cleared.training.early_stopping_patience, cleared.model.hidden_size) == (None, RnnConfig().hidden_size)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cell_type: {a: 1}", r"mine.yaml:2: cell_type: one value is wanted, found {'a': 1}"),
        ("hiden_size: 7", r"mine.yaml:2: there is no setting 'hiden_size'. Did you mean hidden_size\?"),
        ("hidden_size: many", r"mine.yaml:2: hidden_size: invalid int value: 'many'"),
        ("hidden_size: [1, 2]", r"mine.yaml:2: hidden_size"),
        ("cell_type: rnn", r"mine.yaml:2: cell_type: invalid choice: 'rnn'"),
        ("bidirectional: perhaps", r"mine.yaml:2: bidirectional: .*perhaps"),
        ("output_dir: [a, b]", r"mine.yaml:2: output_dir"),
    ],
)
def test_a_mistake_in_a_file_names_file_line_and_setting(tmp_path, content, message):
    path = tmp_path / "mine.yaml"
    path.write_text(f"# mine\n{content}\n")
    with pytest.raises(UserError, match=message):
        parse_argv(flags("--recipe", str(path)))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--hiden_size", "7"], r"unknown option '--hiden_size'. Did you mean --hidden_size\?"),
        (["--hiden-size=7"], r"Did you mean --hidden_size\?"),
        (
            ["--hidden", "7"],
            r"unknown option '--hidden'",
        ),  # no abbreviations: they would change meaning with each new flag
        (["--recipe", ""], r"there is no recipe ''"),
        (["stray"], r"'stray' belongs to no option"),
        (["--hidden_size", "many"], r"hidden_size.*invalid int value: 'many'"),
        (["--hidden_size"], r"hidden_size.*expected one argument"),
        (["--recipe"], r"--recipe: expected one argument"),
        (["--recipe", "tutorail"], r"Did you mean 'tutorial'"),
        (["--class_weight_power", "-1"], r"class_weight_power must be finite and not negative, found -1"),
        (["--early_stopping_patience", "-1"], r"early_stopping_patience must be 0"),
        (["--seed", "-1"], r"seed must be from 0"),
        (["--per_device_train_batch_size", "0"], r"per_device_train_batch_size must be greater than 0"),
        (["--per_device_train_batch_size", "99999999999999999999"], r"must be less than 2\*\*31, found 9"),
        (["--per_device_eval_batch_size", "2147483648"], r"must be less than 2\*\*31, found 2147483648"),
        (["--warmup_steps", "inf"], r"warmup_steps must be finite and not negative, found inf"),
        (["--warmup_steps", "nan"], r"warmup_steps must be finite and not negative, found nan"),
        (["--max_steps", "-5"], r"max_steps must be greater than 0, or -1 .*, found -5"),
        (["--logging_steps=-inf"], r"logging_steps must be finite, found -inf"),
        (["--eval_steps", "inf"], r"eval_steps must be finite, found inf"),
        (["--neftune_noise_alpha", "1e300"], r"neftune_noise_alpha must be finite .* in float32, found 1e\+300"),
        (["--num_train_epochs", "nan"], r"num_train_epochs must be greater than 0, found nan"),
        (["--learning_rate", "-0.1"], r"learning_rate must be finite and not negative"),
        (["--eval_strategy", "no", "--load_best_model_at_end", "false"], r"early_stopping_patience needs"),
        (["--eval_strategy", "no"], r"load_best_model_at_end to false, and early_stopping_patience to 0"),
        (["--save_strategy", "no"], r"no epoch to go back to: set load_best_model_at_end to false"),
        (["--save_strategy", "steps"], r"save and eval strategy to match"),  # the Trainer's own check
        (["--logging_strategy", "steps", "--logging_steps=-1"], r"logging_steps must be greater than 0, found -1"),
        (["--neftune_noise_alpha", "-1"], r"neftune_noise_alpha must be finite and not negative"),
        pytest.param(
            ["--dataloader_multiprocessing_context", "fork"],
            r"there are none: set dataloader_num_workers",
            marks=pytest.mark.skipif(
                not hasattr(RnnTrainingArguments, "dataloader_multiprocessing_context"), reason="not in 5.8"
            ),
        ),
        (["--ddp_backend", "gloo"], r"ddp_backend is for several processes"),
        (["--optim_args", "relative_step"], r"optim_args must be name=value.* found 'relative_step'"),
        (["--optim_args", " "], r"optim_args must be name=value.* found ''"),
        (["--optim_args", "eps=1,"], r"optim_args must be name=value.* found ''"),
        (["--optim_args", "eps=1=2"], r"optim_args must be name=value.* found 'eps=1=2'"),
        (["--eval_delay", "nan"], r"eval_delay must be finite and not negative, found nan"),
        (["--adam_epsilon", "0"], r"adam_epsilon must be at least 1e-38, found 0.0: the step of a weight"),
        (
            ["--dataloader_num_workers", "1", "--dataloader_prefetch_factor", "0"],
            r"dataloader_prefetch_factor must be at least 1, found 0",
        ),
        (
            ["--accelerator_config", __file__],
            r"accelerator_config '.*test_arguments.py' holds no JSON object, such as",
        ),
        (["--lr_scheduler_kwargs", '{"a":' * 100_000], r"lr_scheduler_kwargs .* is no JSON object"),
        (["--group_by_length"], r"unknown option '--group_by_length'. Did you mean --train_sampling_strategy"),
        (["--include_num_input_tokens_seen", "some"], r"must be all, non_padding or no, found 'some'"),
        (["--lr_scheduler_kwargs", "{a:1}"], r"lr_scheduler_kwargs '{a:1}' is no JSON object, such as"),
        (["--lr_scheduler_kwargs", "[1]"], r"lr_scheduler_kwargs '\[1\]' is no JSON object"),
        (["--accelerator_config", "nowhere.json"], r"accelerator_config 'nowhere.json' .* nor a file that is there"),
        (["--resume", "--overwrite_output_dir"], r"give one of them"),
        (["--tokens_per_batch", "0"], r"tokens_per_batch must be at least 1, found 0"),
        (["--tokens_per_batch", "-5"], r"tokens_per_batch must be at least 1, found -5"),
        (
            ["--tokens_per_batch", "500", "--train_sampling_strategy", "random"],
            r"tokens_per_batch 500 makes .*train_sampling_strategy 'random' does not: set that to group_by_length",
        ),
        (["--tokens_per_batch", "500", "--dataloader_drop_last"], r"dataloader_drop_last leaves out .*one of the two"),
        (["--tokens_per_batch", "500", "--auto_find_batch_size"], r"auto_find_batch_size looks .*one of the two"),
        (["--report_to", "tensorbord"], r"report_to 'tensorbord' is not known; there are .*tensorboard"),
        (["--adam_beta1", "-0.1"], r"adam_beta1 must be at least 0 and less than 1, found -0.1"),
        (["--adam_epsilon=-1e-8"], r"adam_epsilon must be finite and not negative"),
        (["--embedding_learning_rate", "inf"], r"embedding_learning_rate must be finite and not negative"),
        (["--data_seed", "4294967296"], r"data_seed must be from 0 to 2\*\*32 - 1, found 4294967296"),
        (["--gradient_accumulation_steps", "0"], r"gradient_accumulation_steps must be greater than 0"),
        (["--hidden_size=--"], r"hidden_size.*invalid int value: '--'"),
        (["--cell_type=--"], r"cell_type.*invalid choice: '--'"),
        (["--tags", "mine", "caf\udce9"], r"tags 'caf\\udce9' is not UTF-8"),
    ],
)
def test_a_mistake_in_a_flag(argv, message):
    with pytest.raises(UserError, match=message):
        parse_argv(flags(*argv))


@pytest.mark.parametrize(
    "argv", [["--vectors=~/glove.txt"], ["--vectors", "~/glove.txt"], ["--tokenizer-name-or-path=~"]]
)
def test_a_tilde_is_the_home_folder(argv, tmp_path, monkeypatch):
    """No shell expands `--vectors=~/glove.txt`; a folder called `~` would be made, or missed."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    data = parse_argv(flags(*argv))[1]
    named = data.vectors or data.tokenizer_name_or_path
    assert Path(named) == (tmp_path / "glove.txt" if data.vectors else tmp_path)
    assert parse_settings({"vectors": "~/a", "output_dir": "out"})[1].vectors == str(tmp_path / "a")


def test_a_tilde_is_the_home_folder_in_python_too(tmp_path, monkeypatch):
    """Wherever a name or path is taken: settings, dataclasses, and functions of their own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("seed: 7\n")
    (tmp_path / "train.tsv").write_text("a\tx\nb\ty\n")
    (tmp_path / "v.txt").write_text("a 0.5 0.25\n")
    training = parse_settings({"recipe": "~/mine.yaml", "output_dir": "~/out"})[2]
    assert (training.seed, training.recipe) == (7, str(tmp_path / "mine.yaml"))
    assert training.output_dir == str(tmp_path / "out")
    assert load_recipe("~/mine.yaml")["seed"] == 7
    DataArguments(data_dir="~").check_source()
    of_teacher = DistillationArguments(teacher="~/t", unlabeled="~/u", teacher_cache="~/c")
    found = of_teacher.teacher, of_teacher.unlabeled, of_teacher.teacher_cache
    assert found == tuple(str(tmp_path / name) for name in "tuc")
    assert DataArguments(dataset_name="~/d").dataset_name == str(tmp_path / "d")
    assert load_vectors("~/v.txt", train_tokenizer(["a"], min_frequency=1)).coverage.found == 1
    place = re.escape(str(tmp_path / "none"))
    for load in (OnnxClassifier.from_pretrained, Teachers.open, load_named, lambda name: push(name, "me/it")):
        with pytest.raises(UserError, match=place):
            load("~/none")


def test_values_may_be_those_of_the_enums_of_transformers():
    given = {
        "eval_strategy": IntervalStrategy.NO,
        "optim": OptimizerNames.SGD,
        "lr_scheduler_type": SchedulerType.COSINE,
    }
    off = {"output_dir": "out", "load_best_model_at_end": False, "early_stopping_patience": 0}
    training = parse_settings({**off, **given}).training
    assert {name: getattr(training, name) for name in given} == given


def test_tags_and_texts_keep_their_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert parse_argv(flags("--tags", "~", "~/x"))[2].tags == ["~", "~/x"]


@pytest.mark.parametrize(("given", "kept"), [("true", "all"), ("false", "no"), ("non_padding", "non_padding")])
def test_tokens_are_counted_as_the_trainer_knows_it(given, kept):
    training = parse_argv(flags("--include_num_input_tokens_seen", given))[2]
    assert training.include_num_input_tokens_seen == kept


def test_output_dir_is_asked_for():
    with pytest.raises(UserError, match="output_dir is not set"):
        parse_argv(["--data_dir", "texts"])


def test_a_missing_tracker_says_what_to_type(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "tensorboard" in name else found(name))
    with pytest.raises(UserError, match=r"pip install 'hf-rnn\[tensorboard\]'"):
        RnnTrainingArguments(output_dir="out", report_to="tensorboard")


def test_data_seed_follows_seed():
    assert RnnTrainingArguments(output_dir="out", seed=5).data_seed == 5
    assert RnnTrainingArguments(output_dir="out", seed=5, data_seed=6).data_seed == 6


@pytest.mark.parametrize("name", ["bf16", "bf16_full_eval"])
def test_bfloat16_needs_no_accelerator(name, monkeypatch):
    """Premise: the Trainer's own arguments refuse it on such a machine, unless use_cpu is given too."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: False)
    with pytest.raises(ValueError, match="use_cpu"):
        TrainingArguments(output_dir="out", **{name: True})
    arguments = RnnTrainingArguments(output_dir="out", **{name: True})
    assert (arguments.device.type, getattr(arguments, name)) == ("cpu", True)
    assert not RnnTrainingArguments(output_dir="out").use_cpu


@pytest.mark.parametrize("has", [False, True, None])
def test_a_processor_without_bfloat16_is_told_of(has, monkeypatch, caplog):
    monkeypatch.setattr("hf_rnn.training.checks.multiplies_bfloat16", lambda: has)
    check_early(parse_argv(flags("--bf16", "--use_cpu")))
    assert ["leave out bf16" in record.getMessage() for record in caplog.records] == ([True] if has is False else [])
    caplog.clear()
    check_early(parse_argv(flags("--use_cpu")))
    assert not caplog.records


def test_tokens_per_batch_is_set_by_flag_only():
    assert parse_argv(flags()).training.tokens_per_batch is None
    arguments = parse_argv(flags("--tokens_per_batch", "2048"))
    assert arguments.training.tokens_per_batch == 2048
    assert describe_settings(arguments)["tokens_per_batch"] == 2048


def test_bucketed_batches_unless_asked_otherwise():
    assert RnnTrainingArguments(output_dir="out").train_sampling_strategy == "group_by_length"
    assert TrainingArguments(output_dir="out").train_sampling_strategy == "random"


def test_described_settings_are_a_recipe_that_repeats_the_run(tmp_path):
    arguments = parse_argv(
        flags(
            "--recipe",
            "tutorial",
            "--cell_type",
            "gru",
            "--warmup_steps",
            "0.1",
            "--class_names",
            "a",
            "b",
            "--lr_scheduler_type",
            "cosine_with_min_lr",
            "--lr_scheduler_kwargs",
            '{"min_lr": 0.001}',
            "--accelerator_config",
            '{"use_seedable_sampler": false}',
        )  # fmt: skip
    )
    path = tmp_path / "training_args.json"
    path.write_text(json.dumps(describe_settings(arguments)))
    again = parse_argv(flags("--recipe", str(path)))
    assert [dataclasses.asdict(part) for part in again[:2]] == [dataclasses.asdict(part) for part in arguments[:2]]
    before, after = arguments.training.to_dict(), again.training.to_dict()
    assert {name for name in before if before[name] != after[name]} == {"recipe"}


def test_described_settings_tell_nothing_of_the_machine(tmp_path):
    home = tmp_path / "home" / "somebody"
    home.mkdir(parents=True)
    arguments = parse_argv(
        [
            "--data_dir",
            str(home),
            "--output_dir",
            str(home / "out"),
            "--hub_token",
            "hf_secret",
            "--hub_model_id",
            "me/x",
            "--tokenizer_name_or_path",
            str(home),
            "--run_name",
            str(home),
            "--use_cpu",
        ]  # fmt: skip
    )
    told = json.dumps(describe_settings(arguments))
    assert str(tmp_path) not in told
    assert "secret" not in told
    assert describe_settings(arguments)["data_dir"] == "somebody"


@pytest.mark.parametrize("source", ["tokenizer_name_or_path", "model_name_or_path"])
def test_a_flag_of_the_vocabulary_beside_a_tokenizer_is_told_to_be_idle(source, trained, caplog):
    """The premise: a recipe sets all four too, and of those nothing is told."""
    there = ["--output_dir", "out", f"--{source.replace('_', '-')}", str(trained.folder)]
    parse_argv(there)
    parse_argv(["--output_dir", "out", "--normalizer", "tweet"])
    assert not caplog.records
    parse_argv([*there, "--normalizer", "tweet", "--no_lowercase", "--max-vocab-size=9"])
    parse_settings({"output_dir": "out", source: str(trained.folder), "min_frequency": 2})
    assert [record.getMessage() for record in caplog.records] == [
        f"no effect of normalizer, max_vocab_size, lowercase: the tokenizer is that of {source}, as it is",
        f"no effect of min_frequency: the tokenizer is that of {source}, as it is",
    ]


def test_what_stands_in_a_recipe_of_ones_own_and_does_nothing_is_told(tmp_path, caplog):
    """The premise: what that builds on says as much, and the record of a run says everything."""
    (tmp_path / "base.yaml").write_text("hidden_dropout: 0.5\n")
    (tmp_path / "mine.yaml").write_text("recipe: base.yaml\nwarmup_steps: 5\n")
    (tmp_path / "training_args.json").write_text('{"recipe": null, "warmup_steps": 5, "hidden_dropout": 0.5}')
    parse_argv(["--output_dir", "out", "--recipe", str(tmp_path / "training_args.json")])
    assert not caplog.records
    parse_argv(["--output_dir", "out", "--recipe", str(tmp_path / "mine.yaml")])
    told = sorted(record.getMessage().split(":")[0] for record in caplog.records)
    assert told == ["no effect of hidden_dropout", "no effect of warmup_steps"]
    caplog.clear()
    (tmp_path / "shared.yaml").write_text("push_to_hub: true\nhub_model_id: me/x\n")
    left_out = {"push_to_hub": None, "hub_model_id": None}
    parse_settings({"output_dir": "out", "recipe": str(tmp_path / "shared.yaml"), **left_out})
    assert not caplog.records, "what is left out of a recipe is not told of"


def test_numbers_of_numpy_are_numbers():
    schedule = {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": np.int64(2)}}
    assert parse_settings({"output_dir": "out", **schedule}).training.lr_scheduler_kwargs == {"power": 2}
    settings = {"learning_rate": np.float64(1e-3), "hidden_size": np.int64(8), "class_names": np.array(["no", "yes"])}
    parsed = parse_settings({"output_dir": "out", "bidirectional": np.bool_(False), **settings})
    assert (parsed.training.learning_rate, parsed.model.hidden_size, parsed.model.bidirectional) == (1e-3, 8, False)
    assert parsed.data.class_names == ["no", "yes"]


def test_two_dashes_are_a_value():
    """Which argparse of Python 3.11 leaves out."""
    parsed = parse_argv(["--output_dir=--", "--tags=--"])
    assert (parsed.training.output_dir, parsed.training.tags) == ("--", ["--"])


def test_a_mapping_may_stand_in_a_file(tmp_path):
    path = tmp_path / "schedule.json"
    path.write_text('{"power": 2}')
    schedule = ["--lr_scheduler_type", "polynomial", "--lr_scheduler_kwargs"]
    assert parse_argv(["--output_dir", "out", *schedule, str(path)]).training.lr_scheduler_kwargs == {"power": 2}


@pytest.mark.parametrize("item", [["a"], ("a",), {"a": 1}])
def test_what_is_none_of_several_values(item):
    with pytest.raises(UserError, match="train: tags: each of several values is a text or a number, found "):
        parse_settings({"output_dir": "out", "tags": ["mine", item]})


def test_what_is_no_setting_at_all():
    with pytest.raises(UserError, match="data_dir: a setting is a text, a number, .* found {'train.tsv'}"):
        parse_settings({"output_dir": "out", "data_dir": {"train.tsv"}})
    rows = datasets.Dataset.from_dict({"text": ["a"], "label": [0]})
    with pytest.raises(UserError, match=r"data_dir: one value is wanted, found DatasetDict\({ train: Dataset"):
        parse_settings({"output_dir": "out", "data_dir": datasets.DatasetDict(train=rows)})


@pytest.mark.parametrize(
    ("idle", "works", "told"),
    [
        ("--warmup_steps=0.1", "--lr_scheduler_type=linear", "warmup_steps: lr_scheduler_type is constant"),
        ("--hidden_dropout=0.2", "--num_hidden_layers=2", "hidden_dropout: it stands between layers"),
        (
            "--save_steps=7",
            "--eval_strategy=steps --save_strategy=steps --eval_steps=7",
            "save_steps: save_strategy is epoch, not",
        ),
        (
            "--hub_model_id=me/x --hub_private_repo=true",
            "--push_to_hub",
            "hub_model_id, hub_private_repo: nothing is pushed",
        ),
        ("--do_predict", "--do_predict=false", "do_predict: a test split is always measured"),
        (
            '--lr_scheduler_kwargs={"num_cycles":2}',
            "--lr_scheduler_type=cosine_with_restarts",
            "lr_scheduler_kwargs: lr_scheduler_type is constant, which takes none",
        ),
        (
            "--optim=sgd --adam_beta1=0.5 --adam_epsilon=1e-3",
            "--optim=adamw_torch",
            "adam_beta1, adam_epsilon: optim is sgd, which is no Adam",
        ),
        ("--optim_target_modules=x", None, "optim_target_modules: optim is adamw_torch_fused, which takes all"),
        ("--optim_args=eps=1e-3", "--optim=galore_adamw", "optim_args: optim is adamw_torch_fused, which takes none"),
        (
            "--optim=adafactor --optim_args=eps=1e-3",
            "--optim=rmsprop",
            "optim_args: optim is adafactor, which takes none",
        ),
        (
            "--optim=sgd --optim_args=momentum=0.9,nestrov=true",
            "--optim_args=momentum=0.9,nesterov=true",
            "nestrov in optim_args: optim is sgd, which takes momentum, dampening, nesterov, weight_decay",
        ),
        ("--optim=sgd --adam_epsilon=0", "--optim=adamw_torch --adam_epsilon=1e-9", "adam_epsilon: optim is sgd"),
        pytest.param(
            '--activation_checkpointing_kwargs={"a":1}',
            None,
            "activation_checkpointing_kwargs: activation_checkpointing is off",
            marks=pytest.mark.skipif(
                not hasattr(RnnTrainingArguments, "activation_checkpointing_kwargs"), reason="not in 5.8"
            ),
        ),
        ("--fp16 --use_cpu", "--bf16 --fp16=false", "fp16: a CPU computes in float32"),
        (
            "--tokens_per_batch=99 --per_device_train_batch_size=7",
            None,
            "per_device_train_batch_size: tokens_per_batch cuts",
        ),
        ("--num_train_epochs=3 --max_steps=9", "--max_steps=-1", "num_train_epochs: max_steps says when"),
        ("--do_train=false", "--do_train", "do_train: this trains"),
        ("--run_name=x --project=y", None, "run_name, project: report_to names nothing"),
        ("--fsdp_config={}", None, "fsdp_config: fsdp is off"),
        ("--use_cache", None, "use_cache: it is for models that generate"),
        ("--length_column_name=x", None, "length_column_name: lengths are those of the tokens"),
        ("--do_eval", None, "do_eval: eval_strategy says when"),
        ("--hub_token=x --hub_strategy=end", "--push_to_hub", "hub_token, hub_strategy: nothing is pushed"),
        ("--streaming --baselines", "--baselines=false", "baselines: they need all rows at once"),
        (
            "--streaming --train_sampling_strategy=group_by_length",
            "--train_sampling_strategy=random",
            "train_sampling_strategy: it needs the length of each row",
        ),
        ("--embedding_initializer_range=1 --vectors=v.txt", None, "embedding_initializer_range: the embedding starts"),
        (
            "--sparse_embedding --freeze_embedding --vectors=v.txt",
            "--freeze_embedding=false",
            "sparse_embedding: freeze_embedding leaves",
        ),
        (
            "--metric_for_best_model=accuracy --load_best_model_at_end=false --early_stopping_patience=0",
            "--early_stopping_patience=2 --load_best_model_at_end=true",
            "metric_for_best_model: the last epoch is kept",
        ),
    ],
)
def test_what_is_typed_and_does_nothing_is_told(idle, works, told, caplog):
    parse_argv(["--output_dir", "out", *idle.split()])
    (record,) = caplog.records
    assert f"no effect of {told}" in record.getMessage()
    caplog.clear()
    if works:
        parse_argv(["--output_dir", "out", *idle.split(), *works.split()])
        assert not caplog.records


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"])
@pytest.mark.parametrize(
    "given", ["momentum=0.5", "lr_decay=0.25", "alpha=0.5", "eps=0.1", "dampening=0.5", "centered=1", "momentun=0.5"]
)
def test_arguments_of_an_optimiser_are_idle_where_the_trainer_hands_on_none(optim, given, caplog):
    def make(*more):
        return Trainer.get_optimizer_cls_and_kwargs(parse_argv(["--output_dir=out", f"--optim={optim}", *more])[2])

    idle = make(f"--optim_args={given}") == make()
    assert idle is (re.search(r"no effect of (\w+ in )?optim_args: ", caplog.text) is not None)


@pytest.mark.parametrize(
    ("idle", "told"),
    [
        (
            {"augmentations": 0, "mask_probability": 0.5, "augmentation_seed": 3},
            "mask_probability, augmentation_seed: augmentations is 0",
        ),
        (
            {"soft_label_weight": 0, "temperature": 7, "unlabeled": "x"},
            "temperature, unlabeled: soft_label_weight is 0",
        ),
        ({"soft_label_weight": 1, "label_smoothing_factor": 0.3}, "label_smoothing_factor: soft_label_weight is 1"),
    ],
)
def test_idle_settings_of_a_distillation_are_told(idle, told, caplog):
    parse_settings_with(DistillationArguments, {"output_dir": "out", **idle}, "distill")
    (record,) = caplog.records
    assert f"no effect of {told}" in record.getMessage()


@pytest.mark.parametrize(
    ("given", "again", "seeds"),
    [
        ([], [], (42, 42)),
        (["--seed", "5"], [], (5, 5)),
        (["--seed", "5"], ["--seed", "7"], (7, 7)),
        (["--data_seed", "6"], ["--seed", "7"], (7, 6)),
    ],
)
def test_a_record_with_another_seed_draws_another_order(tmp_path, given, again, seeds):
    """Unless the two were told apart: the order of the rows is a part of what a seed is to change."""
    path = tmp_path / "training_args.json"
    path.write_text(json.dumps(describe_settings(parse_argv([*given, "--output_dir", "out"]))))
    training = parse_argv(["--recipe", str(path), *again, "--output_dir", "out"]).training
    assert (training.seed, training.data_seed) == seeds


def test_another_metric_has_its_own_direction(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("metric_for_best_model: accuracy\ngreater_is_better: true\n")
    assert parse_argv(["--recipe", str(path), "--output_dir", "out"])[2].greater_is_better is True
    training = parse_argv(["--recipe", str(path), "--output_dir", "out", "--metric_for_best_model", "loss"])[2]
    assert training.greater_is_better is False
    assert "greater_is_better" not in describe_settings(parse_argv(["--output_dir", "out"]))


def test_a_recipe_of_the_user_with_vectors_keeps_its_own_embedding_size(tmp_path):
    """It is then compared with the vectors; a size of the recipe below is that of random vectors."""
    path = tmp_path / "mine.yaml"
    path.write_text("vectors: v.txt\nembedding_size: 77\n")
    assert parse_argv(["--output_dir", "out", "--recipe", str(path)]).model.embedding_size == 77
    path.write_text("vectors: v.txt\n")
    assert parse_argv(["--output_dir", "out", "--recipe", str(path)]).model.embedding_size == 300


def test_a_setting_of_distill_is_named_as_such():
    with pytest.raises(
        UserError, match=r"student.yaml:\d+: there is no setting 'augmentations': it is one of hf-rnn distill"
    ):
        parse_settings({"recipe": "student", "output_dir": "out"})
    with pytest.raises(UserError, match=r"train: there is no setting 'teacher': it is one of hf-rnn distill"):
        parse_settings({"teacher": "x", "output_dir": "out"})
    with pytest.raises(UserError, match="unknown option '--teacher': it is one of hf-rnn distill"):
        parse_argv(["--output_dir", "out", "--teacher", "x"])
    with pytest.raises(UserError, match=r"unknown option '--outptu_dir'. Did you mean --output_dir\?"):
        parse_argv(["--outptu_dir", "out"])
    with pytest.raises(UserError, match=r"there is no setting 'hidden_sise'. Did you mean hidden_size\?"):
        parse_settings({"hidden_sise": 3, "output_dir": "out"})


def test_random_vectors_are_frozen_only_for_who_says_so(tmp_path):
    """Recipe `student` freezes the table that it is given; without one it is refused, and not trained on noise."""

    def parse(*more):
        argv = ["--teacher", "t", "--output_dir", "out", "--recipe", *more]
        return parse_argv_with(DistillationArguments, argv, "hf-rnn distill")[0].model.freeze_embedding

    with pytest.raises(UserError, match=r"student.yaml:\d+: freeze_embedding keeps the vectors .* and none are given"):
        parse("student")
    assert parse("student", "--vectors", "t") is True
    assert parse("student", "--freeze_embedding") is True
    assert parse("student", "--freeze_embedding", "false") is False
    mine = tmp_path / "mine.yaml"
    mine.write_text("recipe: student\n")
    with pytest.raises(UserError, match=r"student.yaml:\d+: freeze_embedding keeps"):
        parse(str(mine))
    mine.write_text("recipe: student\nvectors: t\n")
    assert parse(str(mine)) is True
    mine.write_text("recipe: student\nfreeze_embedding: true\n")
    assert parse(str(mine)) is True


def test_a_frozen_embedding_needs_no_rate_of_the_recipe(tmp_path):
    """One that is typed beside it is a contradiction, found before training."""
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("embedding_learning_rate: 1e-4\n")
    frozen = parse_argv(flags("--recipe", str(recipe), "--freeze_embedding"))
    assert frozen.model.freeze_embedding and frozen.training.embedding_learning_rate is None
    unfrozen = parse_argv(flags("--recipe", str(recipe), "--freeze_embedding", "false"))
    assert unfrozen.training.embedding_learning_rate == 1e-4
    typed = parse_argv(flags("--freeze_embedding", "--embedding_learning_rate", "1e-3"))
    assert typed.training.embedding_learning_rate == 1e-3
