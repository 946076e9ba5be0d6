"""Fetching from mirrors that fail in every usual way, and finding what is here.

The mirrors are a small HTTP server in a thread: no test needs the network.
"""

import contextlib
import errno
import gzip
import hashlib
import http.server
import io
import os
import re
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxnn.app.datasets import fetch_dataset, list_datasets, verify_dataset
from jaxnn.data import (
    download,
    fetch,
    load,
    read_idx,
    sources,
    stratified_sample,
    verify,
    write_idx,
)
from jaxnn.data.idx import content_sha256
from jaxnn.data.sources import PARTS, SOURCES, Source, cache_folder, find_parts, locate
from jaxnn.errors import JaxnnError

rng = np.random.default_rng(0)
ARRAYS = {
    "train-images": rng.integers(0, 256, (40, 28, 28)).astype(np.uint8),
    "train-labels": (np.arange(40) % 3).astype(np.uint8),
    "test-images": rng.integers(0, 256, (6, 28, 28)).astype(np.uint8),
    "test-labels": (np.arange(6) % 3).astype(np.uint8),
}


class Mirror(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`; the first folder of the path says how it misbehaves."""

    def do_GET(self):
        how, _, name = self.path.strip("/").partition("/")
        if how == "slow-header":
            return self._drip(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000)
        self.server.asked.append((how, name, self.headers.get("Range")))
        if how in ("gone", "busy") or name not in self.server.files:
            return self.send_error(503 if how == "busy" else 404)
        content = self.server.files[name]
        if how == "wrong":
            content = content[:-1] + b"?"
        first = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        ranges = not how.startswith("plain")
        if asked and ranges:
            first = int(asked[1])
            if first >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
        self.send_response(206 if first else 200)
        if first:
            shown = 0 if how == "shifted" else first
            span = f"bytes {shown}-{len(content) - 1}/{len(content)}"
            self.send_header("Content-Range", span)
        if ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        if how.startswith("slow"):
            self._drip(content[first:])
            return None
        end = len(content) // 2 if how.endswith("cut") else len(content)
        self.wfile.write(content[first:end])
        return None

    def _drip(self, content):
        """A byte at a time, until the other side has had enough."""
        with contextlib.suppress(OSError):
            for byte in content:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                self.server.pause.wait(0.02)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def files():
    """What a mirror offers: four gzips, and a zip that holds them too."""
    packed = {}
    for part, array in ARRAYS.items():
        dims = np.array(array.shape, ">u4").tobytes()
        content = bytes([0, 0, 8, array.ndim]) + dims + array.tobytes()
        packed[f"{PARTS[part]}.gz"] = gzip.compress(content, mtime=0)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as out:
        for part in PARTS:
            kind = PARTS[part].split("-", 2)[2]
            out.writestr(f"gzip/tiny-zip-{part}-{kind}.gz", packed[f"{PARTS[part]}.gz"])
    return {**packed, "gzip.zip": archive.getvalue()}


@pytest.fixture
def mirror(files, tmp_path, monkeypatch):
    """A running server; the data sets `tiny` and `tiny-zip`; empty places to look."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("JAXNN_DATA", raising=False)
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 5.0)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    server.files, server.asked, server.pause = dict(files), [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    sums = {
        part: hashlib.sha256(gzip.decompress(files[f"{name}.gz"])).hexdigest()
        for part, name in PARTS.items()
    }
    good = (f"{server.url}/good/",)
    tiny = Source(3, 40, 6, "none", good, sums)
    monkeypatch.setitem(SOURCES, "tiny", tiny)
    archive = ("gzip.zip", hashlib.sha256(files["gzip.zip"]).hexdigest())
    monkeypatch.setitem(SOURCES, "tiny-zip", tiny._replace(sha256={}, archive=archive))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.pause.set()
    server.shutdown()
    server.server_close()


FIRST = "train-images-idx3-ubyte.gz"


def _names(folder):
    return sorted(f.name for f in folder.iterdir()) if folder.exists() else []


def _is_whole(folder):
    assert _names(folder) == sorted(f"{name}.gz" for name in PARTS.values())
    for part, array in ARRAYS.items():
        got = sources.content_sha256(folder / f"{PARTS[part]}.gz")
        assert got == SOURCES["tiny"].sha256[part], (part, array.shape)


def test_loading_fetches_what_is_nowhere_from_the_first_mirror_that_can(
    mirror, monkeypatch
):
    bases = ("http://127.0.0.1:9/", "nonsense", "http://[", f"{mirror.url}/good/")
    monkeypatch.setitem(SOURCES, "tiny", SOURCES["tiny"]._replace(mirrors=bases))
    data = load("tiny", validation=0)
    assert data.folder == cache_folder() / "tiny"
    _is_whole(data.folder)
    np.testing.assert_array_equal(data.train.x, ARRAYS["train-images"])


def test_what_is_right_is_not_fetched_again_unless_forced(mirror, tmp_path):
    folder = fetch("tiny", folder=tmp_path / "here")
    mirror.asked.clear()
    fetch("tiny", folder=folder)
    assert mirror.asked == []
    (folder / FIRST).write_bytes(b"damaged")
    fetch("tiny", folder=folder)
    assert [name for _, name, _ in mirror.asked] == [FIRST]
    fetch("tiny", folder=folder, force=True)
    assert len(mirror.asked) == 5
    _is_whole(folder)


KEPT = rf"(?s)connection ended after (\d+) of .* \1 bytes stay in .*{FIRST}\.part: the"
FAULTS = {
    # how a mirror misbehaves -> what is said of it, and what of its bytes stays
    "gone": (f"gone/{FIRST}: HTTP 404 Not Found", False),
    "busy": ("HTTP 503", False),
    "wrong": ("wrong bytes: ", False),
    "cut": (KEPT, True),
    "plaincut": ("connection ended after", False),
    "slow": ("too slow: .* expected at least 10,000 a", True),
    "slow-header": ("too slow: .* expected at least 10,000 a", False),
}


@pytest.mark.parametrize("how", FAULTS)
def test_a_bad_mirror_is_named_and_the_next_one_makes_up_for_it(
    mirror, tmp_path, monkeypatch, how
):
    message, stays = FAULTS[how]
    if how.startswith("slow"):
        monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.3)
    bases, folder = [f"{mirror.url}/{how}", f"{mirror.url}/good"], tmp_path / "x"
    start = time.monotonic()
    with pytest.raises(JaxnnError, match=message) as caught:
        fetch("tiny", folder=folder, mirrors=bases[:1])
    assert ("stay in" in str(caught.value)) == stays
    assert _names(folder) == [f"{FIRST}.part"] * stays
    got = (folder / f"{FIRST}.part").stat().st_size if stays else None
    mirror.asked.clear()
    fetch("tiny", folder=folder)  # the same command goes on where it was cut
    assert mirror.asked[0] == ("good", FIRST, f"bytes={got}-" if stays else None)
    _is_whole(folder)
    fetch("tiny", folder=tmp_path / "y", mirrors=bases)
    _is_whole(tmp_path / "y")
    assert time.monotonic() - start < 9


def test_a_mirror_that_never_ends_is_given_up(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MOST_BYTES", 1000)
    with pytest.raises(JaxnnError, match="more than 1,000 bytes"):
        fetch("tiny", folder=tmp_path / "x")
    assert _names(tmp_path / "x") == []


def test_a_part_file_that_is_a_link_is_not_written_through(mirror, tmp_path):
    folder, kept = tmp_path / "x", tmp_path / "kept"
    folder.mkdir()
    kept.write_text("mine")
    (folder / f"{FIRST}.part").symlink_to(kept)
    with pytest.raises(JaxnnError, match=r"\.part: it is a link"):
        fetch("tiny", folder=folder)
    assert kept.read_text() == "mine"


def test_without_a_home_the_data_are_found_and_a_fetch_says_what_to_set(
    mirror, tmp_path, monkeypatch
):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # an unknown user
    assert locate("mnist") is not None
    assert locate("tiny") is None
    with pytest.raises(JaxnnError, match=r"no home directory.* Set HOME, or XDG"):
        fetch("tiny")


@pytest.mark.parametrize("how", ["good", "plain", "shifted"])
@pytest.mark.parametrize("left", ["wrong start", "whole", "too long"])
def test_any_part_file_ends_in_a_right_file(mirror, tmp_path, how, left):
    whole = mirror.files[FIRST]
    start = {"wrong start": b"x" * 100, "whole": whole, "too long": whole + b"more"}
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / f"{FIRST}.part").write_bytes(start[left])
    fetch("tiny", folder=folder, mirrors=[f"{mirror.url}/{how}"])
    _is_whole(folder)


def test_when_every_mirror_fails_each_is_listed_and_nothing_is_left(mirror, tmp_path):
    bases = [f"{mirror.url}/gone", f"{mirror.url}/wrong", "http://127.0.0.1:9"]
    with pytest.raises(JaxnnError) as caught:
        fetch("tiny", folder=tmp_path / "x", mirrors=bases)
    message = str(caught.value)
    assert message.startswith(f"could not download {FIRST}; every mirror failed:")
    assert all(f"{base}/" in message for base in bases)
    assert "Connection refused" in message
    assert _names(tmp_path / "x") == []


def test_an_earlier_file_survives_a_failed_fetch(mirror, tmp_path):
    folder = fetch("tiny", folder=tmp_path / "x")
    with pytest.raises(JaxnnError, match="HTTP 404"):
        fetch("tiny", folder=folder, mirrors=[f"{mirror.url}/gone"], force=True)
    _is_whole(folder)


def test_ctrl_c_keeps_what_has_arrived(mirror, tmp_path, monkeypatch):
    def press(answer, file, *_):
        file.write(answer.read(50))
        file.flush()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "_copy", press)
        with pytest.raises(KeyboardInterrupt, match=r"50 bytes stay in .*\.part"):
            fetch("tiny", folder=tmp_path / "x")
    assert _names(tmp_path / "x") == [f"{FIRST}.part"]
    _is_whole(fetch("tiny", folder=tmp_path / "x"))


def test_a_full_disk_is_no_mirrors_fault(mirror, tmp_path, monkeypatch):
    class Full(io.BufferedWriter):
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    @contextlib.contextmanager
    def open_full(path):
        path.parent.mkdir()
        with Full(io.FileIO(path, "a")) as file:
            yield file

    monkeypatch.setattr(download, "open_to_append", open_full)
    with pytest.raises(JaxnnError, match=r"cannot write .*No space left on device"):
        fetch("tiny", folder=tmp_path / "x")
    assert len(mirror.asked) == 1
    assert _names(tmp_path / "x") == []


def test_two_processes_do_not_write_one_file(mirror, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    folder = tmp_path / "x"
    folder.mkdir()
    with (folder / f"{FIRST}.part").open("wb") as held:
        held.write(b"theirs")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(JaxnnError, match="another process is downloading"):
            fetch("tiny", folder=folder)
    assert (folder / f"{FIRST}.part").read_bytes() == b"theirs"


def test_an_archive_is_checked_and_unpacked_once(mirror):
    folder = fetch("tiny-zip")
    _is_whole(folder)
    assert load("tiny-zip", validation=0).classes == 3
    fetch("tiny-zip")
    assert len(mirror.asked) == 1
    mirror.files["gzip.zip"] += b"!"
    with pytest.raises(JaxnnError, match=r"gzip\.zip: SHA-256 .*, expected"):
        fetch("tiny-zip", force=True)


def test_an_unknown_name_and_a_folder_that_cannot_be_made_are_named(mirror, tmp_path):
    with pytest.raises(JaxnnError, match=r"unknown data set 'minst'.*mnist"):
        fetch("minst")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(JaxnnError, match=r"cannot write .*file/x.*another folder"):
        fetch("tiny", folder=tmp_path / "file" / "x")


# ---- finding


def _fill(folder, names=None):
    names = names or [f"{name}.gz" for name in PARTS.values()]
    for name, array in zip(names, ARRAYS.values(), strict=True):
        write_idx(folder / name, array)
    return folder


def test_places_are_searched_in_the_documented_order(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "__file__", str(tmp_path / "tree/jaxnn/data/s.py"))
    env, tree = tmp_path / "env", tmp_path / "tree" / "data"
    places = [cache_folder() / "tiny", tree / "tiny", env, env / "tiny"]
    (tmp_path / "env").mkdir()
    monkeypatch.setenv("JAXNN_DATA", str(tmp_path / "env"))
    assert locate("tiny") is None
    for place in places:
        _fill(place)
        found = locate("tiny")
        assert found is not None
        assert found.folder == place


def test_a_folder_that_was_chosen_is_not_passed_over(mirror, tmp_path, monkeypatch):
    folder = fetch("tiny")
    (folder / FIRST).unlink()
    # an unfinished fetch is finished
    assert load("tiny", validation=0).folder == folder
    monkeypatch.setenv("JAXNN_DATA", str(tmp_path / "typo"))
    with pytest.raises(JaxnnError, match=r"JAXNN_DATA=.*typo: got no such folder"):
        locate("tiny")
    with pytest.raises(JaxnnError, match="nowhere: got No such file or directory, exp"):
        load(tmp_path / "nowhere")
    _fill(tmp_path / "tiny")
    (tmp_path / "tiny" / FIRST).unlink()
    monkeypatch.setenv("JAXNN_DATA", str(tmp_path))
    with pytest.raises(JaxnnError, match="train-images: nothing"):
        locate("tiny")


@pytest.mark.parametrize(
    "names",
    [
        [f"{n}.gz" for n in PARTS.values()],
        [n.replace("-idx", ".idx") for n in PARTS.values()],
        ["my_TRAIN_Images.bin", "Labels.train", "test-images", "test_labels.gz"],
        ["a-train-images.gz", "a-train-labels", "t10k.images", "T10K.LABELS"],
    ],
)
def test_usual_and_loose_file_names_are_understood(tmp_path, names):
    _fill(tmp_path, names)
    (tmp_path / "README").write_text("no part")
    (tmp_path / f"{FIRST}.part").write_text("unfinished")
    found = find_parts(tmp_path)
    assert [path.name for path in found.values()] == names


def test_of_a_file_and_its_gzip_the_gzip_is_taken(tmp_path):
    _fill(tmp_path)
    _fill(tmp_path, list(PARTS.values()))
    assert all(path.suffix == ".gz" for path in find_parts(tmp_path).values())


def test_one_folder_may_hold_several_emnist_sets(tmp_path):
    for name in ("emnist-digits", "emnist-letters"):
        kinds = [f"{name}-{part}-idx.gz" for part in PARTS]
        _fill(tmp_path, kinds)
    found = find_parts(tmp_path, "emnist-digits")
    assert all(path.name.startswith("emnist-digits-") for path in found.values())
    with pytest.raises(JaxnnError, match="train-images: emnist-digits-train-images-id"):
        find_parts(tmp_path)


def test_missing_and_ambiguous_parts_are_listed_with_what_is_there(tmp_path):
    for name in ("train-a-images", "train-b-images", "train-labels", "notes.txt"):
        (tmp_path / name).write_text("")
    with pytest.raises(JaxnnError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: got")
    assert "train-images: train-a-images or train-b-images\n" in message
    assert "test-images: nothing\n" in message
    assert "expected one IDX file for each, named as in train-images-idx3" in message
    assert "holds: notes.txt, train-a-images" in message


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    folders = {"linux": ".cache", "darwin": "Library/Caches", "win32": "AppData/Local"}
    for platform, parts in folders.items():
        monkeypatch.setattr(sources.sys, "platform", platform)
        monkeypatch.delenv("LOCALAPPDATA", raising=False)
        assert cache_folder() == tmp_path / parts / "jaxnn" / "data"
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_folder() == Path("/elsewhere/jaxnn/data")


# ---- verifying and the tables


def test_verify_tells_each_file_apart(mirror):
    folder = fetch("tiny")
    write_idx(folder / f"{PARTS['train-labels']}.gz", np.zeros(40, np.uint8))
    cut = folder / f"{PARTS['test-images']}.gz"
    cut.write_bytes(cut.read_bytes()[:-9])
    statuses = {s.part: s for s in verify("tiny")}
    found = " ".join(status.status for status in statuses.values())
    assert found == "ok mismatch unreadable ok"
    wrong = statuses["train-labels"]
    assert wrong.expected == SOURCES["tiny"].sha256["train-labels"]
    assert wrong.found == content_sha256(wrong.file)
    assert "ends too early" in statuses["test-images"].found


def test_files_of_a_known_set_are_recognized_in_any_folder(mirror, tmp_path):
    _fill(tmp_path / "copy", list(PARTS.values()))
    write_idx(tmp_path / "copy" / PARTS["test-labels"], np.ones(6, np.uint8))
    assert [s.status for s in verify(tmp_path / "copy")] == ["ok"] * 3 + ["unknown"]


def test_the_published_checksums_are_whole():
    for name, source in SOURCES.items():
        sums = [*source.sha256.values()] or [(source.archive or ("", ""))[1]]
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in sums), name
        assert all(base.startswith("https://") for base in source.mirrors)


def test_the_set_in_the_package_is_the_rows_that_are_told(monkeypatch):
    monkeypatch.delenv("JAXNN_DATA", raising=False)
    assert [s.status for s in verify("mnist-small")] == ["ok"] * 4
    place, whole = locate("mnist-small"), locate("mnist")
    assert place is not None
    assert place.folder.parent.name == "data"
    assert place.folder.parent.parent.name == "jaxnn"
    for part, count in (("train", 6000), ("test", 1000)):
        y = read_idx(whole.files[f"{part}-labels"])
        rows = stratified_sample(y, count, 0)
        assert (read_idx(place.files[f"{part}-labels"]) == y[rows]).all()
        x = read_idx(whole.files[f"{part}-images"])[rows]
        assert (read_idx(place.files[f"{part}-images"]) == x).all()


def test_the_tables_say_what_is_where_and_what_to_do(mirror):
    table = list_datasets()
    assert re.search(r"mnist +10 +60,000 +10,000 +CC BY-SA 3.0 +/.*data/mnist", table)
    assert "not here: jaxnn data fetch tiny" in table
    with pytest.raises(JaxnnError, match="To get it, run: jaxnn data fetch tiny"):
        verify_dataset("tiny")
    assert fetch_dataset("tiny") == f"tiny is now in {cache_folder() / 'tiny'}"
    assert fetch_dataset("tiny").startswith("tiny is already here and intact")
    fine, text = verify_dataset("tiny")
    assert fine
    assert text.count("ok ") == 4
    write_idx(cache_folder() / "tiny" / FIRST, ARRAYS["test-images"])
    fine, text = verify_dataset("tiny")
    assert not fine
    assert re.search(r"mismatch +.*train-images.*\n +expected +[0-9a-f]{64}", text)
    assert "jaxnn data fetch" in text
    assert "is now in" in fetch_dataset("tiny")
    assert verify_dataset("tiny")[0]
