"""Settings: one merge of recipes, architecture, flags or keywords; mistakes name a place."""

import datetime
import json
import re
from pathlib import Path

import datasets
import pytest
import torch
from transformers import TrainingArguments

import hf_rnn
from hf_rnn.cli.train import FLAGS
from hf_rnn.settings.recipe import list_recipe_settings, load_recipe
from hf_rnn.settings.resolve import record, resolve, retarget
from hf_rnn.settings.training_arguments import RnnTrainingArguments
from hf_rnn.settings.values import list_settings, list_their_names
from hf_rnn.training.train import check_early
from hf_rnn.utils.errors import UserError


def parse(argv):
    return resolve(FLAGS.read(argv))


def values_of(settings):
    """Return the values of all settings of a run by name."""
    parts = (settings.model, settings.data, settings.training)
    return {name: value for part in parts for name, value in vars(part).items()}


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


@pytest.fixture
def shown(capsys):
    """Return the text of a help by flag."""

    def read(flag):
        with pytest.raises(SystemExit):
            parse([flag])
        out = capsys.readouterr().out
        assert max(map(len, out.splitlines())) <= 80
        options = re.split(r"\s(?=--)", " ".join(out.partition("essentials:")[2].split()))
        return {
            option.split()[0].replace("[no_]", ""): option
            for option in options
            if option.startswith("--")
        }

    return read


def test_the_help_opens_with_what_a_first_run_needs(shown):
    short, whole = shown("--help"), shown("--help_all")
    needs = [
        "--data_dir",
        "--text_column",
        "--label_column",
        "--task",
        "--output_dir",
        "--recipe",
        "--max_minutes",
    ]
    assert (
        list(short)[:7] == needs
        and {"--max_bad_rows", "--calibrate", "--card_examples"} <= short.keys()
    )
    assert all(text.count("(") == text.count(")") for text in short.values())
    assert whole.keys() == {f"--{name}" for name in FLAGS.settings} > short.keys() - {"--help_all"}


def test_the_help_shows_no_default_that_a_recipe_overrules(shown):
    by_recipe = {f"--{name}" for name in list_recipe_settings()}
    whole = shown("--help_all")
    assert len(by_recipe & whole.keys()) > 10
    assert [name for name in by_recipe & whole.keys() if "(default: " in whole[name]] == []
    assert "(default: 42)" not in whole["--seed"] and "(default: True)" in whole["--baselines"]


def test_each_setting_of_the_trainer_is_a_flag_and_unlike_ours(mine):
    assert list_their_names() == list(list_settings((TrainingArguments,))), "read from the source"
    more = ["--torch_compile", "true", "--eval-delay=2", "--logging_steps=7"]
    training = parse(flags(*more)).training
    assert (training.torch_compile, training.eval_delay, training.logging_steps) == (True, 2, 7)
    again = parse(
        flags("--recipe", mine("torch_compile: true\neval_delay: 1e0\nlogging_steps: 7"))
    ).training
    assert (again.torch_compile, again.eval_delay, again.logging_steps) == (True, 1, 7)


# ---- the merge ----


def test_recipe_then_file_then_flags(mine):
    path = mine("recipe: pretrain\nhidden_size: 20\nlearning_rate: 1e-1\n")
    for argv in (
        flags("--recipe", path, "--hidden_size", 30),
        ["--hidden-size=30", *flags(f"--recipe={path}")],
    ):
        arguments = parse(argv)
        assert arguments.model.num_hidden_layers == 4, "from the recipe"
        assert arguments.training.learning_rate == 0.1, (
            "from the file; YAML itself reads 1e-1 as text"
        )
        assert arguments.model.hidden_size == 30, "from the flag"


