"""Push to a Hub with the real client, against a small server on loopback."""

import dataclasses
import json
import pathlib
import shutil

import pytest
import torch
from finished_folder import TEXTS, write_finished_folder
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from hf_rnn import FastRnn, RnnConfig, RnnForSequenceClassification, train_tokenizer
from hf_rnn.hub.card import read_facts, write_card
from hf_rnn.hub.loading import load_model
from hf_rnn.hub.model_folder import MODELLING_FILES, FinishedFolder
from hf_rnn.hub.push import push
from hf_rnn.utils.errors import UserError

FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md", "metrics.json"}
FILES |= {"training_args.json", "learning_curve.png", "card_facts.json", *MODELLING_FILES}
FILES -= {"causal_lm_rnn.py", "crf_rnn.py", "token_classification_rnn.py"}  # these belong to other heads
CARD = {"README.md", "card_facts.json"}
TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_finished_folder(tmp_path_factory.mktemp("finished") / "model")


@pytest.fixture
def folder(original, tmp_path):
    """A copy that a test may change."""
    return pathlib.Path(shutil.copytree(original, tmp_path / "model"))


def stored(repo, revision="main"):
    return {name: blob.data for name, blob in repo.files(revision).items() if name != ".gitattributes"}


def without_card(files):
    return {name: data for name, data in files.items() if name not in CARD}


def read(folder):
    return without_card({name: (folder / name).read_bytes() for name in FILES})


