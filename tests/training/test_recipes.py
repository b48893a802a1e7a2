"""Recipes: the settings of the package's own, bases of files, and mistakes with file and line."""

import json

import pytest

from hf_rnn.settings.merge import parse_argv, parse_settings
from hf_rnn.settings.recipes import load_recipe, recipe_names
from hf_rnn.utils.errors import UserError


def test_fast_is_scratch_with_another_cell():
    fast = load_recipe("fast")
    assert (fast["cell_type"], fast["num_hidden_layers"], fast["bidirectional"]) == ("min_gru", 1, True)
    assert {**load_recipe("scratch"), **fast} == fast
    assert {"best", "default", "fast", "finetune", "scratch", "student"} <= set(recipe_names())


@pytest.mark.parametrize("name", ["mine.yaml", "mine.json"])
def test_a_file_builds_on_default(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text('{"hidden_size": 7}')
    assert load_recipe(name) == load_recipe(tmp_path / name) == {**load_recipe("default"), "hidden_size": 7}
    (tmp_path / name).write_text("# nothing yet\n")
    assert load_recipe(name) == load_recipe("default")


@pytest.mark.parametrize(("task", "recipe"), [("token-classification", "token-classification"), ("causal-lm", "lm")])
def test_a_file_builds_on_the_recipe_of_its_task(tmp_path, task, recipe):
    path = tmp_path / "mine.yaml"
    path.write_text(f"task: {task}\nclassifier_dropout: 0.7\n")
    assert load_recipe(path) == {**load_recipe(recipe), "task": task, "classifier_dropout": 0.7}
    path.write_text("classifier_dropout: 0.7\n")
    flags = ["--task", task, "--data_dir", "texts", "--output_dir", "out"]
    arguments = parse_argv([*flags, "--recipe", str(path)])
    expected = parse_argv([*flags, "--classifier_dropout", "0.7"])
    assert arguments.model == expected.model and arguments.data == expected.data


def test_yes_and_no_are_text_and_null_resets_a_setting(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("recipe: null\neval_strategy: no\nlanguage: [en, no]\nbidirectional: false\nseed: null\n")
    assert load_recipe(path) == {"eval_strategy": "no", "language": ["en", "no"], "bidirectional": False}
    path.write_text("learning_rate: null\n")
    assert "learning_rate" in load_recipe("default") and "learning_rate" not in load_recipe(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- hidden_size\n- 7\n", r"mine.yaml:1: a recipe must"),
        (b"hidden_size: 7\nhidden_size: 8\n", r"mine.yaml:2: hidden_size is set twice, first on line 1"),
        (b"a: [1\nb: 2\n", r"mine.yaml:2: invalid YAML"),
        (
            b"hidden_size: 7\nrecipe: scrach\n",
            r"mine.yaml:2: recipe 'scrach' is unknown. Did you mean 'scratch'",
        ),
        (b"recipe: missing.yaml\n", r"mine.yaml:1: .*missing.yaml"),
    ],
)
def test_mistakes_in_a_file(tmp_path, content, message):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_recipe(path)


@pytest.mark.parametrize(
    "name",
    ["card_examples", "hub_model_id", "hub_token", "output_dir", "overwrite_output_dir", "push_to_hub", "resume",
     "teacher_cache", "trackio_space_id"],
)  # fmt: skip
def test_a_recipe_does_not_decide_where_a_run_goes_and_what_it_shows(tmp_path, name):
    """Another person's file would send texts away."""
    (tmp_path / "base.yaml").write_text(f"hidden_size: 7\n{name}: 1\n")
    (tmp_path / "mine.yaml").write_text("recipe: base.yaml\n")
    for recipe, place in ((tmp_path / "mine.yaml", "base.yaml:2"), ({name: 1}, "recipe")):
        with pytest.raises(UserError, match=f"{place}: a recipe cannot set {name}: remove it"):
            load_recipe(recipe)
        with pytest.raises(UserError, match=f"a recipe cannot set {name}"):
            parse_settings({"recipe": recipe, name: "1"})


def test_a_mapping_is_a_recipe_like_a_file(tmp_path):
    mapping = {"recipe": "blocks", "learning_rate": 0.03, "hidden_size": None}
    (tmp_path / "mine.yaml").write_text(json.dumps(mapping))
    assert load_recipe(mapping) == load_recipe(tmp_path / "mine.yaml") != load_recipe("blocks")
    assert load_recipe({}) == load_recipe("default")
    assert load_recipe({"recipe": None, "hidden_size": 7}) == {"hidden_size": 7}


def test_an_unknown_recipe():
    for name, message in (("defualt", "Did you mean 'default'"), ("x/y.yaml", "recipe file x/y.yaml does not exist")):
        with pytest.raises(UserError, match=message):
            load_recipe(name)