def test_values_of_every_type(mine):
    path = mine(
        "recipe: null\nbidirectional: false\ncrf: yes\nclass_names: [-1, 'no way', é]\n"
        "max_vocab_size: null\neval_strategy: no\nlr_scheduler_type: cosine_with_min_lr\n"
        "lr_scheduler_kwargs: {min_lr: 0.001}\nnum_train_epochs: 2.5\nmax_bad_rows: 3\n"
        "data_dir: -dash\nlanguage: [en, no]\ntags: alone\ncalibrate: true\n"
        "report_to: [tensorboard, wandb]\n"
    )
    settings = parse(["--output_dir", "out", "--recipe", path])
    model, data, training = settings.model, settings.data, settings.training
    assert (model.bidirectional, model.crf, data.max_bad_rows) == (False, True, 3)
    assert (data.class_names, data.max_vocab_size, data.data_dir) == (
        ["-1", "no way", "é"],
        None,
        "-dash",
    )
    assert (training.eval_strategy, training.language) == ("no", ["en", "no"])
    assert training.report_to == ["tensorboard", "wandb"]
    assert (training.tags, training.calibrate) == (["alone"], True)
    assert (training.lr_scheduler_kwargs, training.num_train_epochs) == ({"min_lr": 0.001}, 2.5)


def test_a_switch_leaves_the_next_text_alone():
    from hf_rnn.cli import predict

    read = predict.FLAGS.read
    assert read(["OUT", "--explain", "some text"])["text"] == ["some text"]
    assert read(["--explain", "OUT", "no"]) == {"explain": "yes", "model": "OUT", "text": ["no"]}
    for word in ("yes", "no", "true", "False", "1", "0"):
        assert read(["OUT", "--explain", word]) == {"explain": word, "model": "OUT"}


def test_keywords_are_flags(tmp_path):
    given = {
        "data_dir": "texts",
        "output_dir": "out",
        "hidden_size": 9,
        "class_names": ["a", "b"],
        "lowercase": False,
    }
    by_name = resolve({**given, "recipe": "scratch"})
    by_flag = parse(flags("--hidden_size", 9, "--class_names", "a", "b", "--no_lowercase"))
    assert (by_name.model, by_name.data) == (by_flag.model, by_flag.data)
    assert by_name.training.to_dict() == by_flag.training.to_dict()
    mapping = resolve(
        {"recipe": {"recipe": "pretrain", "hidden_size": 9}, "output_dir": tmp_path / "out"}
    )
    assert (mapping.model.num_hidden_layers, mapping.training.output_dir) == (
        4,
        str(tmp_path / "out"),
    )


@pytest.mark.parametrize(
    ("content", "given", "expected"),
    [
        ("recipe: scratch", {"early_stopping_patience": None}, {"early_stopping_patience": None}),
        (
            "dataset_name: me/x\ndataset_config: en",
            {"data_dir": "a"},
            {"data_dir": "a", "dataset_config": None},
        ),
        (
            "data_dir: a\nrecipe: scratch\nembedding_size: 77",
            {"vectors": "v.txt"},
            {"embedding_size": 300},
        ),
        (
            "data_dir: a\nrecipe: scratch\nvectors: v.txt\nembedding_size: 77",
            {},
            {"embedding_size": 77},
        ),
        (
            "greater_is_better: true",
            {"metric_for_best_model": "loss"},
            {"greater_is_better": False},
        ),
        ("recipe: scratch", {"max_minutes": 3}, {"row_budget": None}),
    ],
)
def test_a_setting_removes_it_and_contradicting_ones_of_the_recipe(mine, content, given, expected):
    found = values_of(resolve({"recipe": mine(content), "output_dir": "out", **given}))
    assert {name: found[name] for name in expected} == expected


def test_a_model_to_fine_tune_brings_its_architecture(trained, mine):
    start = {"model_name_or_path": str(trained.folder), "output_dir": "out"}
    for recipe in ("blocks", mine("cell_type: gru\nhidden_size: 77\nvectors: v.txt\n")):
        found = values_of(resolve({**start, "recipe": recipe}))
        assert [found[name] for name in ("cell_type", "hidden_size", "vectors")] == [
            "lstm",
            8,
            None,
        ]
    assert resolve({**start, "word_dropout": 0.25}).model.word_dropout == 0.25
    for wrong in (
        {"hidden_size": 9},
        {"recipe": {"hidden_size": 9, "model_name_or_path": str(trained.folder)}},
    ):
        with pytest.raises(UserError, match="hidden_size .*found 9"):
            resolve(
                {**start, **wrong} if "hidden_size" in wrong else {"output_dir": "out", **wrong}
            )


