"""Pushing to a Hub and loading from it, with the real client against a small server on loopback."""

import dataclasses
import email.utils
import errno
import json
import logging
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import time
import zlib

import huggingface_hub
import pytest
import torch
from hub_server import LOST, Blob, HubServer
from huggingface_hub import constants
from huggingface_hub.errors import RepositoryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from hf_rnn import RnnConfig, RnnForSequenceClassification, train_tokenizer
from hf_rnn.hub import loading as model_loading
from hf_rnn.hub.card import CardFacts, render
from hf_rnn.hub.client import HubRepo, fetch
from hf_rnn.hub.leak_scan import list_shared_files
from hf_rnn.hub.model_folder import FinishedFolder
from hf_rnn.hub.push import find_token, push
from hf_rnn.inference import reference as plain_inference
from hf_rnn.utils.errors import UserError

TEXTS = ["good film", "bad film", "so so film", "", "a film that nobody saw"]
FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md", "metrics.json"}
FILES |= {"training_args.json", "learning_curve.png"}
FILES |= {f"{name}_rnn.py" for name in ("cells", "configuration", "cpu_kernels", "modeling", "pooling")}


def write_finished_folder(root, seed=0):
    """What training leaves, without the training."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(TEXTS, min_frequency=1)
    names = ("bad", "so so", "good")
    config = RnnConfig(vocab_size=len(tokenizer), embedding_size=6, hidden_size=5, id2label=dict(enumerate(names)))
    model = RnnForSequenceClassification(config)
    folder = FinishedFolder(root)
    model.save_pretrained(root)
    tokenizer.save_pretrained(root)
    architecture = ("cell_type", "num_hidden_layers", "hidden_size", "bidirectional", "pooling", "embedding_size")
    facts = {name: getattr(config, name) for name in (*architecture, "vocab_size")}
    facts |= {"name": "films", "dataset_name": "films", "class_counts": dict.fromkeys(names, 4), "results": {}}
    folder.card.write_text(render(CardFacts(**facts, num_parameters=model.num_parameters(), versions={})))
    folder.metrics.write_text(json.dumps({"validation": {"accuracy": 0.5}}))
    folder.training_args.write_text(json.dumps({"learning_rate": 0.02, "data_dir": "films"}, indent=2))
    folder.learning_curve.write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    for stays in ("checkpoints/checkpoint-8/optimizer.pt", "runs/events.out", ".cache/x", "notes.txt"):
        (root / stays).parent.mkdir(parents=True, exist_ok=True)
        (root / stays).write_text("stays at home")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    root = tmp_path_factory.mktemp("finished") / "model"
    write_finished_folder(root)
    return root


@pytest.fixture
def folder(original, tmp_path, monkeypatch):
    """A copy that a test may change, and a user whose name says who they are."""
    monkeypatch.setattr("getpass.getuser", lambda: "jdoe")
    return pathlib.Path(shutil.copytree(original, tmp_path / "model"))


@pytest.fixture
def waits(monkeypatch):
    """Seconds that were waited for, without waiting; the client's own are among them."""
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


