"""Push to a Hub with the real client, against a small server on loopback."""

import json
import pathlib
import shutil
import sys

import pytest
from finished_folder import TEXTS, write_finished_folder
from huggingface_hub import constants

from hf_rnn import FastRnn, train
from hf_rnn.hub.card import write_card
from hf_rnn.hub.model_folder import MODELLING_FILES, FinishedFolder, load_model
from hf_rnn.hub.push import push
from hf_rnn.utils.errors import UserError

FILES = {
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "README.md",
    "metrics.json",
}
FILES |= {"training_args.json", "learning_curve.png", *MODELLING_FILES}
# these belong to other heads
FILES -= {"causal_lm_rnn.py", "crf_rnn.py", "token_classification_rnn.py"}
CARD = {"README.md", "metrics.json"}
TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_finished_folder(tmp_path_factory.mktemp("finished") / "model")


@pytest.fixture
def folder(original, tmp_path):
    """A copy that a test may change."""
    return pathlib.Path(shutil.copytree(original, tmp_path / "model"))


def stored(hub, revision="main"):
    return {
        name: data
        for name, data in hub.repos["me/films"].files(revision).items()
        if name != ".gitattributes"
    }


def read(folder):
    return {name: (folder / name).read_bytes() for name in FILES - CARD}


def fails(pattern, *args, **kwargs):
    with pytest.raises(UserError, match=pattern) as caught:
        push(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- one commit ----


def test_one_commit_with_the_finished_files_and_no_others(hub, folder):
    (folder / "training_rows.npy").write_text("hashes confirm guesses")
    result = push(folder, "me/films", commit_message="first")
    repo, sent = hub.repos["me/films"], stored(hub)
    assert sent.keys() == FILES and read(folder).items() <= sent.items() and not repo.private
    assert repo.history() == ["first", "initial commit"]
    assert (result.url, result.commit) == (f"{hub.url}/me/films", repo.branches["main"])
    assert result.files == {name: len(data) for name, data in sent.items()}
    assert push(folder, "me/films").commit == result.commit, "nothing has changed"
    (folder / "metrics.json").write_text('{"validation": {"accuracy": 0.75}}')
    (folder / "learning_curve.png").unlink()
    push(folder, "me/films", commit_message="second")
    assert repo.history() == ["second", "first", "initial commit"]
    assert stored(hub)["metrics.json"] == b'{"validation": {"accuracy": 0.75}}'
    assert "learning_curve.png" in repo.files(), "other files of the repo stay"
    assert f"{hub.url}/me/films/settings" in fails(
        "exists already", folder, "me/films", private=True
    )


def test_a_branch_is_created_once_and_main_stays(hub, folder):
    for _ in range(2):
        assert push(folder, "me/films", revision="v1.0").url == f"{hub.url}/me/films/tree/v1.0"
    assert stored(hub) == {} and read(folder).items() <= stored(hub, "v1.0").items()
    assert len(hub.repos["me/films"].history("v1.0")) == 2


def test_the_card_names_the_repo_unless_it_was_edited(hub, folder):
    path = folder / "README.md"
    push(folder, "me/films")
    card, mine = stored(hub)["README.md"].decode(), path.read_text(encoding="utf-8")
    assert 'model="me/films"' in card and 'model="films"' not in card and 'model="films"' in mine
    assert json.loads(stored(hub)["metrics.json"])["card"]["repo_id"] == "me/films"
    path.write_text(f"{mine}\nMy own words.\n", encoding="utf-8")
    push(folder, "me/films")
    assert stored(hub)["README.md"] == path.read_bytes()


# ---- refusals of the Hub ----


@pytest.mark.parametrize(
    ("options", "failure", "message"),
    [
        ({"token": "hf_unknown"}, None, "Invalid credentials.*hf auth login"),
        ({"repo_id": "they/films"}, None, "403 Forbidden.*namespace.*hf auth login"),
        ({}, 503, "503 Service Unavailable"),
    ],
)
def test_a_refusal_is_one_line_and_the_push_can_be_repeated(hub, folder, options, failure, message):
    if failure:
        hub.fail_next(1, failure, "/commit/")
    assert "hf_unknown" not in fails(message, folder, **{"repo_id": "me/films", **options})
    assert push(folder, "me/films").commit


def test_a_token_is_needed_except_for_a_dry_run(hub, folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    result = push(folder, "me/films", revision="v1", dry_run=True)
    assert result.commit is None and result.files.keys() == FILES
    (folder / "config.json").rename(folder / "away.json")
    fails("no token .*hf auth login", folder, "me/films")
    (folder / "away.json").rename(folder / "config.json")
    assert hub.calls == []
    pathlib.Path(constants.HF_TOKEN_PATH).write_text("hf_mine\n")
    assert push(folder, "me/films").commit, "the stored token is found"


# ---- private content ----


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "metrics.json",
            '{"from": "FOLDER/predictions.tsv"}',
            "metrics.json:1 has a path of this machine",
        ),
        ("README.md", f"\nuse run_{TOKEN}", r"README.md:2 has a secret:"),
        ("README.md", "aiza" + "sya1234567890abcdefghijklmnopqrstuvw", "has a secret"),
        (
            "metrics.json",
            '{"from": "https://jane:hunter22@corp.org/x"}',
            r"has a secret \(Basic Auth Credentials\)",
        ),
        ("README.md", "AKIA" + "Q3EGRI7AZXC5LVPM", r"README.md:1 has a secret \(AWS Access Key\)"),
        ("README.md", "password = 'hunt3r'", r"README.md:1 has a secret \(Secret Keyword\)"),
        ("cells_rnn.py", "# \n# HOME/cells.py", "cells_rnn.py:2 has a path"),
    ],
)
def test_private_content_stops_the_push(hub, folder, name, content, message):
    content = content.replace("HOME", str(pathlib.Path.home())).replace("FOLDER", str(folder))
    (folder / name).write_text(content)
    assert "GhIjKlMn" not in fails(message, folder, "me/films")
    assert hub.calls == []


