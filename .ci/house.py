"""Check house rules that ruff does not know: `python .ci/house.py [FILE ...]`."""

import ast
import sys
from pathlib import Path

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
    names = sys.argv[1:] or map(
        str, (*Path("hf_rnn").rglob("*.py"), *Path("scripts").rglob("*.py"))
    )
    faults: list[str] = []
    for name in sorted(names):
        for node in ast.walk(ast.parse(Path(name).read_text("utf-8"))):
            faults.append(f"{name}:{getattr(node, 'lineno', 0)}: {find_fault(node)}")
    faults = [fault for fault in faults if not fault.endswith(": ")]
    sys.exit("\n".join(faults) or None)
