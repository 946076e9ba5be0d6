"""Parameters written and read: exact, whole, and never another network's."""

import io
import json
import subprocess
import sys
import tracemalloc
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import load_params, mlp, save_params
from jaxnn.errors import JaxnnError
from jaxnn.train.checkpoint import load_meta

NET = mlp([6, 5, 3], normalize=True)


def tree(net=NET, features=6, seed=0):
    params, state, _ = net.init(jax.random.key(seed), (features,))
    return {"params": params, "state": state}


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_a_round_trip_is_exact_in_every_dtype(tmp_path, dtype):
    saved = jax.tree.map(lambda a: a.astype(dtype), tree())
    save_params(tmp_path / "p.npz", saved, {"epoch": 3})
    found = load_params(tmp_path / "p.npz", saved)
    assert jax.tree.structure(found) == jax.tree.structure(saved)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(saved), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert load_meta(tmp_path / "p.npz") == {"epoch": 3}


def test_numpy_reads_the_file_without_pickle(tmp_path):
    save_params(tmp_path / "p.npz", tree())
    with np.load(tmp_path / "p.npz", allow_pickle=False) as file:
        assert file["params/1/w"].shape == (6, 5)
        assert json.loads(str(file["__jaxnn__"]))["format"] == 1


def test_params_of_another_network_are_refused_by_name(tmp_path):
    save_params(tmp_path / "p.npz", tree(mlp([6, 4, 3])))
    with pytest.raises(
        JaxnnError, match=r"another network.*params/1/w.*\(6, 4\).*\(6, 5\)"
    ):
        load_params(tmp_path / "p.npz", tree())


def test_every_truncation_is_refused(tmp_path):
    save_params(tmp_path / "p.npz", tree())
    whole = (tmp_path / "p.npz").read_bytes()
    for size in range(0, len(whole), max(len(whole) // 40, 1)):
        (tmp_path / "cut.npz").write_bytes(whole[:size])
        with pytest.raises(JaxnnError, match=r"cut\.npz"):
            load_params(tmp_path / "cut.npz", tree())


def test_flipped_bytes_are_refused_or_harmless(tmp_path):
    saved = tree()
    save_params(tmp_path / "p.npz", saved)
    whole = bytearray((tmp_path / "p.npz").read_bytes())
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(whole), 60):
        broken = bytearray(whole)
        broken[at] ^= 0xFF
        (tmp_path / "b.npz").write_bytes(broken)
        try:
            found = load_params(tmp_path / "b.npz", saved)
        except JaxnnError:
            continue
        same = jax.tree.map(lambda a, b: bool((a == b).all()), found, saved)
        assert jax.tree.all(same), f"byte {at} changed a number silently"


def test_a_file_of_another_program_and_of_a_newer_format_is_refused(tmp_path):
    np.savez(tmp_path / "o.npz", w=np.zeros(3))
    with pytest.raises(JaxnnError, match="not written by jaxnn"):
        load_params(tmp_path / "o.npz", tree())
    header = json.dumps({"format": 99, "meta": {}, "arrays": {}})
    np.savez(tmp_path / "n.npz", __jaxnn__=np.array(header))
    with pytest.raises(JaxnnError, match="format 99"):
        load_params(tmp_path / "n.npz", tree())


def rewritten(path, change, compress=zipfile.ZIP_DEFLATED):
    """The file at `path` with other members: `change(members)` of name -> bytes."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", compress) as file:
        for name, content in members.items():
            with file.open(name, "w", force_zip64=True) as opened:
                for part in content if isinstance(content, list) else [content]:
                    opened.write(part)


def as_npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def packed_zeros(members):
    """An array of 256 MB that packs into 260 kB."""
    start = io.BytesIO()
    about = {"descr": "<f4", "fortran_order": False, "shape": (1 << 26,)}
    np.lib.format.write_array_header_1_0(start, about)
    members["params/1/w.npy"] = [start.getvalue(), *[bytes(1 << 26)] * 4]


DEEP = "[" * 100_000 + "]" * 100_000


def first(change):
    """What `change` makes of the first array, in its place."""
    return lambda m: m.update({"params/1/w.npy": as_npy(change(W))})


W = np.asarray(tree()["params"][1]["w"])
CHANGES = {
    "complex": first(lambda a: a.astype(complex)),
    "whole": first(lambda a: a.astype(int)),
    "truths": first(lambda a: a.astype(bool)),
    "objects": first(lambda a: a.astype(object)),
    "bytes": first(lambda a: a.astype("S8")),
    "text": first(lambda a: a.astype("U8")),
    "long floats": first(lambda a: a.astype(np.longdouble)),
    "time": first(lambda a: np.ones(a.shape, "M8[s]")),
    "record": first(lambda a: a.astype([("a", a.dtype), ("b", a.dtype)])),
    "another shape": first(lambda a: a[None]),
    "nothing": first(lambda a: a[:0]),
    "longer than its shape": lambda m: m.update(
        {"params/1/w.npy": m["params/1/w.npy"] + bytes(8)}
    ),
    "no array": lambda m: m.update({"params/1/w.npy": b"not an array"}),
    "one array more": lambda m: m.update({"more.npy": as_npy(W)}),
    "one array less": lambda m: m.pop("params/1/w.npy"),
    "deep header": lambda m: m.update({"__jaxnn__.npy": as_npy(np.array(DEEP))}),
    "header of numbers": lambda m: m.update({"__jaxnn__.npy": as_npy(np.ones(3))}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_members_of_another_kind_are_refused(tmp_path, name):
    path = tmp_path / "p.npz"
    save_params(path, tree())
    rewritten(path, CHANGES[name])
    with pytest.raises(JaxnnError, match=r"p\.npz"):
        load_params(path, tree())


def test_bytes_in_another_machines_order_are_the_same_numbers(tmp_path):
    path = tmp_path / "p.npz"
    save_params(path, tree())
    rewritten(path, first(lambda a: a.astype(a.dtype.newbyteorder())))
    np.testing.assert_array_equal(load_params(path, tree())["params"][1]["w"], W)


@pytest.mark.parametrize("dtype", ["int64", "complex128", "<U3", "bool"])
def test_types_that_the_header_admits_to_are_refused_too(tmp_path, dtype):
    path = tmp_path / "p.npz"
    save_params(path, {"w": np.ones(3).astype(dtype)})
    with pytest.raises(JaxnnError, match=r"p\.npz.*(of type|header|not understood)"):
        load_params(path, {"w": jnp.ones(3)})


def test_a_small_file_that_unpacks_to_a_large_one_is_refused_unread(tmp_path):
    path = tmp_path / "p.npz"
    save_params(path, tree())
    rewritten(path, packed_zeros)
    assert path.stat().st_size < 1e6
    tracemalloc.start()
    with pytest.raises(JaxnnError, match=r"another network.*params/1/w: got \(671"):
        load_params(path, tree())
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


FULL_DISK = """
import resource, signal, sys
import numpy as np
from jaxnn.errors import JaxnnError
from jaxnn.train.checkpoint import save_params
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    save_params(sys.argv[1], {"w": np.ones(100_000)})
except JaxnnError as error:
    print("refused:", error)
"""


def test_a_full_disk_leaves_the_earlier_file_whole(tmp_path):
    path = tmp_path / "p.npz"
    saved = {"w": jnp.arange(5.0)}
    save_params(path, saved)
    before = path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True
    )
    assert "refused: cannot write" in done.stdout, done.stderr
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["p.npz"]