def fails(pattern, *args, **kwargs):
    with pytest.raises(UserError, match=pattern) as caught:
        push(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- one commit ----


def test_one_commit_with_the_finished_files_and_no_others(hub, folder):
    result = push(folder, "me/films", commit_message="first")
    repo = hub.repos["me/films"]
    assert without_card(stored(repo)) == read(folder) and not repo.private
    assert [commit.summary for commit in repo.history()] == ["first", "initial commit"]
    assert (result.url, result.commit) == (f"{hub.url}/me/films", repo.branches["main"])
    assert {file.name: file.size for file in result.files} == {name: len(data) for name, data in stored(repo).items()}


def test_a_later_push_adds_a_commit_only_for_changes(hub, folder):
    first = push(folder, "me/films")
    assert push(folder, "me/films").commit == first.commit
    (folder / "metrics.json").write_text('{"validation": {"accuracy": 0.75}}')
    (folder / "learning_curve.png").unlink()
    push(folder, "me/films", commit_message="second")
    repo = hub.repos["me/films"]
    assert [commit.summary for commit in repo.history()][0] == "second" and len(repo.history()) == 3
    assert stored(repo)["metrics.json"] == b'{"validation": {"accuracy": 0.75}}'
    assert "learning_curve.png" in repo.files(), "other files of the repo stay"
    assert hub.count("PUT /storage") == 2, "the weights and the figure were sent once"


def test_a_branch_is_created_once_and_main_stays(hub, folder):
    assert push(folder, "me/films", revision="v1.0").url == f"{hub.url}/me/films/tree/v1.0"
    (folder / "metrics.json").write_text("{}")
    push(folder, "me/films", revision="v1.0")
    repo = hub.repos["me/films"]
    assert stored(repo) == {} and without_card(stored(repo, "v1.0")) == read(folder)
    assert len(repo.history("v1.0")) == 3
    assert push(folder, "me/films", revision="main").url == f"{hub.url}/me/films"


def test_an_existing_repo_does_not_change_its_visibility(hub, folder):
    push(folder, "me/films")
    commits = len(hub.repos["me/films"].commits)
    (folder / "metrics.json").write_text("{}")
    assert f"{hub.url}/me/films/settings" in fails("exists already", folder, "me/films", private=True)
    assert len(hub.repos["me/films"].commits) == commits


def test_a_dry_run_sends_nothing_and_needs_no_token(hub, folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    result = push(folder, "me/films", revision="v1", dry_run=True)
    assert hub.calls == [] and result.commit is None
    assert result.url == f"{hub.url}/me/films/tree/v1"
    assert {file.name for file in result.files} == FILES


def test_the_card_names_the_repo_unless_it_was_edited(hub, folder):
    push(folder, "me/films")
    sent = stored(hub.repos["me/films"])
    card = sent["README.md"].decode()
    assert 'model="me/films"' in card and 'model="films"' not in card
    assert json.loads(sent["card_facts.json"])["repo_id"] == "me/films"
    assert 'model="films"' in (folder / "README.md").read_text(encoding="utf-8")
    edited = (folder / "README.md").read_text(encoding="utf-8") + "\nMy own words.\n"
    (folder / "README.md").write_text(edited, encoding="utf-8")
    push(folder, "me/films")
    assert stored(hub.repos["me/films"])["README.md"].decode() == edited


# ---- refusals of the Hub ----


@pytest.mark.parametrize(
    ("options", "failure", "message"),
    [
        ({"token": "hf_unknown"}, None, "the token does not allow this.*hf auth login"),
        ({"repo_id": "they/films"}, None, "does not allow this.*namespace"),
        ({}, 503, "the Hub refuses .503.*try again"),
    ],
)
def test_a_refusal_is_explained_and_the_push_can_be_repeated(hub, folder, options, failure, message):
    if failure:
        hub.fail_next(1, failure, "/commit/")
    assert "hf_unknown" not in fails(message, folder, **{"repo_id": "me/films", **options})
    assert push(folder, "me/films").commit


def test_no_token(hub, folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    fails("no token .*hf auth login", folder, "me/films")
    assert hub.calls == []
    pathlib.Path(constants.HF_TOKEN_PATH).write_text("hf_mine\n")
    assert push(folder, "me/films").commit, "the stored token is found"


# ---- private content ----


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("training_args.json", '{\n"data_dir": "/home/jane/tweets"}', r"json:2 holds a path .*\(/home/jane/tweets\)"),
        ("training_args.json", r'{"data_dir": "C:\\Users\\jane\\tweets"}', "holds a path of this machine"),
        ("metrics.json", '{"from": "FOLDER/predictions.tsv"}', "holds a path of this machine"),
        ("metrics.json", r'{"from": "\/home\/jane\/x"}', r"metrics.json:2 holds a path of .*\(/home/jane/x\)"),
        ("README.md", "see file:///tmp/plots/curve.png", r"README.md:1 holds a path of .*\(/tmp/plots/curve.png\)"),
        ("README.md", f"use run_{TOKEN}", r"holds a secret \(hf_AbC\.\.\.\)"),
        ("README.md", "sk-proj-" + "AbCdEfGhIjKlMnOp_-" * 3, "holds a secret"),
        ("README.md", "-----BEGIN OPENSSH PRIVATE " + "KEY-----", "holds a secret"),
        ("README.md", "aiza" + "sya1234567890abcdefghijklmnopqrstuvw", "holds a secret"),
        (
            "card_facts.json",
            '{"examples": ["sk_live_' + 'abcdefghijklmnop1234"]}',
            "holds a secret .*--no_card_examples",
        ),
        ("README.md", "PASSWORD=Hunter", "holds a secret"),
        ("metrics.json", '{"from": "jane@corp.org"}', "json:2 holds an e-mail.*jane@corp.org.*--allow_contacts"),
        ("README.md", "call +49 30 1234567", "holds an e-mail address or phone number"),
        ("README.md", "use hf_mine", "holds your token"),
        ("cells_rnn.py", "# \n# /home/jane/cells.py", "cells_rnn.py:2 holds a path"),
    ],
)
def test_private_content_stops_the_push(hub, folder, name, content, message):
    content = content.replace("HOME", str(pathlib.Path.home())).replace("FOLDER", str(folder))
    (folder / name).write_text(content)
    assert "GhIjKlMn" not in fails(message, folder, "me/films")
    assert hub.calls == []


def test_a_push_without_the_texts_of_the_card_or_with_contacts(hub, folder):
    finished = FinishedFolder(folder)
    write_card(finished, dataclasses.replace(read_facts(finished), examples={"bad": ["ask jane@corp.org", "bad"]}))
    fails("jane@corp.org.*--no_card_examples", folder, "me/films")
    push(folder, "me/films", card_examples=False)
    sent = stored(hub.repos["me/films"])
    assert not any(b"jane@corp.org" in content for content in sent.values())
    push(folder, "me/films", allow_contacts=True)
    assert b"jane@corp.org" in stored(hub.repos["me/films"])["README.md"]


@pytest.mark.parametrize("content", [TOKEN, "HOME/tweets"])
def test_private_content_of_weights(hub, folder, content):
    weights = load_file(folder / "model.safetensors")
    metadata = {"format": "pt", "from": content.replace("HOME", str(pathlib.Path.home()))}
    save_file(weights, folder / "model.safetensors", metadata)
    fails("model.safetensors holds", folder, "me/films")


@pytest.mark.parametrize(
    "content",
    [
        "see https://huggingface.co/me/films/blob/main/README.md and/or ~/tweets, 1/2/2026, km/h",
        "hf_rnn is the package; hf_hub_download gets a file",
        "| max/min | </s>/<unk> |",
        "risk-averse-and-overly-long-hyphenated-compound-words, BEGIN PUBLIC KEY, AKIAX, ghp_x",
        "password=None, password: required, jane@example.com, git@github.com, 978-3-16-148410-0, 20,761,558",
    ],
)
def test_content_that_only_looks_private(folder, content, monkeypatch):
    monkeypatch.setenv("HOME", "/")  # as in some containers
    (folder / "README.md").write_text(content)
    assert push(folder, "me/films", dry_run=True).files


def test_words_of_the_texts_may_be_paths_but_not_of_own_folders(folder):
    def learn(text):
        tokenizer = train_tokenizer([text], min_frequency=1, lowercase=False)
        tokenizer.save_pretrained(folder)
        RnnForSequenceClassification(RnnConfig(vocab_size=len(tokenizer), hidden_size=3)).save_pretrained(folder)

    home = pathlib.Path.home()
    learn(f"/usr/bin/python C:\\Users\\x {home}")
    assert push(folder, "me/films", dry_run=True).files
    learn(f"{home}/tweets")
    fails(r"tokenizer\.json:\d+ holds a path of this machine", folder, "me/films")


# ---- folders that cannot be shared ----


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.json", None, "has no metrics.json.*--resume"),
        ("model.safetensors", "torn", "cannot be loaded, because of model.safetensors"),
        ("README.md", "---\ntags: [a\n---\n", "metadata of .*README.md cannot be read"),
    ],
)
def test_an_unfinished_or_damaged_folder(hub, folder, name, content, message):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    fails(message, folder, "me/films")
    assert hub.calls == []