def read(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def stored(repo, revision="main"):
    return {name: blob.data for name, blob in repo.files(revision).items() if name != ".gitattributes"}


def fails(pattern, *args, **kwargs):
    with pytest.raises(UserError, match=pattern) as caught:
        push(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is sent


@pytest.mark.parametrize("lfs", [True, False])
def test_one_commit_with_the_finished_files_and_no_others(hub, folder, lfs):
    hub.lfs = lfs
    result = push(folder, "me/films", commit_message="first")
    repo = hub.repos["me/films"]
    assert stored(repo) == read(folder)
    assert [commit.summary for commit in repo.history()] == ["first", "initial commit"]
    assert not repo.private
    assert {name for name, blob in repo.files().items() if blob.lfs} == (
        {"model.safetensors", "learning_curve.png"} if lfs else set()
    )
    assert result.url == f"{hub.url}/me/films"
    assert result.commit == repo.branches["main"]
    assert {file.name for file in result.files} == FILES
    assert {file.name: file.size for file in result.files} == {name: len(data) for name, data in read(folder).items()}
    assert result.left == (".cache/", "checkpoints/", "notes.txt", "runs/")


def test_a_later_push_is_one_more_commit_and_an_unchanged_one_is_none(hub, folder):
    first = push(folder, "me/films")
    assert push(folder, "me/films").commit == first.commit
    (folder / "metrics.json").write_text('{"validation": {"accuracy": 0.75}}')
    (folder / "learning_curve.png").unlink()
    second = push(folder, "me/films", commit_message="second")
    repo = hub.repos["me/films"]
    assert [commit.summary for commit in repo.history()][:1] == ["second"]
    assert len(repo.history()) == 3
    assert repo.commits[second.commit].files["metrics.json"].data == b'{"validation": {"accuracy": 0.75}}'
    assert "learning_curve.png" in repo.files(), "what the folder does not have stays as it is"
    assert hub.count("PUT /storage") == 2, "the weights and the figure were sent once"


def test_a_branch_is_made_once_and_main_stays(hub, folder):
    result = push(folder, "me/films", revision="v1.0")
    (folder / "metrics.json").write_text("{}")
    push(folder, "me/films", revision="v1.0")
    repo = hub.repos["me/films"]
    assert result.url == f"{hub.url}/me/films/tree/v1.0"
    assert stored(repo) == {}
    assert stored(repo, "v1.0") == read(folder)
    assert len(repo.history("v1.0")) == 3


def test_a_pull_request_and_a_second_commit_to_it(hub, folder):
    push(folder, "me/films", token="hf_mine")
    weights = read(folder)["metrics.json"]
    (folder / "metrics.json").write_text("{}")
    result = push(folder, "me/films", create_pr=True, token="hf_theirs")
    repo = hub.repos["me/films"]
    assert result.url == f"{hub.url}/me/films/discussions/1"
    assert stored(repo)["metrics.json"] == weights
    assert stored(repo, "refs/pr/1") == read(folder)
    (folder / "metrics.json").write_text('{"test": {}}')
    push(folder, "me/films", revision="refs/pr/1")
    assert stored(repo, "refs/pr/1") == read(folder)
    assert hub.count("POST .*/branch/") == 0


def test_private(hub, folder):
    push(folder, "me/secret", private=True)
    push(folder, "me/secret")
    assert hub.repos["me/secret"].private
    for token in (False, "hf_theirs"):
        with pytest.raises(RepositoryNotFoundError):
            huggingface_hub.HfApi(token=token).model_info("me/secret")
    assert huggingface_hub.HfApi(token="hf_mine").model_info("me/secret").private


def test_what_is_public_does_not_become_private_by_asking(hub, folder):
    push(folder, "me/films")
    commits = len(hub.repos["me/films"].commits)
    (folder / "metrics.json").write_text("{}")
    message = fails("there already and public, not private", folder, "me/films", private=True)
    assert f"{hub.url}/me/films/settings" in message
    assert len(hub.repos["me/films"].commits) == commits


def test_a_dry_run_sends_nothing_and_needs_no_token(hub, folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    (folder / "mine_rnn.py").write_text("print('of nobody else')")
    result = push(folder, "me/films", revision="v1", dry_run=True)
    assert "a whole card" not in repr(dataclasses.replace(result.files[0], content=b"a whole card"))
    assert "mine_rnn.py" in result.left
    assert hub.calls == []
    assert result.commit is None
    assert result.url == f"{hub.url}/me/films/tree/v1"
    assert {file.name for file in result.files} == FILES


def test_without_asking_a_new_repo_is_as_its_owner_has_them(hub, folder, command, monkeypatch):
    asked, create_repo = [], huggingface_hub.HfApi.create_repo

    def seen(self, repo_id, **settings):
        asked.append(settings["private"])
        return create_repo(self, repo_id, **settings)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", seen)
    push(folder, "me/films")
    assert command("push", "--model", folder, "--repo_id", "me/films")[0] == 0
    assert asked == [None, None]


def test_what_is_private_does_not_become_public_by_asking(hub, folder):
    push(folder, "me/films", private=True)
    fails("there already and private, not public", folder, "me/films", private=False)


def test_main_is_no_branch_of_its_own(hub, folder):
    assert push(folder, "me/films", revision="main").url == f"{hub.url}/me/films"
    (folder / "metrics.json").write_text("{}")
    assert push(folder, "me/films", revision="main", create_pr=True).url == f"{hub.url}/me/films/discussions/1"


def test_all_files_of_a_tokenizer_are_sent(hub, folder):
    further = {"special_tokens_map.json": "{}", "added_tokens.json": "{}", "chat_template.jinja": "{{ messages }}"}
    for name, content in {**further, "vocab.txt": "a\n"}.items():
        (folder / name).write_text(content)
    finished = FinishedFolder(folder)
    assert {file.name for file in list_shared_files(finished)} == FILES | further.keys()
    assert {file.name for file in list_shared_files(finished, ["vocab.txt"])} == FILES | further.keys() | {"vocab.txt"}


# What the Hub refuses


def test_a_token_stands_in_no_message(hub, folder, waits):
    told = b'{"error": "hf_mine is odd"}'
    hub.fail_next(1, 418, "commit/", body=told)
    assert "hf_... is odd" in fails("the Hub refuses", folder, "me/films")
    hub.fail_next(1, 418, "me/films", body=told)
    assert "hf_... is odd" in unreadable("me/films"), "nor the one that is stored"


def test_white_space_around_a_token_is_not_its_own(hub, folder):
    assert push(folder, "me/films", token=" hf_mine\n").commit
    assert find_token("  ") is None


def test_no_token(hub, folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    fails("no token .*hf auth login", folder, "me/films")
    assert hub.calls == []
    (pathlib.Path(constants.HF_TOKEN_PATH)).write_text("hf_mine\n")
    assert push(folder, "me/films").commit, "what hf auth login stored is found"


def test_a_token_that_the_hub_does_not_know(hub, folder):
    message = fails("does not accept the token.*hf auth login", folder, "me/films", token="hf_unknown")
    assert "hf_unknown" not in message
    assert hub.repos == {}


def test_somebody_elses_name(hub, folder):
    fails("may not write to they/films .*namespace", folder, "they/films")
    push(folder, "they/films", token="hf_theirs")
    commits = len(hub.repos["they/films"].commits)
    fails("may not write to they/films", folder, "they/films")
    assert len(hub.repos["they/films"].commits) == commits


def test_a_pull_request_that_is_not_there(hub, folder):
    fails("is not there.*refs/pr/7", folder, "me/films", revision="refs/pr/7")


@pytest.mark.parametrize("status", [409, 412])
def test_a_commit_of_somebody_else_in_between(hub, folder, status, waits):
    hub.fail_next(1, status, "/commit/", body=b'{"error": "A commit has happened since"}')
    fails("changed by somebody else .*A commit has happened since.*push again", folder, "me/films")
    assert waits == []


def test_a_card_that_the_hub_refuses(hub, folder):
    hub.card_error = '"license" must be one of ...'
    fails('README.md.*"license" must be one of', folder, "me/films")
    assert len(hub.repos["me/films"].commits) == 1


def test_offline(hub, folder, monkeypatch, waits):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fails("HF_HUB_OFFLINE", folder, "me/films")
    assert waits == []


def test_nobody_is_there(folder, monkeypatch, waits):
    with HubServer() as gone:
        pass
    monkeypatch.setattr(constants, "ENDPOINT", gone.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    fails(f"cannot be reached at {gone.url} .*push again", folder, "me/films", token="hf_mine")
    assert waits == [1, 2, 4, 8]


def test_a_hub_without_xet_names_the_way_around(hub, folder, monkeypatch, waits):
    pytest.importorskip("hf_xet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    fails("HF_HUB_DISABLE_XET=1", folder, "me/films")


def test_what_is_not_of_the_network_is_not_said_to_be(waits):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        HubRepo.connect("me/films", "hf_mine")._call(full)
    assert waits == []


def test_what_an_upload_failed_of_counts(waits):
    tries = []

    def upload():
        tries.append("one")
        if len(tries) == 1:
            raise RuntimeError("Error while uploading 'model.safetensors'") from ConnectionError("it got lost")
        return "sent"

    assert HubRepo.connect("me/films", "hf_mine")._call(upload) == "sent"
    assert waits == [1]


# What passes when it is tried again


CALLS = ("repos/create", "branch/", "validate-yaml", "preupload", "objects/batch", "storage/", "commit/")


@pytest.mark.parametrize("status", [429, 500, 503, LOST])
@pytest.mark.parametrize("call", CALLS)
def test_each_call_is_repeated(hub, folder, waits, call, status):
    hub.fail_next(2, status, call, body=b"<html>out of order</html>")
    push(folder, "me/films", revision="v1")
    repo = hub.repos["me/films"]
    assert hub.count(call) >= (1 if (call, status) == ("commit/", LOST) else 2), "premise: it was made and failed"
    assert stored(repo, "v1") == read(folder)
    assert len(repo.history("v1")) == 2, "one commit, also when its answer was lost"
    assert waits


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 1),
        ({"Retry-After": "17"}, 17),
        ({"RateLimit": '"api";r=0;t=55'}, 55),
        ({"RateLimit": '"api";r=9;t=55'}, 1),
        ({"Retry-After": "soon"}, 1),
    ],
)
def test_it_waits_as_long_as_the_hub_asks(hub, folder, waits, headers, seconds):
    hub.fail_next(1, 429, "commit/", headers)
    push(folder, "me/films")
    assert waits == [seconds]


def test_it_waits_until_a_date(hub, folder, waits):
    hub.fail_next(1, 503, "commit/", {"Retry-After": email.utils.formatdate(time.time() + 40, usegmt=True)})
    push(folder, "me/films")
    assert 35 < waits[0] <= 40


def test_it_does_not_wait_for_an_hour(hub, folder, waits):
    hub.fail_next(1, 429, "commit/", {"Retry-After": "3600"}, b'{"error": "128 commits an hour"}')
    fails("no more calls for now .*128 commits an hour.*later", folder, "me/films")
    assert waits == []


def test_it_gives_up(hub, folder, waits):
    hub.fail_next(99, 502, "commit/", body=b'{"error": "bad gateway"}')
    fails("the Hub fails .*502.*bad gateway.*later", folder, "me/films")
    assert waits == [1, 2, 4, 8]
    assert hub.count("POST .*/commit/") == 5


def test_a_page_that_is_none_of_the_hubs_passes(hub, folder, waits):
    """Such as that of a wireless network which wants to be logged into."""
    hub.fail_next(1, 200, "repos/create", body=b"<html>welcome</html>")
    assert push(folder, "me/films").commit
    assert waits == [1]


def test_a_call_that_took_too_long_is_repeated(hub, folder, waits):
    hub.fail_next(1, 408, "repos/create")
    assert push(folder, "me/films").commit
    assert waits == [1]


def test_a_refusal_is_not_repeated(hub, folder, waits):
    hub.fail_next(1, 418, "commit/", body=b'{"error": "a teapot"}')
    fails("the Hub refuses: .*a teapot", folder, "me/films")
    assert waits == []


@pytest.mark.parametrize(("status", "requests"), [(503, 1), (429, 1), (500, 0), (LOST, 1)])
def test_a_pull_request_is_made_once(hub, folder, waits, status, requests):
    """Unlike files, it would be there twice: without an answer nobody but the user can tell."""
    hub.fail_next(1, status, "commit/")
    if status in (503, 429):
        push(folder, "me/films", create_pr=True)
    else:
        fails("the answer got lost .*/me/films/discussions", folder, "me/films", create_pr=True)
    assert sum(name.startswith("refs/pr/") for name in hub.repos["me/films"].branches) == requests


# What must not be sent


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("training_args.json", '{\n"data_dir": "/home/jane/tweets"}', r"json:2 holds a path .*\(/home/jane/tweets\)"),
        ("training_args.json", r'{"data_dir": "C:\\Users\\jane\\tweets"}', "holds a path of this machine"),
        ("training_args.json", '{"data_dir": "HOME/tweets"}', "holds a path of this machine"),
        ("metrics.json", '{"from": "FOLDER/predictions.tsv"}', "holds a path of this machine"),
        ("README.md", "see file:///tmp/plots/curve.png", r"README.md:1 holds a path of .*\(/tmp/plots/curve.png\)"),
        ("README.md", "use hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567", r"holds a token \(hf_AbC\.\.\.\)"),
        ("README.md", "use hf_oauth_AbCdEfGhIjKlMnOp", r"holds a token \(hf_oau\.\.\.\)"),
        ("README.md", "use api_org_AbCdEfGhIjKlMnOp", r"holds a token \(api_or\.\.\.\)"),
        ("README.md", "run_hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567", "holds a token"),
        ("README.md", "_hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567_", "holds a token"),
        ("README.md", "hf_jwt_AbCdEfGhIjKlMnOpQrStUvWxYz.01234567", "holds a token"),
        ("README.md", "ghp_" + "AbCdEfGhIjKlMnOp" * 3, "holds a token"),
        ("README.md", "github_pat_" + "AbCdEfGhIjKlMnOp_" * 3, "holds a token"),
        ("metrics.json", '{"id": "AKIA' + "ABCDEFGH" * 2 + '"}', "metrics.json:2 holds a token"),
        ("README.md", "aws_secret_access_key = " + "AbCdEfGhIj" * 4, "holds a token"),
        ("README.md", "sk-proj-" + "AbCdEfGhIjKlMnOp_-" * 3, "holds a token"),
        ("README.md", "-----BEGIN OPENSSH PRIVATE " + "KEY-----", "holds a token"),
        ("README.md", "use hf_mine", "holds your token"),
        ("README.md", "from C:\\Users\\jane\\tweets", "holds a path"),
        ("README.md", "from /Users/jane/tweets", r"holds a path of this machine \(/Users/jane/tweets\)"),
        ("cells_rnn.py", "# /home/jane/cells.py", "cells_rnn.py:1 holds a path"),
        ("README.md", "hf-rnn predict --input x >/home/jane/log.txt", "holds a path of this machine"),
        ("README.md", "gcc -I/home/jane/inc", r"holds a path of this machine \(/home/jane\)"),
        ("README.md", "from c:/users/jane/x", "holds a path of this machine"),
        (
            "metrics.json",
            r'{"from": "\/home\/jane\/x"}',
            r"metrics.json:2 holds a path of this machine \(/home/jane/x\)",
        ),
        ("metrics.json", r'{"t": "hf\u005fAbCdEfGhIjKlMnOpQrStUvWx"}', "metrics.json:2 holds a token"),
    ],
)
def test_traces_of_this_machine(hub, folder, name, content, message):
    content = content.replace("HOME", str(pathlib.Path.home())).replace("FOLDER", str(folder))
    (folder / name).write_text(content)
    found = fails(message, folder, "me/films")
    assert "GhIjKlMn" not in found
    assert hub.calls == []


@pytest.mark.parametrize(
    "content",
    [
        "see https://huggingface.co/me/films/blob/main/README.md and/or ~/tweets, 1/2/2026, km/h",
        "hf_rnn is the package; hf_hub_download gets a file",
        "| max/min | </s>/<unk> |",
        "risk-averse-and-overly-long-hyphenated-compound-words, BEGIN PUBLIC KEY, AKIAX, ghp_x",
    ],
)
def test_what_only_looks_like_a_trace(hub, folder, content):
    (folder / "README.md").write_text(content)
    assert push(folder, "me/films").commit


def test_where_home_is_the_root_not_every_slash_is_a_trace(hub, folder, monkeypatch):
    """As it is for the user of some containers."""
    monkeypatch.setenv("HOME", "/")
    assert str(pathlib.Path.home()) == "/", "premise"
    (folder / "README.md").write_text("see https://huggingface.co/me/films")
    assert push(folder, "me/films", dry_run=True).files


def test_traces_among_bytes(hub, folder):
    weights = load_file(folder / "model.safetensors")
    for told, message in (
        ("hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567", r"model.safetensors holds a token \(hf_AbC\.\.\.\)"),
        ("hf_mine", "model.safetensors holds your token"),
        (f"{pathlib.Path.home()}/tweets", "model.safetensors holds a path of this machine"),
        (f"{pathlib.Path.home()}\\tweets", "model.safetensors holds a path of this machine"),  # as Windows writes it
    ):
        save_file(weights, folder / "model.safetensors", {"format": "pt", "from": told})
        fails(message, folder, "me/films")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert push(folder, "me/films", dry_run=True).files


def test_a_link_to_a_file_of_another_place(hub, folder, tmp_path):
    secret = tmp_path / "id_ed25519"
    secret.write_text("a private key")
    for name in ("chat_template.jinja", "onnx/model.onnx"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(secret)
        fails(f"{name} is a link to .*id_ed25519, outside the folder: put a copy", folder, "me/films")
        (folder / name).unlink()
    (folder / "chat_template.jinja").symlink_to("notes.txt")
    assert push(folder, "me/films", dry_run=True).files, "within the folder nothing is hidden"


def test_further_traces_are_counted(hub, folder):
    (folder / "README.md").write_text("in /home/jane/y\nin /home/jane/x\n")
    fails(r"README.md:1 holds a path of .*\(and 1 more\)", folder, "me/films")


def test_a_trace_in_a_file_that_is_not_utf8(hub, folder):
    (folder / "cells_rnn.py").write_bytes(b"# \xff\n# /home/jane/x\n")
    fails("cells_rnn.py:2 holds a path", folder, "me/films")


def test_words_of_the_texts_are_theirs(hub, folder):
    home = str(pathlib.Path.home())  # without what lies below it
    tokenizer = train_tokenizer([f"/usr/bin/python jdoe C:\\Users\\x {home}"], min_frequency=1, lowercase=False)
    assert "jdoe" in tokenizer.get_vocab()
    tokenizer.save_pretrained(folder)
    RnnForSequenceClassification(RnnConfig(vocab_size=len(tokenizer), hidden_size=3)).save_pretrained(folder)
    assert push(folder, "me/films").commit


@pytest.mark.parametrize("where", ["home", "folder"])
def test_a_word_of_the_texts_that_is_a_path_below_a_folder_of_this_machine(hub, folder, where):
    below = pathlib.Path.home() if where == "home" else folder
    tokenizer = train_tokenizer([f"{below}/tweets"], min_frequency=1, lowercase=False)
    tokenizer.save_pretrained(folder)
    RnnForSequenceClassification(RnnConfig(vocab_size=len(tokenizer), hidden_size=3)).save_pretrained(folder)
    fails(r"tokenizer\.json:\d+ holds a path of this machine", folder, "me/films")
    assert hub.calls == []


@pytest.mark.parametrize("name", ["training_args.bin", "sub/model.pt", "metrics.bak"])
def test_a_pickle(hub, folder, name):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    torch.save({"a": torch.zeros(1)}, path)
    fails(f"{name} is a pickle", folder, "me/films")
    assert hub.calls == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("scores.dat", pickle.dumps({"a": 1}, protocol)) for protocol in (2, 3, 4, 5)),
        ("model.joblib", zlib.compress(pickle.dumps({"a": 1}))),
        *((f"older{end}", pickle.dumps({"a": 1}, 0)) for end in (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt")),
    ],
    ids=["2", "3", "4", "5", "packed", "pkl", "pickle", "pt", "pth", "bin", "ckpt"],
)
def test_a_pickle_that_is_no_archive(hub, folder, name, content):
    (folder / name).write_bytes(content)
    fails(f"{name} is a pickle", folder, "me/films")


def test_what_python_left_there_stays_at_home(hub, folder):
    (folder / "__pycache__").mkdir()
    torch.save({"a": torch.zeros(1)}, folder / "__pycache__" / "x.pt")
    assert {file.name for file in push(folder, "me/films", dry_run=True).files} == FILES


@pytest.mark.parametrize("token", [None, ""])
def test_no_token_hides_nothing(token):
    assert HubRepo.connect("me/None-x", token)._without_token("me/None-x is not there") == "me/None-x is not there"
    assert HubRepo.connect("me/x", "hf_mine")._without_token("by hf_mine") == "by hf_..."


def test_a_training_that_did_not_end(hub, folder):
    (folder / "metrics.json").unlink()
    fails("has no metrics.json.*--resume", folder, "me/films")


@pytest.mark.parametrize("name", ["metrics.json", "training_args.json", "card_facts.json"])
def test_a_record_that_is_none(hub, folder, name):
    (folder / name).write_text("nope")
    fails(f"{name} is not JSON", folder, "me/films")
    (folder / name).write_text("[]")
    fails(f"{name} must hold values by name", folder, "me/films")
    assert hub.calls == []


def test_weights_that_do_not_load(hub, folder):
    (folder / "model.safetensors").write_bytes(b"torn")
    fails("cannot be loaded", folder, "me/films")
    assert hub.calls == []


def test_a_card_with_broken_metadata(hub, folder):
    (folder / "README.md").write_text("---\ntags: [a\n---\n")
    fails("metadata of .*README.md cannot be read", folder, "me/films")


@pytest.mark.parametrize("lost", ["auto_map", "auto_map that maps", "modeling_rnn.py", "cells_rnn.py"])
def test_a_model_that_would_need_the_package(hub, folder, lost):
    """The message says a command that mends it."""
    if lost.startswith("auto_map"):
        config = json.loads((folder / "config.json").read_text())
        del config["auto_map"]
        config |= {"auto_map": ["odd"]} if lost.endswith("maps") else {}
        (folder / "config.json").write_text(json.dumps(config))
        lost = "auto_map"
    else:
        (folder / lost).unlink()
    message = fails(f"has no .*{lost}", folder, "me/films")
    code = message.split('python -c "')[1].rstrip('"')
    exec(code, {})
    assert push(folder, "me/films").commit


@pytest.mark.parametrize("name", ["films", "me/films/more", "me/fil ms", "", "https://huggingface.co/me/films"])
def test_no_id(hub, folder, name):
    fails("no id of the Hub", folder, name)


def test_a_pull_request_to_a_branch(hub, folder):
    fails("leave out either", folder, "me/films", create_pr=True, revision="v1")


def test_no_folder(hub, tmp_path):
    fails("does not exist", tmp_path / "nowhere", "me/films")


# The command


def test_the_command_lists_the_files_and_ends_with_the_url(hub, folder, command):
    code, out, err = command("push", "--model", folder, "--repo_id", "me/films", "--private")
    assert code == 0, err
    lines = out.splitlines()
    assert {line.split()[0] for line in lines if line.split()[0] in FILES} == FILES
    size = f"{(folder / 'model.safetensors').stat().st_size:,}"
    assert next(line for line in lines if line.startswith("model.safetensors")).split()[1] == size
    total = sum((folder / name).stat().st_size for name in FILES)
    assert next(line for line in lines if line.startswith(f"{len(FILES)} files ")).endswith(f" {total:,} bytes")
    assert "not sent: .cache/, checkpoints/, notes.txt, runs/" in lines
    assert lines[-1] == f"{hub.url}/me/films"
    assert hub.repos["me/films"].private
    assert len(hub.repos["me/films"].commits) == 2


def test_the_command_tells_of_nothing_left_where_all_is_sent(hub, folder, command):
    for name in (".cache", "checkpoints", "runs"):
        shutil.rmtree(folder / name)
    (folder / "notes.txt").unlink()
    assert "not sent" not in command("push", "--model", folder, "--repo_id", "me/films", "--dry_run")[1]


def test_the_command_runs_dry(hub, folder, command):
    code, out, err = command("push", "--model", folder, "--repo_id", "me/films", "--dry_run")
    assert (code, out.splitlines()[-1]) == (0, f"{hub.url}/me/films")
    assert "nothing was sent" in err
    assert hub.calls == []


def test_the_command_proposes_and_takes_branches(hub, folder, command):
    push(folder, "me/films")
    (folder / "metrics.json").write_text("{}")
    assert command("push", "--model", folder, "--repo_id", "me/films", "--create_pr")[1].endswith("/discussions/1\n")
    assert command("push", "--model", folder, "--repo_id", "me/films", "--revision", "v1")[1].endswith("/tree/v1\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repo_id", "me/films"], "--model is missing"),
        (["--model", "FOLDER"], "--repo_id is missing"),
        (["--model", "FOLDER", "--repo_id", "they/films"], "may not write"),
        (["--model", "FOLDER", "--repo", "me/films"], "unknown option '--repo'"),
    ],
)
def test_mistakes_are_one_line(hub, folder, command, arguments, message):
    code, _, err = command("push", *(argument.replace("FOLDER", str(folder)) for argument in arguments))
    assert code == 2
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err


