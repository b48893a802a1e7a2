"""Check that texts and names are plain English: `python .ci/prose.py [FILE or FOLDER ...]`.

Reads docstrings, comments, literals (not in tests) and defined names of Python files, comments of
YAML files, and Markdown; skips code in backticks. Prints `file:line: check: text` and exits with 1
if anything is found.
"""

import ast
import re
import sys
import tokenize
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

from proselint import checks as built_in
from proselint.registry import CheckRegistry, checks
from proselint.tools import LintFile

# The one list of forbidden patterns. Case is ignored. ¶ starts a paragraph, a comment or a string,
# § a name.
PATTERNS = {
    "tell, stand": r"\b(tell|tells|telling|told)\b|\bstands?\b(?![- ](alone|for|out))",
    "is no": r"(?<!\bthere )\b(is|are|was|were) no\b(?! (longer|more|less|fewer)\b)",
    "none": r"(?-i:\b(is|are|was|were|has|have|had|be) none\b|\bnone (is|are|was|were|has|have)\b)",
    "go on": r"\b(go|goes|gone|going|went) on\b(?! (the|a|top)\b)|\b(gone back|let go|hangs? on|"
    r"(tak(e|es|en|ing)|took|giv(e|es|en|ing)|gave) up)\b",
    "word": r"\b(anew|so (many|much)|sooner|likewise|in vain|as good as|be it|made of what|"
    r"as soon done|lies?)\b",
    "relative": r"\b(of|by|from|to|in) which\b|\b(save that|but that|but for)\b|\bwhose \w+ no \w+",
    "start": r"(?<=[¶§] )(who|what|which|whoever|wherever|of) (?=\w[^?¶]*¶)|"
    r"(?-i:(?<=[.:!?¶] )Where (?=[^?.¶|]*, )"
    r"|(?<=[.:!?] )((Who|What|Which|Whoever|Wherever) (?=[^?.¶|]*\.)|Of ))",
    "twice": r"(?<=\s)(?!(that|had|code) )([a-z]{2,}) \2(?=\s)",
}
BUILT_IN = ("archaism", "redundancy", "nonwords", "malapropisms", "cliches", "needless_variants")
CODE = re.compile(r"``?[^`]+``?|\w+://\S+|\S*\w_\w\S*")


def read_strings(tree: ast.Module, literals: bool) -> Iterator[tuple[int, str]]:
    """Yield line and text of docstrings, of other literals if asked for, and of names after a §."""
    nodes = list(ast.walk(tree))
    parts = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.JoinedStr) and literals:
            pieces = [
                part.value if isinstance(part, ast.Constant) else "`x`" for part in node.values
            ]
            yield node.lineno, f"¶ {''.join(pieces)}"
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts
        ):
            if " " in node.value and (literals or id(node) in docstrings):
                yield node.lineno, f"¶ {node.value}"
        elif not isinstance(getattr(node, "ctx", None), ast.Load):  # what defines a name
            for name in filter(
                None, (getattr(node, key, None) for key in ("name", "arg", "id", "attr"))
            ):
                yield getattr(node, "lineno", 1), f"¶ § {str(name).strip('_').replace('_', ' ')}"


def read_texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of each piece of prose in a file."""
    source = path.read_text(encoding="utf-8")
    lines, starts = source.split("\n"), {}
    if path.suffix == ".md":
        yield (
            1,
            "¶ "
            + re.sub(
                r"^```.*?^```", lambda code: "\n" * code[0].count("\n"), source, flags=re.S | re.M
            ),
        )
    elif path.suffix == ".py":
        yield from read_strings(ast.parse(source), literals="tests" not in path.resolve().parts)
        tokens = tokenize.generate_tokens(iter([f"{line}\n" for line in lines]).__next__)
        starts = dict(token.start for token in tokens if token.type == tokenize.COMMENT)
    else:
        starts = {
            row: match.start()
            for row, line in enumerate(lines, 1)
            if (match := re.search(r"(?<!\S)#", line))
        }
    for row, column in starts.items():
        continued = row - 1 in starts and not lines[row - 1][:column].strip()
        yield row, ("" if continued else "¶ ") + lines[row - 1][column:].lstrip("#: ")


def check_file(path: Path) -> Iterator[str]:
    """Yield a line for each finding in a file."""
    words, starts, rows = [], [0], []
    for first, text in read_texts(path):
        for row, line in enumerate(
            CODE.sub(lambda m: "CODE" + "\n" * m[0].count("\n"), text).split("\n"), first
        ):
            for word in line.split() or ["¶"]:
                words.append(word), rows.append(row), starts.append(starts[-1] + len(word) + 1)
    view, enabled = " ".join([*words, "¶"]), dict.fromkeys(("plain", *BUILT_IN), True)
    for (check, _, (start, end), _), _ in LintFile(str(path), view).lint(
        {"max_errors": 10**6, "checks": enabled}
    ):
        row = rows[bisect_right(starts, start - 1) - 1]
        yield f"{path}:{row}: {check}: {view[max(0, start - 31) : end + 30]}"


for name, pattern in PATTERNS.items():
    check, flags = checks.types.ExistenceSimple(pattern), checks.CheckFlags(allow_quotes=True)
    CheckRegistry().register(
        checks.Check(check, checks.engine.Fancy(), f"plain.{name}", flags=flags)
    )
CheckRegistry().register_many(built_in.__register__)
names = sys.argv[1:] or ("hf_rnn", "scripts", "tests", "data", ".github", "README.md")
files = (file for root in map(Path, names) for file in [root, *sorted(root.rglob("*.*"))])
findings = [
    line
    for file in files
    if file.suffix in (".py", ".yaml", ".yml", ".md")
    for line in check_file(file)
]
print("\n".join(findings) or "prose: nothing found")
sys.exit(bool(findings))
