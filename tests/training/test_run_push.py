"""A training run that pushes its finished folder."""

import json

import pytest
from finished_folder import write_finished_folder

from hf_rnn import train
from hf_rnn.hub.model_folder import FinishedFolder
from hf_rnn.hub.push import push
from hf_rnn.training.train import push_run
from hf_rnn.utils.errors import UserError


def test_a_run_pushes_the_same_files_as_the_command(hub, texts_dir, tmp_path, command):
    """A name without owner is the user's."""
    flags = "--push_to_hub --hub_private_repo True --hub_revision v2 --max_steps 2"
    where = ("--data_dir", texts_dir, "--output_dir", tmp_path / "films")
    code, out, err = command("train", *where, *flags.split(), "--no_baselines", "--use_cpu")
    assert code == 0, err
    assert json.loads(out)["url"] == f"{hub.url}/me/films/tree/v2"
    push(tmp_path / "films", "me/command")
    by_run, by_command = hub.repos["me/films"].files("v2"), hub.repos["me/command"].files()
    assert by_run.keys() == by_command.keys() and "model.safetensors" in by_run
    assert {name for name in by_run if by_run[name] != by_command[name]} == {"README.md", "card_facts.json"}
    assert json.loads(by_run["card_facts.json"])["repo_id"] == "me/films"
    assert hub.repos["me/films"].private and "model.safetensors" not in hub.repos["me/films"].files()
    assert len(hub.repos["me/films"].history("v2")) == 2, "one commit, and nothing by the Trainer itself"


@pytest.mark.parametrize(
    ("settings", "token", "message"),
    [
        ({"hub_model_id": "not an id"}, "hf_mine", "invalid repo id: found 'me/not an id'"),
        ({"hub_model_id": "me/x"}, "", "no token to push with.*hf auth login"),
    ],
)
def test_mistakes_are_found_before_the_training(hub, tiny_settings, tmp_path, monkeypatch, settings, token, message):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=message):
        train(**tiny_settings, output_dir=str(tmp_path / "out"), push_to_hub=True, **settings)
    assert not (tmp_path / "out").exists()


def test_a_push_that_fails_names_the_command_that_repeats_it(hub, tmp_path):
    folder = write_finished_folder(tmp_path / "out")
    again = r"To push it later: hf-rnn push --model .*out --repo_id somebody/x --private --revision v2$"
    with pytest.raises(UserError, match=rf"model is in .*out, but .*{again}"):
        push_run(folder, {"repo_id": "somebody/x", "private": True, "revision": "v2", "token": "hf_mine"})
    FinishedFolder(folder).check_finished()