# What others get


def logits_of(model, tokenizer):
    return plain_inference.compute_logits(model, tokenizer, plain_inference.tokenize(tokenizer, TEXTS))


def test_a_repo_id_in_place_of_a_folder(hub, folder, tmp_path, monkeypatch):
    """Each revision is itself, and is found again without the network."""
    push(folder, "me/films")
    first = logits_of(*model_loading.load_model(folder))
    write_finished_folder(tmp_path / "other", seed=1)
    push(tmp_path / "other", "me/films", revision="v2")
    second = logits_of(*model_loading.load_model(tmp_path / "other"))
    assert not torch.allclose(first, second, atol=1e-2), "premise"

    def load(revision):
        model = AutoModelForSequenceClassification.from_pretrained("me/films", revision=revision)
        return logits_of(model.eval(), AutoTokenizer.from_pretrained("me/films", revision=revision))

    sha = hub.repos["me/films"].branches["v2"]
    for _ in range(2):
        torch.testing.assert_close(logits_of(*model_loading.load_model("me/films")), first)
        for revision, logits in {"main": first, "v2": second, sha: second}.items():
            torch.testing.assert_close(logits_of(*model_loading.load_model("me/films", revision)), logits)
            torch.testing.assert_close(load(revision), logits)
        calls = len(hub.calls)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert len(hub.calls) == calls > 0, "the second round came from the cache"