@pytest.mark.parametrize(
    ("given", "recipe"),
    [
        ({"cell_type": "gru"}, "scratch"),
        ({"num_hidden_layers": 3}, "scratch"),
        ({"normalizer": "tweet"}, "scratch"),
        ({"vectors": "glove.txt"}, "scratch"),
        ({"tokenizer_name_or_path": "bert", "vectors": "bert"}, "blocks"),
        (
            {
                "recipe": "scratch",
                "cell_type": "lstm",
                "tokenizer_name_or_path": "bert",
                "vectors": "bert",
            },
            "scratch",
        ),
        ({"task": "token-classification", "hidden_size": 9}, "token-classification-scratch"),
        ({"cell_type": "LSTM", "hidden_size": 5}, "default"),  # those of `english`
        ({"pooling": "last"}, "default"),
    ],
)
def test_what_the_default_start_overrules_takes_another_recipe(given, recipe, caplog):
    caplog.set_level("INFO")
    parsed = resolve({"output_dir": "out", **given})
    assert parsed.training.recipe == recipe
    settings = values_of(parsed)
    for name in given.keys() - {"recipe"}:
        assert str(settings[name]).lower() == str(given[name]).lower()
    logged = [line for line in caplog.messages if line.startswith(f"recipe {recipe}: ")]
    assert len(logged) == (recipe not in ("default", given.get("recipe")))


def test_a_named_recipe_refuses_what_it_overrules():
    for given in ({"cell_type": "gru", "recipe": "default"}, {"recipe": {"min_frequency": 1}}):
        with pytest.raises(UserError, match="english.*recipe scratch"):
            resolve({"output_dir": "out", **given})
    student = {"teacher": "t", "recipe": "student", "output_dir": "out"}
    with pytest.raises(UserError, match="never trains its word vectors.*add --vectors FILE"):
        resolve(student, "distill")
    assert resolve({**student, "vectors": "t"}, "distill").model.freeze_embedding
    assert not resolve({**student, "freeze_embedding": False}, "distill").model.freeze_embedding


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("recipe: scratch\nvectors: ~/glove.txt\n")
    found = values_of(parse(["--data_dir=texts", "--output_dir=~/out", "--recipe=~/mine.yaml"]))
    assert (
        Path(found["vectors"]) == tmp_path / "glove.txt"
        and Path(found["output_dir"]) == tmp_path / "out"
    )


# ---- recipes ----


