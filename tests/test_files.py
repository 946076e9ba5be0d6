"""What is read is looked at first, what is written is whole; all text is UTF-8."""

import ast
import os
import subprocess
from pathlib import Path

import pytest

import jaxnn
from jaxnn import environment, files
from jaxnn.errors import JaxnnError
from jaxnn.files import (
    append_line,
    atomic_file,
    check_folder,
    open_file,
    read_json,
    write_text,
)

ROOT = Path(jaxnn.__file__).parents[1]


def places(folder, wrong, but="", kind=ast.Call):
    """Where the files of a folder, all but one, have a node that is wrong."""
    return [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / folder).rglob("*.py")
        if path != ROOT / but
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, kind) and wrong(node)
    ]


def _names_no_encoding(call):
    """Whether a call opens a text, or a process's, without naming its encoding."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    method = isinstance(call.func, ast.Attribute)
    keys = {k.arg for k in call.keywords}
    words = {a.value for a in call.args if isinstance(a, ast.Constant)}
    if "encoding" in keys or "utf-8" in words:
        return False
    if name in ("read_text", "write_text"):  # else ours, whose first argument is a path
        return method
    if name == "open":
        elsewhere = method and not isinstance(call.func.value, ast.Name | ast.BinOp)
        of_others = method and getattr(call.func.value, "id", "") in OTHERS
        return not (elsewhere or of_others or {"rb", "wb", "ab"} & words)
    return bool(keys & {"text", "universal_newlines"})


OTHERS = ("os", "Image", "packed", "zipfile", "request", "file")
"""What has an `open` of its own, of bytes."""


@pytest.mark.parametrize("folder", ["jaxnn", "experiments", ".ci"])
def test_every_text_is_read_and_written_as_utf8(folder):
    assert places(folder, _names_no_encoding) == []


def _writes_in_place(call):
    """Whether a call writes to a path, and not to the file that `write_with` gives."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    words = {a.value for a in call.args if isinstance(a, ast.Constant)}
    method = isinstance(call.func, ast.Attribute)
    if name in ("savefig", "save", "savez", "savez_compressed"):
        given = {getattr(a, "id", "") for a in call.args}
        return method and not given & {"file", "figure", "self"}
    if name == "open" and getattr(call.args[0], "attr", "") != "devnull":
        return bool({"w", "wb", "a", "ab", "x", "xb"} & words)
    return method and name in ("write_bytes", "write_text")


@pytest.mark.parametrize("folder", ["jaxnn", "experiments"])
def test_every_file_is_written_whole_or_not_at_all(folder):
    assert places(folder, _writes_in_place, but="jaxnn/files.py") == []