def test_a_branch_that_moves_on_is_got_anew(hub, folder, tmp_path):
    push(folder, "me/films")
    first = logits_of(*model_loading.load_model("me/films"))
    write_finished_folder(tmp_path / "other", seed=1)
    old = hub.repos["me/films"].branches["main"]
    push(tmp_path / "other", "me/films")
    assert not torch.allclose(logits_of(*model_loading.load_model("me/films")), first, atol=1e-2)
    torch.testing.assert_close(logits_of(*model_loading.load_model("me/films", old)), first)


def test_a_folder_has_no_revisions(folder, command):
    with pytest.raises(UserError, match="is a folder here, which has no revision 'v1': leave it out"):
        model_loading.load_model(folder, "v1")
    code, _, err = command("inspect", "--model", folder, "--revision", "v1", "--text", "good film")
    assert (code, err.count("\n")) == (2, 1)
    assert "has no revision 'v1'" in err


def test_a_command_keeps_the_clients_own_words_off_the_terminal():
    """Such as `No files matched`, beside the one line that tells of a mistake."""
    level = huggingface_hub.utils.logging.get_verbosity()
    try:
        huggingface_hub.utils.logging.set_verbosity_warning()
        model_loading.quiet()
        assert huggingface_hub.utils.logging.get_verbosity() == logging.ERROR
    finally:
        huggingface_hub.utils.logging.set_verbosity(level)