@pytest.mark.parametrize("name", ["mine.yaml", "mine.json"])
def test_a_file_and_a_mapping_build_on_default(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text('{"hidden_size": 7}')
    assert (
        load_recipe(name)
        == load_recipe(tmp_path / name)
        == {**load_recipe("default"), "hidden_size": 7}
    )
    mapping = {"recipe": "blocks", "learning_rate": 0.03, "hidden_size": None}
    (tmp_path / name).write_text(json.dumps(mapping))
    assert load_recipe(mapping) == load_recipe(name) != load_recipe("blocks")
    (tmp_path / name).write_text("# nothing yet\n")
    assert load_recipe(name) == load_recipe({}) == load_recipe("default")
    assert load_recipe({"recipe": None, "hidden_size": 7}) == {"hidden_size": 7}


@pytest.mark.parametrize(
    ("task", "recipe"), [("token-classification", "token-classification"), ("causal-lm", "lm")]
)
def test_a_file_builds_on_the_recipe_of_its_task(tmp_path, task, recipe):
    path = tmp_path / "mine.yaml"
    path.write_text(f"task: {task}\nclassifier_dropout: 0.7\n")
    assert load_recipe(path) == {**load_recipe(recipe), "task": task, "classifier_dropout": 0.7}
    path.write_text("classifier_dropout: 0.7\n")
    flags = ["--task", task, "--data_dir", "texts", "--output_dir", "out"]
    arguments = parse([*flags, "--recipe", str(path)])
    expected = parse([*flags, "--classifier_dropout", "0.7"])
    assert arguments.model == expected.model and arguments.data == expected.data


@pytest.mark.parametrize(
    "name",
    ["card_examples", "hub_model_id", "hub_token", "output_dir", "overwrite_output_dir",
     "push_to_hub", "resume", "trackio_space_id"],
)  # fmt: skip
def test_a_recipe_does_not_decide_where_a_run_goes_and_what_it_shows(tmp_path, name):
    """Another person's file would send texts away."""
    (tmp_path / "base.yaml").write_text(f"hidden_size: 7\n{name}: 1\n")
    (tmp_path / "mine.yaml").write_text("recipe: base.yaml\n")
    for recipe, place in ((tmp_path / "mine.yaml", "base.yaml:2"), ({name: 1}, "recipe")):
        with pytest.raises(UserError, match=f"{place}: a recipe cannot set {name}: remove it"):
            load_recipe(recipe)
        with pytest.raises(UserError, match=f"a recipe cannot set {name}"):
            resolve({"recipe": recipe})


# ---- mistakes ----


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "hiden_size: 7",
            r"mine.yaml:2: there is no setting 'hiden_size'. Did you mean hidden_size\?",
        ),
        ("hidden_size: many", r"mine.yaml:2: hidden_size must be a whole number; found 'many'"),
        ("block_type: rnn", r"mine.yaml:2: block_type must be plain or residual; found 'rnn'"),
        ("- hidden_size\n- 7", r"mine.yaml: a recipe must"),
        ("hidden_size: 7\nhidden_size: 8", r"mine.yaml:2: hidden_size is set twice"),
        ("a: [1\nb: 2", r"mine.yaml: invalid YAML: .*line 3"),
        (
            "hidden_size: 7\nrecipe: scrach",
            r"mine.yaml:3: recipe 'scrach' is unknown. Did you mean 'scratch'",
        ),
        ("recipe: missing.yaml", r"mine.yaml:2: .*missing.yaml"),
    ],
)
def test_a_mistake_in_a_recipe_names_file_line_and_setting(mine, content, message):
    with pytest.raises(UserError, match=message):
        check_early(parse(flags("--recipe", mine(f"# mine\n{content}\n"))))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--hiden-size=7"], r"unknown option --hiden_size. Did you mean --hidden_size\?"),
        (
            ["--recipe", "student"],
            "recipe student: there is no setting 'augmentations': it belongs to hf-rnn distill",
        ),
        (["--teacher", "x"], "unknown option --teacher: it belongs to hf-rnn distill"),
        (["stray"], r"'stray' belongs to no option"),
        (["--recipe", "scrach"], r"Did you mean 'scratch'"),
        (["--learning_rate", "-0.1"], r"learning_rate must be at least 0; found -0.1"),
        (["--fail_on_leak", "1"], "fail_on_leak must be .*below 1; found 1.0"),
        (["--pooling", "sum"], "pooling must be one of last, mean, .*found 'sum'"),
        (["--resume", "--overwrite_output_dir"], r"give one of them"),
    ],
)
def test_a_mistake_in_a_flag(argv, message):
    with pytest.raises(UserError, match=message):
        check_early(parse(flags(*argv)))


def test_a_mistake_in_a_keyword():
    with pytest.raises(
        UserError, match=r"there is no setting 'hidden_sise'. Did you mean hidden_size\?"
    ):
        resolve({"hidden_sise": 3, "output_dir": "out"})
    rows = datasets.DatasetDict(train=datasets.Dataset.from_dict({"text": ["a"], "label": [0]}))
    with pytest.raises(UserError, match=r"data_dir must be text; found DatasetDict"):
        resolve({"output_dir": "out", "data_dir": rows})


def test_a_run_without_an_output_folder_takes_a_new_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    today = datetime.date.today()
    for expected in (f"tweets-{today}", f"tweets-{today}-2"):
        assert resolve({"data_dir": "data/tweets"}).training.output_dir == expected
        Path(expected).mkdir()
    with pytest.raises(UserError, match="output_dir is missing: .*resume"):
        resolve({"data_dir": "data/tweets", "resume": True})


