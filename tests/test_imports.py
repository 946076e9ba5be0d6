"""Imports run one way, and each door loads what it needs and no more."""

import ast
import importlib
import importlib.util
import pkgutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import jaxnn
from jaxnn.traced import source_place

ROOT = Path(jaxnn.__file__).parent


def imports(path):
    """Packages of jaxnn that a file imports at its top."""
    for node in ast.parse(path.read_text("utf-8")).body:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            whole = node.module == "jaxnn"
            names = [f"jaxnn.{a.name}" for a in node.names] if whole else [node.module]
        yield from (n.split(".")[1] for n in names if n.startswith("jaxnn."))


def graph():
    """Room -> the rooms it imports; a room is a package or a module beside them."""
    found: dict[str, set[str]] = {}
    for path in ROOT.rglob("*.py"):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if room != "__init__":
            found.setdefault(room, set()).update(set(imports(path)) - {room})
    return found


def cycles(edges):
    """Rooms that can be reached from themselves."""
    reach = {room: set(to) for room, to in edges.items()}
    for _ in reach:
        for room in reach:
            reach[room] |= set().union(*(reach.get(other, ()) for other in reach[room]))
    return sorted(room for room in reach if room in reach[room])


def test_no_rooms_import_each_other_in_a_circle():
    assert cycles(graph()) == []


def test_a_circle_is_found():
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b", "c"]


def loaded(statement):
    """Modules in a fresh process after `statement`."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


# code -> most modules of jaxnn, what must not be loaded
DOORS = {
    "import jaxnn": (1, ("jax", "numpy")),
    "from jaxnn import fit": (
        60,
        ("jaxnn.guard", "jaxnn.check", "jaxnn.app", "jaxnn.distributed.processes",
         "tqdm", "matplotlib"),
    ),
    "import jaxnn.attacks": (60, ("jaxnn.train", "jaxnn.app")),
    "import jaxnn.plots, jaxnn.app.report": (10, ("jax", "matplotlib.pyplot")),
    "import jaxnn.data, jaxnn.app.datasets": (20, ("jax",)),
}  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
def test_a_door_loads_what_it_needs(door):
    most, unwanted = DOORS[door]
    found = loaded(door)
    ours = [m for m in found if m.split(".")[0] == "jaxnn"]
    assert len(ours) <= most
    assert not [m for m in found for u in unwanted if m == u or m.startswith(f"{u}.")]


def test_no_module_needs_what_is_private_to_jax_when_it_is_loaded():
    found = []
    for path in ROOT.rglob("*.py"):
        for node in ast.parse(path.read_text("utf-8")).body:
            names = [a.name for a in getattr(node, "names", [])]
            words = " ".join([str(getattr(node, "module", "")), *names])
            found += [path.name] if "jax._src" in words else []
    assert found == []


def private(path):
    """Where a file imports what is private to JAX: (line, whether it may be gone)."""
    tree = ast.parse(path.read_text("utf-8"))
    guarded = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.Try)
        and any("ImportError" in ast.unparse(h.type) for h in node.handlers if h.type)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            words = ast.unparse(node)
            if any(w in words for w in ("jax._src", "jax.interpreters", "jaxlib.xla")):
                yield node.lineno, node in guarded


def test_what_is_private_to_jax_has_a_second_path():
    found = {p.name: [*private(p)] for p in ROOT.rglob("*.py") if [*private(p)]}
    assert {*found} == {"traced.py", "processes.py"}  # a test of each path: below,
    # and tests/parallel/test_processes.py
    assert all(guarded for places in found.values() for _, guarded in places)


def test_a_jax_that_keeps_its_places_elsewhere_leaves_them_out(monkeypatch):
    program = jax.make_jaxpr(lambda x: x + 1)(1.0)
    assert source_place(program.eqns[0])[0] == __file__
    monkeypatch.delattr(jax._src, "source_info_util")
    monkeypatch.setitem(sys.modules, "jax._src.source_info_util", None)
    assert source_place(program.eqns[0]) is None


def test_editors_see_every_public_name():
    body = ast.parse(Path(str(jaxnn.__file__)).read_text("utf-8")).body
    block = next(node for node in body if isinstance(node, ast.If))
    seen = {
        alias.name
        for node in block.body if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }  # fmt: skip
    assert seen == set(jaxnn.__all__)


def test_every_public_name_is_there():
    assert not [name for name in jaxnn.__all__ if not hasattr(jaxnn, name)]


def test_no_package_takes_the_place_of_a_function():
    for module in pkgutil.iter_modules(jaxnn.__path__):
        if module.name != "sklearn" or importlib.util.find_spec("sklearn"):  # an extra
            importlib.import_module(f"jaxnn.{module.name}")
    hidden = [n for n in jaxnn._HOME if isinstance(getattr(jaxnn, n), type(ast))]
    assert not hidden