def unreadable(name, revision=None):
    with pytest.raises(UserError) as caught:
        model_loading.load_model(name, revision)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_each_reason_why_nothing_can_be_had_is_told(hub, folder, tmp_path, monkeypatch, waits):
    push(folder, "me/films")
    push(folder, "me/secret", private=True)
    assert f"me/films has no revision 'v9': look at {hub.url}/me/films/tree/main" in unreadable("me/films", "v9")
    assert "me/nothing is not there, or is private and not yours" in unreadable("me/nothing")
    monkeypatch.setenv("HF_TOKEN", "hf_theirs")
    assert "me/secret is not there, or is private and not yours" in unreadable("me/secret")
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    assert "does not accept the token" in (message := unreadable("me/films"))
    assert "hf_unknown" not in message
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    hub.fail_next(1, 503, "me/films")
    assert "fails for now (503: told to fail): try again later" in unreadable("me/films")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE keeps this process off the network, and me/films is not in" in unreadable("me/films")
    assert waits == []


@pytest.mark.parametrize("config", [{"model_type": "no such kind"}, {"model_type": "hf_rnn", "cell_type": "brain"}])
@pytest.mark.parametrize("verb", ["export --output_dir out", "train --data_dir x --output_dir out"])
def test_a_repo_of_another_kind_is_one_line_for_every_verb(hub, folder, command, verb, config):
    files = {"config.json": Blob(json.dumps(config).encode(), lfs=False), "model.safetensors": Blob(b"x", lfs=True)}
    push(folder, "me/odd")
    hub.repos["me/odd"].add("main", "another", files)
    name, *more = verb.split()
    code, _, err = command(name, "--model" if name == "export" else "--model_name_or_path", "me/odd", *more)
    assert code == 2 and "Traceback" not in err
    assert "me/odd" in err.splitlines()[-1]


