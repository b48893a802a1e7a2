"""Recipes: what is in ours, how files build on each other, and that a mistake is told with its file and line."""

import json

import pytest

from hf_rnn.training.recipes import load_recipe, read_settings, recipe_names
from hf_rnn.utils.errors import UserError


def test_recipes_of_the_package():
    assert {"default", "fast", "tutorial"} <= set(recipe_names())


def test_tutorial_is_the_tutorial():
    """The numbers of the source tutorial, written down here a second time."""
    recipe = load_recipe("tutorial")
    expected = {
        "cell_type": "rnn_tanh",
        "embedding_size": 300,
        "embedding_initializer_range": 1.0,
        "sparse_embedding": True,
        "num_hidden_layers": 2,
        "hidden_size": 50,
        "bidirectional": False,
        "pooling": "last",
        "classifier_activation": "relu",
        "optim": "sgd",
        "learning_rate": 0.3,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "per_device_train_batch_size": 4,
        "num_train_epochs": 5,
        "seed": 123,
        "min_frequency": 3,
        "normalizer": "none",
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
    }
    assert {name: recipe.get(name) for name in expected} == expected


def test_default_builds_on_nothing():
    assert all(setting.origin.split(":")[0].endswith("default.yaml") for setting in read_settings("default").values())


def test_fast_is_default_with_a_cell_whose_first_layer_has_no_matrix_product():
    fast = load_recipe("fast")
    assert (fast["cell_type"], fast["num_hidden_layers"], fast["bidirectional"]) == ("min_gru", 1, True)
    assert {**load_recipe("default"), **fast} == fast
    assert fast["learning_rate"] == load_recipe("default")["learning_rate"], "what it does not set comes from there"


def test_a_file_builds_on_default(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("hidden_size: 7\n")
    assert load_recipe(path) == {**load_recipe("default"), "hidden_size": 7}


@pytest.mark.parametrize("name", ["mine.yaml", "mine.yml", "mine.json"])
def test_a_file_where_one_is_needs_no_folder_in_its_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text('{"hidden_size": 7}')
    assert load_recipe(name) == {**load_recipe("default"), "hidden_size": 7}


def test_a_file_names_its_base(tmp_path):
    (tmp_path / "base.yaml").write_text("recipe: tutorial\nlearning_rate: 0.03\n")
    (tmp_path / "mine.yaml").write_text("recipe: base.yaml\nhidden_size: 7\n")
    assert load_recipe(tmp_path / "mine.yaml") == {**load_recipe("tutorial"), "learning_rate": 0.03, "hidden_size": 7}


def test_an_anchor_repeats_one_value_and_no_list(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("hidden_size: &width 48\nembedding_size: *width\n")
    assert load_recipe(path)["embedding_size"] == 48
    lists = "".join(f"b{n}: &b{n} [{', '.join(9 * [f'*b{n - 1}'])}]\n" for n in range(1, 12))  # 9 ** 12 words
    path.write_text(f"tags: &b0 [{', '.join(9 * ['ha'])}]\n{lists}")
    with pytest.raises(UserError, match=r"mine.yaml:2: \*b0 repeats a list or a mapping, .*: write it out"):
        load_recipe(path)
    path.write_text("hidden_size: 7\nlr_scheduler_kwargs: &self {power: *self}\n")
    with pytest.raises(UserError, match=r"mine.yaml:2: \*self repeats a list or a mapping"):
        load_recipe(path)


def test_null_leaves_out(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("recipe: null\nhidden_size: 7\nlearning_rate: null\n")
    assert load_recipe(path) == {"hidden_size": 7}
    path.write_text("learning_rate: null\n")
    assert "learning_rate" in load_recipe("default")
    assert "learning_rate" not in load_recipe(path)


def test_an_empty_file_is_its_base(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("# nothing yet\n")
    assert load_recipe(path) == load_recipe("default")


def test_values_tell_where_they_were_set(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("# a comment\nhidden_size: 7\n\nlearning_rate: 0.1\n")
    settings = read_settings(path)
    assert settings["learning_rate"].origin == f"{path}:4"
    assert settings["hidden_size"].origin == f"{path}:2"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- hidden_size\n- 7\n", r"mine.yaml:1: a recipe is"),
        ("hidden_size: 7\nhidden_size: 8\n", r"mine.yaml:2: hidden_size is set twice, first on line 1"),
        ("a: [1\nb: 2\n", r"mine.yaml:2: this is not YAML"),
        ("hidden_size: \x00\n", r"mine.yaml: this is not YAML"),
        ("day: 2020-02-31\n", r"mine.yaml: this is not YAML"),
        ("a: " + "[" * 3_000, r"mine.yaml: this is not YAML: maximum recursion depth"),
        ("3: 7\n", r"mine.yaml:1: a setting's name must be text, found 3"),
        ("hidden_size: 7\nrecipe: tutorail\n", r"mine.yaml:2: there is no recipe 'tutorail'. Did you mean 'tutorial'"),
        ("recipe: [default]\n", r"mine.yaml:1: recipe must be a name or a path"),
        ("recipe: missing.yaml\n", r"mine.yaml:1: there is no recipe file .*missing.yaml"),
        ("recipe: mine.yaml\n", r"builds on itself"),
    ],
)
def test_mistakes(tmp_path, content, message):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_recipe(path)


def test_a_mapping_is_a_recipe_like_a_file(tmp_path):
    mapping = {"recipe": "tutorial", "learning_rate": 0.03, "hidden_size": None}
    (tmp_path / "mine.yaml").write_text(json.dumps(mapping))
    assert load_recipe(mapping) == load_recipe(tmp_path / "mine.yaml") != load_recipe("tutorial")
    assert load_recipe({}) == load_recipe("default")
    assert load_recipe({"recipe": None, "hidden_size": 7}) == {"hidden_size": 7}
    assert read_settings(mapping)["learning_rate"].origin == "recipe['learning_rate']"


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({3: 7}, "a setting's name must be text, found 3"),
        ({"recipe": "tutorail"}, r"recipe\['recipe'\]: there is no recipe 'tutorail'"),
        ({"recipe": {}}, "recipe must be a name or a path"),
    ],
)
def test_mistakes_in_a_mapping(mapping, message):
    with pytest.raises(UserError, match=message):
        load_recipe(mapping)


def test_not_utf8(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"hidden_size: \xff\n")
    with pytest.raises(UserError, match="mine.yaml: this is not YAML"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("defualt", "Did you mean 'default'"),
        ("x/y.yaml", "no recipe file x/y.yaml"),
        ("", "there is no recipe ''. There are best, default"),
    ],
)
def test_unknown_recipe(name, message):
    with pytest.raises(UserError, match=message):
        load_recipe(name)
