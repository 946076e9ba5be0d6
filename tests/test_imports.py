"""Imports run one way, and each door loads what it needs and no more."""

import ast
import importlib
import importlib.util
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import jaxnn

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
        (
            "jaxnn.guard",
            "jaxnn.check",
            "jaxnn.app",
            "jaxnn.distributed.processes",
            "tqdm",
            "matplotlib",
        ),
    ),
    "import jaxnn.attacks": (60, ("jaxnn.train", "jaxnn.app")),
}


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