def test_a_gated_repo_says_where_to_ask(hub, folder):
    push(folder, "me/films")
    hub.fail_next(1, 403, "me/films", {"X-Error-Code": "GatedRepo"}, b'{"error": "Access is restricted"}')
    assert f"me/films is gated: ask for access at {hub.url}/me/films" in unreadable("me/films")


def test_a_token_that_is_given_opens_a_private_repo(hub, folder, monkeypatch):
    push(folder, "me/secret", private=True)
    monkeypatch.delenv("HF_TOKEN")
    assert (fetch("me/secret", token="hf_mine") / "config.json").is_file()


def test_the_files_of_any_tokenizer_are_got(hub, folder):
    push(folder, "me/films")
    repo = hub.repos["me/films"]
    more = {name: Blob(b"x", lfs=False) for name in ("spiece.model", "chat_template.jinja", "merges.txt")}
    repo.add("main", "more", {**repo.files(), **more, "optimizer.pt": Blob(b"x", lfs=False)})
    names = {path.name for path in fetch("me/films").iterdir()}
    assert names == {*FILES, *more}


def test_a_repo_without_a_model_or_with_another(hub, folder):
    push(folder, "me/films")
    repo = hub.repos["me/films"]
    repo.add("bare", "no model", {"README.md": Blob(b"# films", lfs=False)})
    assert "me/films on the Hub has no config.json" in unreadable("me/films", "bare")
    bert = {"config.json": Blob(b'{"model_type": "bert"}', lfs=False), "model.safetensors": Blob(b"large", lfs=True)}
    sha = repo.add("bert", "another", bert)
    assert "is a 'bert' model" in unreadable("me/films", "bert")
    assert hub.count(f"{sha}/model.safetensors") == 0, "its weights were not got"