@pytest.fixture
def special(tmp_path):
    """Paths that are no regular file, by what errors call them."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    return {
        tmp_path / "pipe": "a special file",
        Path("/dev/zero"): "a special file",
        tmp_path / "loop": "Too many levels of symbolic links",
        tmp_path / "folder": "a folder",
        tmp_path / "none": "no such file",
        tmp_path / "null\0byte": "embedded null",
        tmp_path / ("long" * 100): "File name too long",
    }


def test_only_regular_files_are_read_and_nothing_is_waited_for(special):
    for path, got in special.items():
        with pytest.raises(JaxnnError, match=f"got .*{got}"), open_file(path):
            raise AssertionError("it opened")


def test_no_permission_is_said(tmp_path, monkeypatch):
    def refuse(*_):  # the superuser may read everything
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    said = r"mine: got Permission denied .*permissions"
    with pytest.raises(JaxnnError, match=said), open_file(tmp_path / "mine"):
        raise AssertionError("it opened")


def test_nothing_is_written_through_a_link(tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(kept)
    with pytest.raises(JaxnnError, match="it is a link"):
        append_line(link, {"a": 1})
    write_text(link, "new")  # replaces the link
    assert not link.is_symlink()
    assert (kept.read_text(), link.read_text()) == ("mine", "new")


@pytest.mark.parametrize("write", [append_line, write_text])
@pytest.mark.parametrize("name", ["folder", "null\0byte", "file/below"])
def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path, name, write):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    with pytest.raises(JaxnnError, match=name[:4]):
        write(tmp_path / name, "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_pipe_is_not_written_to(special):
    with pytest.raises(JaxnnError, match="pipe"):
        append_line(next(iter(special)), {})


def test_a_full_disk_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "a"
    write_text(path, "earlier")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(JaxnnError, match=r"a: No space left.*untouched"):
        write_text(path, "later")
    with pytest.raises(RuntimeError), atomic_file(path) as file:  # noqa: PT012
        file.write(b"half")
        raise RuntimeError
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


NOT_JSON = {
    "NaN": ('{"a": NaN}', "NaN is no JSON number"),
    "infinite": ('{"a": [-Infinity]}', "-Infinity is no JSON number"),
    "too large": ('{"a": 1e400}', "1e400 is no JSON number"),
    "twice": ('{"a": 1, "b": {"c": 1, "c": 2}}', "the name 'c' stands twice"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "deep objects": ('{"a":' * 100_000, "nested too deeply"),
    "digits": ("1" * 5000, "beyond 64 bits"),
    "cut": ('{"a": 1', "Expecting"),
    "not text": (b'{"a": "\xff"}', "not UTF-8"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
    "null bytes": (bytes(20), "Expecting value"),
    "empty": ("", "Expecting value"),
}


@pytest.mark.parametrize("name", NOT_JSON)
def test_what_is_no_json_is_named(tmp_path, name):
    content, said = NOT_JSON[name]
    path = tmp_path / "a.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(JaxnnError, match=said) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_a_text_beyond_all_measure_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_TEXT", 10)
    (tmp_path / "a.json").write_text("1" * 11)
    with pytest.raises(JaxnnError, match="got more than 10 bytes"):
        read_json(tmp_path / "a.json")


def test_lines_are_json_whatever_the_numbers(tmp_path):
    path = tmp_path / "rows"
    append_line(path, {"loss": float("nan")})
    append_line(path, {"loss": 0.5})
    assert path.read_text() == '{"loss": null}\n{"loss": 0.5}\n'


@pytest.mark.parametrize(
    "name", ["file", "pipe", "null\0byte", "l" * 300, "file/below"]
)
def test_a_folder_that_cannot_be_written_into_is_told_before_the_work(tmp_path, name):
    (tmp_path / "file").write_text("in the way")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(JaxnnError, match="cannot write into the folder"):
        check_folder(tmp_path / name)
    check_folder(tmp_path / "new" / "below")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "pipe"]


def test_paths_are_asked_about_by_what_never_raises():
    """`Path.exists` raises where a name is too long, or its folder is not readable."""

    def asks(node):  # called here, or handed to `filter` or `map`
        name, attr = (getattr(node.value, key, "") for key in ("id", "attr"))
        # what `iterdir` and `rglob` gave is there; os.path raises nothing
        return node.attr in asked and name not in ("f", "p") and attr != "path"

    asked = {"exists", "is_file", "is_dir", "is_symlink"}
    # the one left out asks of its own folder
    assert places("jaxnn", asks, "jaxnn/app/demo.py", ast.Attribute) == []


@pytest.mark.parametrize(
    ("changed", "dirty"),
    [
        ("experiments/results/a.json", False),
        ("README.md", False),
        ("experiments/README.md", False),
        ("jaxnn/a.py", True),
    ],
)
def test_a_result_that_was_written_is_no_change_of_the_code(
    changed, dirty, tmp_path, monkeypatch
):
    names = "results/a.json", "README.md"
    paths = [tmp_path / "experiments" / name for name in names]
    for path in [*paths, tmp_path / "README.md", tmp_path / "jaxnn" / "a.py"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("before", "utf-8")
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "jaxnn" / "a.py"))
    assert not str(environment.git_commit()).endswith("-dirty")
    (tmp_path / changed).write_text("after", "utf-8")
    assert str(environment.git_commit()).endswith("-dirty") == dirty
