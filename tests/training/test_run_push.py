"""Three ways to share a finished folder leave the same files on the Hub, with a card that names the repo."""

import json
import logging

import pytest
from huggingface_hub import ModelCard, constants

from hf_rnn import RnnClassifier, train
from hf_rnn.hub.card import CardFacts, render
from hf_rnn.hub.card.files import card_for_repo, write_card
from hf_rnn.hub.model_folder import FinishedFolder
from hf_rnn.hub.push import push
from hf_rnn.utils.errors import UserError


def files_of(hub, repo_id, revision="main"):
    found = hub.repos[repo_id].files(revision)
    return {name: blob.data for name, blob in found.items() if name != ".gitattributes"}


@pytest.fixture
def quick(tiny_settings):
    return {**tiny_settings, "num_train_epochs": 1, "baselines": False}


def test_a_run_that_pushes_leaves_on_the_hub_what_the_command_would(hub, quick, tmp_path):
    result = train(**quick, output_dir=str(tmp_path / "films"), push_to_hub=True, hub_model_id="me/run")
    assert result.url == f"{hub.url}/me/run"
    pushed = push(result.folder, "me/command")
    by_run, by_command = files_of(hub, "me/run"), files_of(hub, "me/command")
    assert {file.name: file.size for file in pushed.files} == {name: len(data) for name, data in by_command.items()}
    assert by_run.keys() == by_command.keys()
    assert {name for name in by_run if by_run[name] != by_command[name]} == {"README.md", "card_facts.json"}
    assert not any(name.endswith(".bin") or name.startswith("checkpoints") for name in by_run)
    card = by_run["README.md"].decode()
    assert 'pipeline("text-classification", model="me/run"' in card and "stands for" not in card
    assert json.loads(by_run["card_facts.json"])["repo_id"] == "me/run"
    assert render(CardFacts.from_dict(json.loads(by_run["card_facts.json"]))) == card
    assert "`films` stands for the folder" in (result.folder / "README.md").read_text(encoding="utf-8"), "as it was"
    assert len(hub.repos["me/run"].branches) == 1, "nothing of the Trainer's own"


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (403, r"the token may not tell whose it is \(403: told to fail\): get one with write access at http"),
        (404, r"^the Hub refuses: 404: told to fail"),
    ],
)
def test_who_cannot_be_asked_for_is_told_without_a_repo(hub, quick, tmp_path, status, message):
    hub.fail_next(1, status, "whoami")
    with pytest.raises(UserError, match=message):
        train(**quick, output_dir=str(tmp_path / "films"), push_to_hub=True)


def test_a_name_without_owner_is_the_users(hub, quick, tmp_path):
    result = train(**quick, output_dir=str(tmp_path / "films"), push_to_hub=True, hub_private_repo=True)
    assert result.url == f"{hub.url}/me/films"
    assert hub.repos["me/films"].private


def test_to_a_branch(hub, quick, tmp_path):
    settings = {"push_to_hub": True, "hub_model_id": "films", "hub_revision": "v2"}
    result = train(**quick, output_dir=str(tmp_path / "out"), **settings)
    assert result.url == f"{hub.url}/me/films/tree/v2"
    assert "model.safetensors" in files_of(hub, "me/films", "v2")
    assert "model.safetensors" not in files_of(hub, "me/films")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hub_model_id": "not an id"}, "'me/not an id' is no id of the Hub"),
        ({"hub_model_id": "me/x", "hub_token": "hf_unknown"}, "does not accept the token"),
    ],
)
def test_what_cannot_work_is_found_before_the_training(hub, quick, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        train(**quick, output_dir=str(tmp_path / "out"), push_to_hub=True, **settings)
    assert not (tmp_path / "out").exists()


def test_what_only_the_push_finds_out_loses_nothing(hub, quick, tmp_path):
    sharing = {"push_to_hub": True, "hub_model_id": "somebody/x", "hub_private_repo": True, "hub_revision": "v2"}
    again = r"To push it later: hf-rnn push --model .*out --repo_id somebody/x --private --revision v2$"
    with pytest.raises(UserError, match=rf"model is in .*out, but .*{again}"):
        train(**quick, output_dir=str(tmp_path / "out"), **sharing)
    FinishedFolder(tmp_path / "out").check_finished()


def test_no_token(hub, quick, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="no token to push with.*hf auth login"):
        train(**quick, output_dir=str(tmp_path / "out"), push_to_hub=True, hub_model_id="me/x")
    assert not (tmp_path / "out").exists()


def test_the_command_tells_the_page(hub, texts_dir, tmp_path, command):
    flags = "--push_to_hub --hub_model_id me/films --num_train_epochs 1 --embedding_size 8 --hidden_size 4 --use_cpu"
    code, out, err = command("train", "--data_dir", texts_dir, "--output_dir", tmp_path / "out", *flags.split())
    assert code == 0, err
    assert json.loads(out)["url"] == f"{hub.url}/me/films"
    assert ModelCard(files_of(hub, "me/films")["README.md"].decode()).data.tags[0] == "hf_rnn"


def test_a_classifier_pushes_the_same_kind_of_folder(hub, quick, tmp_path):
    settings = {name: value for name, value in quick.items() if name != "data_dir"}
    classifier = RnnClassifier(**settings, verbose=False).fit(["miro a", "selk b"] * 20, ["good", "bad"] * 20)
    classifier.push_to_hub("me/classifier")
    run = train(**quick, output_dir=str(tmp_path / "out"), push_to_hub=True, hub_model_id="me/run")
    assert run.url and files_of(hub, "me/classifier").keys() == files_of(hub, "me/run").keys()
    assert 'model="me/classifier"' in files_of(hub, "me/classifier")["README.md"].decode()


# The card


@pytest.fixture
def folder(trained, tmp_path):
    write_card(FinishedFolder(tmp_path), trained.card)
    return FinishedFolder(tmp_path)


def test_a_card_in_which_somebody_has_written_goes_as_it_is(folder):
    assert card_for_repo(folder, "me/x").keys() == {"README.md", "card_facts.json"}
    folder.card.write_text(folder.card.read_text(encoding="utf-8") + "\nMy own words.\n", encoding="utf-8")
    assert card_for_repo(folder, "me/x") == {}


def test_a_folder_of_an_older_version_has_no_facts(folder):
    folder.card_facts.unlink()
    assert card_for_repo(folder, "me/x") == {}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"name": 3}', "null", '{"weather": "fine"}'])
def test_facts_that_cannot_be_read_change_nothing(folder, content, caplog):
    folder.card_facts.write_text(content)
    with caplog.at_level(logging.INFO, logger="hf_rnn"):
        assert card_for_repo(folder, "me/x") == {}
    assert "the card stays as it is: card_facts.json" in caplog.text


def test_the_premise_of_these_tests(hub):
    assert hub.url == constants.ENDPOINT