def test_texts_of_the_card_are_sent_only_if_asked_for(hub, folder):
    finished = FinishedFolder(folder)
    metrics = json.loads(finished.metrics.read_text())
    metrics["card"]["examples"] = {"bad": ["so dull a film", "bad"]}
    write_card(finished, metrics)
    push(folder, "me/films")
    assert not any(b"so dull a film" in content for content in stored(hub).values())
    finished.card.write_text(finished.card.read_text() + "\nMy own words.\n")
    fails("shows training texts.*--card_examples", folder, "me/films")
    push(folder, "me/films", card_examples=True)
    assert all(b"so dull a film" in stored(hub)[name] for name in CARD)


def test_content_that_only_looks_private(folder, monkeypatch, caplog):
    monkeypatch.setenv("HOME", "/")  # as in some containers
    (folder / "README.md").write_text(
        "see https://huggingface.co/me/films/blob/main/README.md "
        "and/or ~/tweets, 1/2/2026, km/h, </s>/<unk>\n"
        "hf_rnn is the package; hf_hub_download gets a file; "
        "password=None, password: required, AKIAX, ghp_x\n"
        "risk-averse-and-overly-long-hyphenated-compound-words, "
        f"jane@example.com, sha256 {'0f1e2d3c' * 8}\n"
    )
    assert push(folder, "me/films", dry_run=True).files and not caplog.text
    monkeypatch.setitem(sys.modules, "detect_secrets.core.scan", None)
    assert push(folder, "me/films", dry_run=True).files and "push" in caplog.text, (
        "an extra finds more"
    )


# ---- folders that cannot be shared ----


def test_an_unfinished_or_damaged_folder(hub, folder):
    (folder / "model.safetensors").write_text("torn")
    fails("cannot be loaded, because of model.safetensors", folder, "me/films")
    (folder / "metrics.json").unlink()
    fails("has no metrics.json.*--resume", folder, "me/films")
    fails("invalid repo id", folder, "me/fil ms")
    assert hub.calls == []


def test_the_command_lists_the_files_and_ends_with_the_url(hub, folder, command):
    code, out, err = command("push", "--model", folder, "--repo_id", "me/films", "--dry_run")
    assert (code, hub.calls) == (0, []), err
    code, out, err = command(
        "push", "--model", folder, "--repo_id", "me/films", "--private", "--revision", "v1"
    )
    assert code == 0 and hub.repos["me/films"].private, err
    *lines, url = out.splitlines()
    sizes = dict(line.split()[:2] for line in lines)
    assert sizes.keys() - {str(len(FILES))} == FILES and url == f"{hub.url}/me/films/tree/v1"
    assert sizes["model.safetensors"] == f"{(folder / 'model.safetensors').stat().st_size:,}"


def test_weights_in_several_files(hub, folder):
    """`save_pretrained(max_shard_size=...)`: each way to load gives the answers of one file."""
    expected = FastRnn.from_pretrained(folder).predict(TEXTS)
    load_model(folder)[0].save_pretrained(folder, max_shard_size="1KB")
    shards = sorted(path.name for path in folder.glob("model-*.safetensors"))
    assert len(shards) > 1, "premise"
    # transformers would load the old file
    fails("weights twice.*remove the older", folder, "me/films")
    (folder / "model.safetensors").unlink()
    push(folder, "me/films")
    assert {*shards, "model.safetensors.index.json"} <= stored(hub).keys()
    for name in (folder, "me/films"):
        assert FastRnn.from_pretrained(name).predict(TEXTS) == expected
    (folder / shards[0]).unlink()
    fails(f"has no {shards[0]}", folder, "me/films")


# ---- at the end of a training ----


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
    assert {name for name in by_run if by_run[name] != by_command[name]} == {
        "README.md",
        "metrics.json",
    }
    assert json.loads(by_run["metrics.json"])["card"]["repo_id"] == "me/films"
    assert (
        hub.repos["me/films"].private and "model.safetensors" not in hub.repos["me/films"].files()
    )
    assert len(hub.repos["me/films"].history("v2")) == 2, (
        "one commit, and nothing by the Trainer itself"
    )


@pytest.mark.parametrize(
    ("settings", "token", "message"),
    [
        ({"hub_model_id": "not an id"}, "hf_mine", "invalid repo id: found 'me/not an id'"),
        ({"hub_model_id": "me/x"}, "", "no token to push with.*hf auth login"),
    ],
)
def test_mistakes_are_found_before_the_training(
    hub, tiny_settings, tmp_path, monkeypatch, settings, token, message
):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=message):
        train(**tiny_settings, output_dir=str(tmp_path / "out"), push_to_hub=True, **settings)
    assert not (tmp_path / "out").exists()


def test_a_run_whose_push_fails_names_the_command_that_repeats_it(hub, tiny_settings, tmp_path):
    again = (
        r"To push it later: hf-rnn push --model .*model --repo_id somebody/x "
        r"--private --revision v2$"
    )
    with pytest.raises(UserError, match=rf"model is in .*model, but .*{again}"):
        settings = {
            "hub_model_id": "somebody/x",
            "hub_private_repo": True,
            "hub_revision": "v2",
            "max_steps": 1,
        }
        train(
            **tiny_settings,
            **settings,
            output_dir=str(tmp_path / "model"),
            push_to_hub=True,
            baselines=False,
        )
    FinishedFolder(tmp_path / "model").check_finished()
