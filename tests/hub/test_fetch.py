"""Load from a Hub with the real client, against a small server on loopback."""

import time

import pytest
import torch
from finished_folder import TEXTS, write_finished_folder
from hub_server import HubServer
from huggingface_hub import constants
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_rnn.hub.model_folder import load_model
from hf_rnn.hub.push import push
from hf_rnn.utils.errors import UserError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two models that differ in their weights."""
    return [
        write_finished_folder(tmp_path_factory.mktemp("finished") / f"{seed}", seed)
        for seed in range(2)
    ]


@pytest.fixture
def pushed(hub, folders, monkeypatch):
    """The first model on main, the second on v2; yields the seconds that the client waits."""
    push(folders[0], "me/films")
    push(folders[1], "me/films", revision="v2")
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


def logits_of(model, tokenizer):
    """Return the logits of each text, run alone by the plain model."""
    texts = [text for text in TEXTS if text]
    with torch.no_grad():
        return torch.cat(
            [model.eval()(**tokenizer([text], return_tensors="pt")).logits for text in texts]
        )


def refusal(name, revision=None):
    with pytest.raises(UserError) as caught:
        load_model(name, revision)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_repo_id_in_place_of_a_folder(hub, pushed, folders, monkeypatch):
    """Each revision is itself, and is found again without the network."""
    first, second = (logits_of(*load_model(folder)) for folder in folders)
    assert not torch.allclose(first, second, atol=1e-2), "premise"
    expected = {
        None: first,
        "main": first,
        "v2": second,
        hub.repos["me/films"].branches["v2"]: second,
    }
    for offline in (False, True):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        calls = len(hub.calls)
        for revision, logits in expected.items():
            torch.testing.assert_close(logits_of(*load_model("me/films", revision)), logits)
            model = AutoModelForSequenceClassification.from_pretrained(
                "me/films", revision=revision or "main"
            )
            tokenizer = AutoTokenizer.from_pretrained("me/films", revision=revision or "main")
            torch.testing.assert_close(logits_of(model, tokenizer), logits)
        assert (len(hub.calls) == calls) == offline


@pytest.mark.parametrize(
    ("revision", "token", "failure", "message"),
    [
        ("v9", "hf_mine", None, "Revision Not Found"),
        (
            None,
            "hf_unknown",
            None,
            "Invalid credentials in Authorization header; for another token",
        ),
        (None, "hf_mine", 503, "503 Service Unavailable"),
    ],
)
def test_each_reason_is_named(hub, pushed, monkeypatch, revision, token, failure, message):
    monkeypatch.setenv("HF_TOKEN", token)
    if failure:
        hub.fail_next(1, failure, "me/films")
    found = refusal("me/films", revision)
    assert message in found and "hf_unknown" not in found
    assert "there is no folder me/films" in found and pushed == []


def test_without_the_network_the_cache_answers_at_once(hub, pushed, folders, monkeypatch):
    expected = logits_of(*load_model("me/films"))
    with HubServer() as stopped:
        pass
    monkeypatch.setattr(constants, "ENDPOINT", stopped.url)
    torch.testing.assert_close(logits_of(*load_model("me/films")), expected)
    assert f"({stopped.url}): " in refusal("me/films", "v2")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "has no revision 'v2'" in refusal(folders[0], "v2")
    assert "set 'HF_HUB_OFFLINE=0'" in refusal("me/films", "v2")
    assert pushed == [], "transformers would retry for 46 seconds"
