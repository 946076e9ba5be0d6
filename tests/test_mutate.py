"""The tool that makes mutants changes what it says, and nothing else."""

import ast

from tests import mutate

CODE = '''"""A docstring with 1 + 1."""


def f(x: int = 2) -> "1 + 1":
    if x < 3 and not x:
        raise ValueError(f"got {x + 1}")
    return -x * 4 if x else True
'''
WANTED = {
    "2 -> (3)", "3 -> (4)", "x < 3 -> (x <= 3)", "not x -> (x)",
    "x < 3 and not x -> (x < 3 or not x)", "-x -> (x)", "4 -> (5)",
    "-x * 4 -> (-x / 4)", "-x * 4 if x else True -> (True if x else -x * 4)",
    "True -> (False)",
}  # fmt: skip


def test_every_mutant_is_one_change_that_compiles(tmp_path):
    path = tmp_path / "code.py"
    path.write_text(CODE)
    found = mutate.mutants(path)
    assert {f"{m.old} -> {m.new}" for m in found} == WANTED
    for m in found:
        whole = CODE.encode()
        text = (whole[: m.start] + m.new.encode() + whole[m.end :]).decode()
        assert ast.dump(ast.parse(text)) != ast.dump(ast.parse(CODE))


def test_a_fault_is_noticed_and_a_harmless_change_is_not(tmp_path, monkeypatch):
    for folder in ("jaxnn", "tests"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(mutate, "ROOT", tmp_path)
    source = tmp_path / "jaxnn" / "code.py"
    source.write_text("def f(x):\n    unused = 3\n    return -x\n")
    (tmp_path / "tests" / "test_code.py").write_text(
        "from jaxnn.code import f\n\n\ndef test_f():\n    assert f(1) == -1\n"
    )
    (tmp_path / "jaxnn" / "__init__.py").touch()
    found = {m.new: mutate.outcome(m, tmp_path, 60) for m in mutate.mutants(source)}
    assert found == {"(4)": "survives", "(x)": "killed"}
