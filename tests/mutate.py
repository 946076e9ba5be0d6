"""Do the tests notice a fault? Small faults, one at a time, in a copy of the tree.

    python -m tests.mutate rules/norm.py losses [--count 40] [--seed 0] [--timeout 600]

Each target is a file or folder of `jaxnn/`; its mutants are drawn by the seed. A mutant
is one changed operator, comparison, number, truth value or condition; the tests of its
room run until one fails, those named after its file first. What survives is printed
with its place: a test is missing, or the change makes no difference. What ends only by
the timeout is counted apart. The exit status is 1 if more than a tenth survive.
"""

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

SWAPS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.Lt: ast.LtE, ast.LtE: ast.Lt,
    ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


class Mutant(NamedTuple):
    """One changed expression: where it stands, and what stands there instead."""

    path: Path
    line: int
    start: int
    end: int
    old: str
    new: str

    def __str__(self) -> str:
        where = self.path.relative_to(ROOT)
        return f"{where}:{self.line}: {self.old[:60]}  ->  {self.new[:60]}"


def changed(node: ast.expr) -> Iterator[ast.expr]:
    """Other expressions that may stand in its place."""
    if isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in SWAPS:
        other = ast.parse(ast.unparse(node), mode="eval").body
        other.op = SWAPS[type(node.op)]()  # type: ignore[attr-defined]
        yield other
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        ops = [SWAPS[type(node.ops[0])](), *node.ops[1:]]
        yield ast.Compare(node.left, ops, node.comparators)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(node.test, node.orelse, node.body)


def mutants(path: Path) -> list[Mutant]:
    """Every mutant of a file, but in errors, annotations and types."""
    text = path.read_text("utf-8")
    starts = [0]
    for line in text.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Assert)):
            return
        if isinstance(node, ast.expr):
            for other in changed(node):
                start = starts[node.lineno - 1] + node.col_offset
                end = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
                old = text.encode()[start:end].decode()
                new = f"({ast.unparse(other)})"
                found.append(Mutant(path, node.lineno, start, end, old, new))
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "type_params"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    visit(child)

    visit(ast.parse(text))
    return found


def tests_of(path: Path) -> list[str]:
    """The tests of its room, those named after the file or the room first."""
    room = path.relative_to(ROOT / "jaxnn").parts[0].removesuffix(".py")
    files = (ROOT / "tests" / room).glob("test_*.py")
    order = sorted(
        files, key=lambda f: (path.stem not in f.stem, room not in f.stem, f)
    )
    return [str(f.relative_to(ROOT)) for f in order] or [f"tests/test_{room}.py"]


def outcome(mutant: Mutant, tree: Path, timeout: float) -> str:
    """What the tests of its room say in `tree`, a copy, with the mutant in it."""
    path = tree / mutant.path.relative_to(ROOT)
    whole = path.read_bytes()
    path.write_bytes(
        whole[: mutant.start] + mutant.new.encode() + whole[mutant.end :]
    )  # fmt: skip
    words = [sys.executable, "-m", "pytest", "-n", "0", "-x", "-q", "--no-header"]
    try:
        run = subprocess.run(
            [*words, "-p", "no:cacheprovider", *tests_of(mutant.path)],
            cwd=tree, env=os.environ | {"PYTHONPATH": str(tree), "CI": "true"},
            capture_output=True, timeout=timeout,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "timed out"
    finally:
        path.write_bytes(whole)
    if run.returncode not in (0, 1, 2):  # all pass, one fails, one cannot be imported
        sys.exit(f"pytest: {run.stdout.decode()[-500:]}{run.stderr.decode()[-500:]}")
    return "killed" if run.returncode else "survives"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="+", help="files or folders of jaxnn/")
    parser.add_argument("--count", type=int, default=40, help="mutants that are tried")
    parser.add_argument("--seed", type=int, default=0, help="which of them")
    parser.add_argument("--timeout", type=float, default=600, help="seconds of a run")
    given = parser.parse_args()
    found = []
    for target in given.targets:
        path = ROOT / "jaxnn" / target
        paths = [path] if path.is_file() else sorted(path.rglob("*.py"))
        if not any(p.is_file() for p in paths):
            parser.error(f"no file or folder {path}")
        found += [m for p in paths for m in mutants(p)]
    chosen = random.Random(given.seed).sample(found, min(given.count, len(found)))
    ends = []
    with tempfile.TemporaryDirectory() as folder:
        leave = shutil.ignore_patterns(".*", "__pycache__", "results", "runs")
        shutil.copytree(ROOT, folder, ignore=leave, dirs_exist_ok=True)
        for i, mutant in enumerate(chosen, 1):
            ends.append(outcome(mutant, Path(folder), given.timeout))
            print(f"{i} of {len(chosen)}: {ends[-1]}: {mutant}", file=sys.stderr)
    counts = ", ".join(f"{n} {end}" for end, n in Counter(ends).most_common())
    print(f"{len(chosen)} of {len(found)} mutants: {counts}")
    left = [(e, m) for e, m in zip(ends, chosen, strict=True) if e != "killed"]
    print(*(f"{end}: {mutant}" for end, mutant in left), sep="\n")
    return int(ends.count("survives") > len(chosen) / 10)


if __name__ == "__main__":
    sys.exit(main())