def test_without_the_network_the_cache_answers_at_once(hub, folder, monkeypatch, waits):
    push(folder, "me/films")
    expected = logits_of(*model_loading.load_model("me/films"))
    with HubServer() as gone:
        pass
    monkeypatch.setattr(constants, "ENDPOINT", gone.url)
    torch.testing.assert_close(logits_of(*model_loading.load_model("me/films")), expected)
    assert f"cannot be reached at {gone.url} (" in (message := unreadable("me/films", "v2"))
    assert "revision 'v2' of me/films is not in the cache" in message
    assert waits == [], "nothing is tried again: transformers would for 46 seconds"


def test_a_revision_by_the_commands(hub, folder, tmp_path, command):
    push(folder, "me/films")
    write_finished_folder(tmp_path / "other", seed=1)
    push(tmp_path / "other", "me/films", revision="v2")
    shown = {}
    for name, flags in {"main": (), "v2": ("--revision", "v2"), "other": ()}.items():
        model = tmp_path / "other" if name == "other" else "me/films"
        code, shown[name], err = command("inspect", "--model", model, *flags, "--text", "good film")
        assert code == 0, err
    assert shown["v2"] == shown["other"] != shown["main"]
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "test.tsv").write_text("good film\tgood\nbad film\tbad\nso film\tso so\n")
    scores = {}
    for revision in ("main", "v2"):
        flags = ("--model", "me/films", "--revision", revision, "--data_dir", tmp_path / "texts")
        code, out, err = command("evaluate", *flags)
        assert code == 0, err
        scores[revision] = json.loads(out)["loss"]
    assert scores["main"] != scores["v2"]
    code, _, err = command("evaluate", *flags[:2], "--revision", "v9", *flags[4:])
    assert (code, err.count("\n")) == (2, 1)
    assert "me/films has no revision 'v9'" in err


def test_what_is_not_on_the_hub_is_said(hub, folder, command, monkeypatch):
    push(folder, "me/secret", private=True)
    monkeypatch.delenv("HF_TOKEN")
    for name in ("me/secret", "me/nothing"):
        code, _, err = command("predict", "--model", name, "--text", "good film")
        assert code == 2
        assert f"there is no folder {name}, nor can it be had from the Hub" in err


def test_the_model_alone_is_loadable(hub):
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, min_frequency=1)
    model = RnnForSequenceClassification(RnnConfig(vocab_size=len(tokenizer), hidden_size=5)).eval()
    model.push_to_hub("me/alone", token="hf_mine")
    assert FILES - set(hub.repos["me/alone"].files()) == {
        "tokenizer.json",
        "tokenizer_config.json",
        "metrics.json",
        "training_args.json",
        "learning_curve.png",
    }
    loaded = RnnForSequenceClassification.from_pretrained("me/alone")
    assert all(torch.equal(loaded.state_dict()[name], weight) for name, weight in model.state_dict().items())
    tokenizer.push_to_hub("me/alone", token="hf_mine")
    classify = pipeline("text-classification", "me/alone")
    assert classify("good film")[0]["label"] in model.config.label2id


