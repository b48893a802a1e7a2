"""The examples of the pages of the tasks run as they are written."""

import re
from pathlib import Path

import pytest

import hf_rnn

PAGES = sorted((Path(hf_rnn.__file__).parent / "tasks").glob("*.md"))
PAGES = [page for page in PAGES if page.stem != "token-classification"]  # its own test has the data


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_example_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile(example, page.name, "exec"), {})  # noqa: S102 - our own
    assert capsys.readouterr().out
