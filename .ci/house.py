"""Check house rules that ruff does not know: `python .ci/house.py [FILE ...]`."""

import ast
import sys
from itertools import chain
from pathlib import Path

# files with older code: remove a name when its file is clean, and never add one
UNCLEAN = set("""

""".split())  # fmt: skip
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def find_fault(node: ast.AST) -> str:
    """Return the rule that a piece of code breaks, or an empty string."""
    inside = {type(part) for part in list(ast.walk(node))[1:]}
    match node:
        case ast.NamedExpr(target=ast.Name(id)) if id not in ("match", "chunk"):
            return "a walrus other than `while chunk := ...` and `if match := ...`"
        case ast.Assign([ast.Tuple(names)], ast.Tuple(values)):
            is_swap = {*map(ast.unparse, names)} == {*map(ast.unparse, values)}
            return "" if is_swap else "two assignments in one"
        case ast.BinOp(ast.List() | ast.Constant() | ast.JoinedStr(), ast.Mult(), factor):
            is_truth = isinstance(factor, ast.Compare | ast.BoolOp) or "bool(" in ast.unparse(
                factor
            )
            return "a product with a truth value" if is_truth else ""
        case ast.IfExp() if ast.IfExp in inside:
            return "a conditional expression inside another"
        case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
            nested = len(node.generators) > 1 or not inside.isdisjoint(COMPREHENSIONS)
            return "a comprehension inside another, or with two loops" if nested else ""
    return ""


if __name__ == "__main__":
    folders = ("hf_rnn", "scripts", ".ci")
    paths = chain.from_iterable(Path(folder).rglob("*.py") for folder in folders)
    names = sys.argv[1:] or sorted(set(map(str, paths)) - UNCLEAN)
    is_wrong = False
    for name in names:
        for node in ast.walk(ast.parse(Path(name).read_text("utf-8"))):
            fault = find_fault(node)
            if fault:
                print(f"{name}:{node.lineno}: {fault}")
                is_wrong = True
    sys.exit(is_wrong)