def test_bfloat16_works_on_a_cpu(monkeypatch):
    """The premise: the Trainer's own arguments refuse it there, unless use_cpu is given too."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: False)
    with pytest.raises(ValueError, match="use_cpu"):
        TrainingArguments(output_dir="out", bf16=True)
    arguments = RnnTrainingArguments(output_dir="out", bf16=True)
    assert (arguments.device.type, arguments.bf16) == ("cpu", True)
    assert not RnnTrainingArguments(output_dir="out").use_cpu


@pytest.mark.parametrize("has_instructions", [True, False])
def test_the_default_recipe_takes_bfloat16_where_the_processor_has_it(
    monkeypatch, has_instructions
):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    has = {"avx2": True, "avx512_bf16": has_instructions}
    # torch 2.10 lacks it
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    data = {"output_dir": "out", "data_dir": "data"}
    assert not resolve(data).training.bf16  # the start has an LSTM in place of residual blocks
    monkeypatch.setattr(
        "hf_rnn.hub.model_folder.PRETRAINED", Path(hf_rnn.__file__).parent / "hub" / "pretrained"
    )
    assert resolve(data).training.bf16 is has_instructions
    assert not resolve({**data, "recipe": "scratch"}).training.bf16
    assert resolve({**data, "bf16": True}).training.bf16
    assert not resolve({**data, "bf16": False}).training.bf16


def test_the_record_is_what_a_user_would_type(mine, trained):
    """By flags or in a file, on top of a recipe; with the start that the run chose."""
    assert record(parse(flags("--seed=7"))) == {"recipe": "scratch", "data_dir": "texts", "seed": 7}
    settings = parse(flags("--recipe", mine("recipe: fast\nhidden_size: 9\nseed: 3\n"), "--seed=7"))
    assert record(settings) == {"recipe": "fast", "hidden_size": 9, "data_dir": "texts", "seed": 7}
    started = retarget(parse(["texts", "out"]), str(trained.folder))
    assert (
        started.model.hidden_size == 8
        and record(started)["model_name_or_path"] == trained.folder.name
    )


def test_the_record_is_a_recipe_that_repeats_the_run(mine):
    more = [
        "--recipe",
        "pretrain",
        "--cell_type",
        "gru",
        "--warmup_steps",
        0.1,
        "--class_names",
        "a",
        "b",
    ]
    schedule = [
        "--lr_scheduler_type",
        "cosine_with_min_lr",
        "--lr_scheduler_kwargs",
        '{"min_lr": 0.001}',
    ]
    arguments = parse(
        flags(*more, *schedule, "--accelerator_config", '{"use_seedable_sampler": false}')
    )
    again = parse(flags("--recipe", mine(json.dumps(record(arguments)), "training_args.json")))
    assert (again.model, again.data) == (arguments.model, arguments.data)
    before, after = arguments.training.to_dict(), again.training.to_dict()
    assert {name for name in before if before[name] != after[name]} == {"recipe"}
    path = mine(json.dumps(record(parse(flags()))), "training_args.json")
    again = parse(flags("--recipe", path, "--seed=7")).training
    assert (again.seed, again.data_seed) == (7, 7), "another seed draws another order"


def test_the_record_has_no_secrets_and_paths(tmp_path):
    home = tmp_path / "home" / "somebody"
    home.mkdir(parents=True)
    paths = {
        "data_dir": home,
        "output_dir": home / "out",
        "tokenizer_name_or_path": home,
        "run_name": home,
    }
    settings = {**paths, "recipe": "scratch", "hub_token": "hf_secret", "hub_model_id": "me/x"}
    settings |= {"push_to_hub": True, "card_examples": True, "report_to": ["wandb"]}
    recorded = record(resolve(settings))
    assert str(tmp_path) not in json.dumps(recorded) and "secret" not in json.dumps(recorded)
    private = {
        "output_dir",
        "hub_token",
        "hub_model_id",
        "push_to_hub",
        "card_examples",
        "report_to",
    }
    assert recorded["data_dir"] == "somebody" and not recorded.keys() & private


@pytest.mark.parametrize(
    ("unused", "used"),
    [
        ("--warmup_steps=0.1", "--lr_scheduler_type=linear"),
        ("--num_train_epochs=3 --max_steps=9", "--max_steps=-1"),
    ],
)
def test_given_settings_without_effect_are_logged(unused, used, caplog):
    parse(flags(*unused.split()))
    (record,) = caplog.records
    assert f"no effect of {unused[2:].split('=')[0]}" in record.getMessage()
    caplog.clear()
    parse(flags(*unused.split(), *used.split()))
    assert not caplog.records