STRANGER = """
import json, sys
try:
    import hf_rnn
except ModuleNotFoundError:
    import torch
else:
    raise AssertionError("premise: the package cannot be imported here")
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline
texts, secret = json.loads(sys.argv[1])
found = {}
for name, revision in (("me/films", None), ("me/films", "v2"), ("me/alone", None)):
    settings = {"trust_remote_code": True, "revision": revision or "main"}
    model = AutoModelForSequenceClassification.from_pretrained(name, **settings)
    tokenizer = AutoTokenizer.from_pretrained("me/films" if name == "me/alone" else name, **settings)
    with torch.no_grad():
        batches = [tokenizer([text], return_tensors="pt", truncation=True) for text in texts if text]
        found[f"{name}@{revision}"] = [model(**batch).logits[0].tolist() for batch in batches]
classify = pipeline("text-classification", "me/films", trust_remote_code=True, top_k=None)
found["pipeline"] = [{entry["label"]: entry["score"] for entry in answer} for answer in classify(texts)]
found["encoder"] = type(AutoModel.from_pretrained("me/films", trust_remote_code=True)).__name__
try:
    AutoModelForSequenceClassification.from_pretrained("me/secret", trust_remote_code=True)
except OSError:
    found["secret without token"] = "refused"
if secret:
    AutoModelForSequenceClassification.from_pretrained("me/secret", trust_remote_code=True, token=secret)
print(json.dumps(found))
"""


def run_python(arguments, environment, cwd):
    done = subprocess.run(
        [sys.executable, *arguments],
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_XET": "1", **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def as_stranger(hub, tmp_path, **environment):
    """What a process with a home of its own finds on the Hub where the package does not exist."""
    # an installation of the package may lie in the same site-packages: hide just that
    blocker = tmp_path / "site"
    blocker.mkdir(exist_ok=True)
    (blocker / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'hf_rnn':\n"
        "            raise ModuleNotFoundError('No module named hf_rnn', name='hf_rnn')\n"
        "sys.meta_path.insert(0, Hide())\n"
    )
    environment |= {"PYTHONPATH": str(blocker), "PYTHONNOUSERSITE": "1"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url}
    script = ["-c", STRANGER, json.dumps([TEXTS, "hf_mine"])]
    return json.loads(run_python(script, environment, tmp_path).splitlines()[-1])


@pytest.mark.parametrize("offline_again", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_round_trip_to_a_stranger(hub, folder, tmp_path, offline_again):
    """Pushed here, loaded in a new process with an empty cache where the package does not exist."""
    push(folder, "me/films")
    push(folder, "me/secret", private=True)
    write_finished_folder(tmp_path / "other", seed=1)
    push(tmp_path / "other", "me/films", revision="v2")
    model, tokenizer = model_loading.load_model(folder)
    model.push_to_hub("me/alone", token="hf_mine")

    there = as_stranger(hub, tmp_path)
    assert there["secret without token"] == "refused"
    if offline_again:
        calls = len(hub.calls)
        there = as_stranger(hub, tmp_path, HF_HUB_OFFLINE="1")
        assert len(hub.calls) == calls

    logits = logits_of(model, tokenizer)
    some = [row for row, text in enumerate(TEXTS) if text]
    other = logits_of(*model_loading.load_model(tmp_path / "other"))
    torch.testing.assert_close(torch.tensor(there["me/films@None"]), logits[some])
    torch.testing.assert_close(torch.tensor(there["me/alone@None"]), logits[some])
    torch.testing.assert_close(torch.tensor(there["me/films@v2"]), other[some])
    for answer, expected in zip(there["pipeline"], logits.softmax(dim=-1).tolist(), strict=True):
        assert [answer[model.config.id2label[label]] for label in range(3)] == pytest.approx(expected, abs=1e-6)
    assert there["encoder"] == "RnnModel"


@pytest.mark.slow
def test_train_push_and_predict_by_the_commands(hub, tiny_settings, tmp_path):
    """As a user types it, each command a process of its own."""
    flags = [part for name, value in tiny_settings.items() for part in (f"--{name}", str(value))]
    home = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_mine", "HOME": str(tmp_path)}
    run = ["-m", "hf_rnn"]
    run_python([*run, "train", *flags, "--output_dir", "out"], home, tmp_path)
    pushed = run_python([*run, "push", "--model", "out", "--repo_id", "me/trained"], home, tmp_path)
    assert pushed.splitlines()[-1] == f"{hub.url}/me/trained"
    text = ["--text", "the miro box", "--text", "selk sand", "--text", "a door"]
    here = run_python([*run, "predict", "--model", "out", *text], home, tmp_path)
    there = run_python([*run, "predict", "--model", "me/trained", *text], home, tmp_path)
    calls = len(hub.calls)
    offline = {**home, "HF_HUB_OFFLINE": "1"}
    assert run_python([*run, "predict", "--model", "me/trained", *text], offline, tmp_path) == there
    shown = {
        model: run_python([*run, "inspect", "--model", *model.split(), "--text", "a door"], offline, tmp_path)
        for model in ("out", "me/trained", "me/trained --revision main")
    }
    assert shown["out"] == shown["me/trained"] == shown["me/trained --revision main"]
    assert len(hub.calls) == calls
    assert [json.loads(line)["label"] for line in there.splitlines()] == ["good", "bad", "plain"]
    for ours, theirs in zip(here.splitlines(), there.splitlines(), strict=True):
        assert json.loads(ours)["score"] == pytest.approx(json.loads(theirs)["score"], abs=1e-6)
