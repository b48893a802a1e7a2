"""The documents: links work, examples run, commands and flags exist, the reference is current."""

import collections
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import write_rows

from hf_rnn import SentenceEncoder

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = [ROOT / name for name in (".github", "data", "hf_rnn", "scripts", "tests")]
WRITTEN_BY_CODE = (
    "hf_rnn/hub/card.md",
    "hf_rnn/hub/encoder_card.md",
    "hf_rnn/hub/pretrained",
    "hf_rnn/REFERENCE.md",
)
PAGES = [ROOT / "README.md", *sorted(page for folder in FOLDERS for page in folder.rglob("*.md"))]
PAGES = [
    page for page in PAGES if not str(page.relative_to(ROOT).as_posix()).startswith(WRITTEN_BY_CODE)
]
FENCED = re.compile(r"^(<!-- not run: [^\n]+ -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [
    page
    for page in PAGES
    if re.search(r"^```python$", page.read_text(encoding="utf-8"), re.MULTILINE)
]


def name_of(page):
    return page.relative_to(ROOT).as_posix()


@cache
def find_anchors(page):
    """Return the anchors of the headings of a page, as GitHub makes them."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "hf_rnn" / "REFERENCE.md"], ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(page):
    text = re.sub(r"`[^`\n]+`", "", FENCED.sub("", page.read_text(encoding="utf-8")))
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        if re.match(r"\w+:", path):
            continue  # tests need no network
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in find_anchors(target)):
            broken.append(link)
    assert not broken


def test_the_links_of_a_release_work_on_a_package_index(tmp_path):
    """Each leads to a file of this repository, pictures to content; no placeholder is left."""
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run(
        [sys.executable, ROOT / ".ci" / "absolute_links.py", "me/fork"], cwd=tmp_path, check=True
    )
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)\s]+)\)", FENCED.sub("", text))
    assert len(links) > 30 and not [link for _, link in links if not re.match(r"\w+:", link)]
    for mark, link in links:
        place = (
            "raw.githubusercontent.com/me/fork/main/" if mark else "github.com/me/fork/blob/main/"
        )
        before, _, path = link.partition(f"https://{place}")
        assert path == "" or (not before and (ROOT / path.partition("#")[0]).exists()), link
    urls = tomllib.loads((tmp_path / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "urls"
    ]
    assert "YOUR-NAME" not in text and all(
        url.startswith("https://github.com/me/fork") for url in urls.values()
    )


@pytest.mark.parametrize("page", EXAMPLES, ids=name_of)
def test_the_examples_run(page, trained, tagged_dir, tmp_path, monkeypatch, capsys):
    """On few texts and for one epoch; the blocks of a page run in their order, as in a notebook."""
    (tmp_path / "data" / "tweets").mkdir(parents=True)
    for split in ("train", "dev", "test"):
        write_rows(tmp_path / "data" / "tweets" / f"{split}.tsv", read_sample(split)[:45])
    shutil.copytree(trained.folder, tmp_path / "out" / "tweets")
    shutil.copytree(tagged_dir, tmp_path / "FOLDER")
    monkeypatch.chdir(tmp_path)
    encoder = SentenceEncoder.from_pretrained(ROOT / "hf_rnn/hub/pretrained/english")
    real = SimpleNamespace(from_pretrained=lambda _: encoder)  # that of the tests has no vectors
    monkeypatch.setattr("hf_rnn.quality.vectors.SentenceEncoder", real)
    names = {"__name__": "__main__"}
    for skipped, language, code in FENCED.findall(page.read_text(encoding="utf-8")):
        if language == "python" and not skipped:
            short = re.sub(r'(num_train_epochs"?[=:] ?)\d+', r"\g<1>1", code)
            exec(compile(short, name_of(page), "exec"), names)  # noqa: S102 - our own
            assert capsys.readouterr().out


@cache
def list_flags(verb):
    from build_reference import find_flags
    from transformers import TrainingArguments

    flags = find_flags(verb)
    further = [field.name for field in fields(TrainingArguments)] if flags.trains else []
    names = {f"--{name}" for name in (*flags.settings, *further, "help", "help_all", "json")}
    return names | {flag.replace("--", "--no_") for flag in names}


def find_commands(text):
    """Yield each command in code: its program and its flags."""
    blocks = [
        code for _, language, code in FENCED.findall(text) if language in ("", "bash", "text")
    ]
    spans = re.findall(r"`([^`]+)`", FENCED.sub("", text))
    for code in [
        line for block in blocks for line in block.replace("\\\n", " ").splitlines()
    ] + spans:
        if found := re.match(r"(?:hf-rnn|python) (\S+)", " ".join(code.split())):
            yield found[1], set(re.findall(r"(?<!\S)--\w+", code))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_has_the_verb_and_the_flags(page):
    from hf_rnn.cli.main import _VERBS

    text = page.read_text(encoding="utf-8")
    assert "pip install 'hf-rnn[" not in text  # it is not on the index: pip install '.[EXTRA]'
    for program, flags in find_commands(text):
        if program.endswith(".py"):
            script = next(iter(ROOT.rglob(Path(program).name)), None)
            assert script is not None, program
            sources = "".join(
                path.read_text(encoding="utf-8") for path in script.parent.rglob("*.py")
            )
            flags -= {*re.findall(r'"(--\w+)"', sources), *list_flags("distill")}
        elif program in _VERBS:
            flags -= list_flags(program)
        else:
            assert program in ("VERB", "help", "-m", "-c") or program.startswith("-"), program
            continue
        assert not flags, program


def test_the_reference_is_current():
    """Otherwise: python scripts/build_reference.py."""
    from build_reference import KEYWORDS, PAGE, build_keywords, build_reference

    assert PAGE.read_text(encoding="utf-8") == build_reference()
    if version("transformers").startswith("5.24."):  # others have other fields of TrainingArguments
        assert KEYWORDS.read_text(encoding="utf-8") == build_keywords()


def test_the_readme_is_short_and_its_badges_are_true():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    badges = (ROOT / ".github" / "badges.svg").read_text(encoding="utf-8")
    (transformers,) = (need for need in project["dependencies"] if need.startswith("transformers"))
    for need in (
        project["requires-python"],
        transformers.removeprefix("transformers"),
        project["license"],
    ):
        assert f">{need.replace('>=', '≥ ')}<" in badges


def test_the_guide_names_every_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    table = (
        (ROOT / "hf_rnn/training/README.md")
        .read_text(encoding="utf-8")
        .partition("\n## Extras\n")[2]
    )
    cells = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(cells))) == sorted(
        project["optional-dependencies"]
    )


# ---- the promises of data/README.md about the sample ----


def read_sample(split):
    lines = (
        (ROOT / "data" / "tweets" / f"{split}.tsv")
        .read_text(encoding="utf-8")
        .removesuffix("\n")
        .split("\n")
    )
    return [tuple(line.split("\t")) for line in lines]


@pytest.mark.parametrize(("split", "least"), [("train", 900), ("dev", 150), ("test", 150)])
def test_form_and_shares_of_the_sample(split, least):
    rows, labels = read_sample(split), ("negative", "neutral", "positive")
    assert len(rows) >= least and all(
        len(row) == 2 and row[0] == row[0].strip() != "" for row in rows
    )
    counts = collections.Counter(label for _, label in rows)
    page = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    cells = (
        re.search(rf"\| `{split}.tsv` \| (.*) \|", page).group(1).replace(" %", "%").split(" | ")
    )
    assert cells == [
        str(len(rows)),
        *(f"{counts[label]} ({counts[label] / len(rows):.1%})" for label in labels),
    ]


def test_no_two_tweets_of_the_sample_are_alike():
    from hf_rnn.data.splits import hash_texts

    texts = [text for split in ("train", "dev", "test") for text, _ in read_sample(split)]
    assert len(set(hash_texts(texts).tolist())) == len(texts)