@pytest.mark.parametrize("lost", ["auto_map", "cells_rnn.py"])
def test_a_model_that_would_need_the_package(folder, lost):
    if lost == "auto_map":
        config = json.loads((folder / "config.json").read_text())
        del config["auto_map"]
        (folder / "config.json").write_text(json.dumps(config))
    else:
        (folder / lost).unlink()
    fails(f"has no .*{lost}.*save_pretrained", folder, "me/films")
    load_model(folder)[0].save_pretrained(folder)
    assert push(folder, "me/films", dry_run=True).files, "the command of the message repairs it"


@pytest.mark.parametrize("name", ["films", "me/fil ms"])
def test_an_invalid_request(folder, name):
    fails("invalid repo id", folder, name)


# ---- the command ----


def test_the_command_lists_the_files_and_ends_with_the_url(hub, folder, command):
    code, out, err = command("push", "--model", folder, "--repo_id", "me/films", "--dry_run")
    assert (code, hub.calls) == (0, []), err
    code, out, err = command("push", "--model", folder, "--repo_id", "me/films", "--private", "--revision", "v1")
    assert code == 0, err
    lines = out.splitlines()
    sizes = {line.split()[0]: line.split()[1] for line in lines if line.split()[0] in FILES}
    assert sizes.keys() == FILES
    assert sizes["model.safetensors"] == f"{(folder / 'model.safetensors').stat().st_size:,}"
    assert lines[-1] == f"{hub.url}/me/films/tree/v1"
    assert hub.repos["me/films"].private


def test_weights_in_several_files(hub, folder):
    """`save_pretrained(max_shard_size=...)`: each way to load them gives the answers of the single file."""
    expected = FastRnn.from_pretrained(folder).text_logits(TEXTS)
    load_model(folder)[0].save_pretrained(folder, max_shard_size="1KB")
    shards = sorted(path.name for path in folder.glob("model-*.safetensors"))
    assert len(shards) > 1, "premise"
    fails("weights twice.*remove the older", folder, "me/films")  # transformers would load the old file
    (folder / "model.safetensors").unlink()
    push(folder, "me/films")
    assert {*shards, "model.safetensors.index.json"} <= stored(hub.repos["me/films"]).keys()
    for name in (folder, "me/films"):
        assert torch.equal(FastRnn.from_pretrained(name).text_logits(TEXTS), expected)
    (folder / shards[0]).unlink()
    fails(f"has no {shards[0]}", folder, "me/films")
