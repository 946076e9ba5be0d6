"""A killed run goes on bit for bit as if nothing had been; or says why it cannot."""

import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from tempfile import TemporaryDirectory

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnn import mlp
from jaxnn.errors import JaxnnError
from jaxnn.files import locked
from jaxnn.train import Snapshots, fit
from jaxnn.train.checkpoint import save_params
from jaxnn.train.run import BestEpoch, History, Run
from tests.train.problem import blobs

NET = mlp([6, 8, 3], normalize=True, drop_rate=0.1)
DATA, HELD = blobs(160), blobs(40, seed=1)


def train(epochs=6, folder=None, resume=False, every=None, **options):
    kept = folder and Snapshots(folder, every=every, resume=resume)
    usual = {"optimizer": optax.adam(0.02), "snapshots": kept, "validation": HELD}
    data = options.pop("data", DATA)
    return fit(NET, data, epochs=epochs, batch=32, **(usual | options))


def same(a, b):
    """Bit for bit: parameters, best parameters, history but for the seconds."""
    assert bits((a.last, a.params, a.state)) == bits((b.last, b.params, b.state))
    rows = [[row | {"seconds": 0} for row in h.epochs] for h in (a, b)]
    assert rows[0] == rows[1]
    assert (a.best_epoch, a.stopped) == (b.best_epoch, b.stopped)


def bits(tree):
    def one(a):
        is_key = jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(a) if is_key else a).tobytes()

    return [one(a) for a in jax.tree.leaves(tree)]


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def whole():
    return train()


def test_a_run_continues_bit_for_bit_from_an_epoch(tmp_path, whole):
    train(3, tmp_path)
    same(train(6, tmp_path, resume=True), whole)


@pytest.mark.slow
def test_a_run_that_ended_is_read_back_with_nothing_left_to_do(tmp_path, whole):
    train(6, tmp_path)
    same(train(6, tmp_path, resume=True), whole)


def test_a_run_continues_bit_for_bit_within_an_epoch(tmp_path):
    """The snapshots of a run that ended are thinned to what a kill would leave."""
    kept = tmp_path / "kept"
    kept.mkdir()
    written = Snapshots._write

    def keeping(self, epoch, first, *rest):
        written(self, epoch, first, *rest)
        shutil.copy(self.path(epoch, first), kept)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Snapshots, "_write", keeping)
        uninterrupted = train(3, tmp_path / "a", every=2)
    assert "snapshot-000001-0000004.npz" in files(kept)
    (tmp_path / "b").mkdir()
    shutil.copy(kept / "snapshot-000001-0000004.npz", tmp_path / "b")
    same(train(3, tmp_path / "b", resume=True, every=2), uninterrupted)


def test_seeds_average_patience_and_the_guards_count_continue(tmp_path):
    x, y = DATA[0].copy(), DATA[1]
    x[7] = 1e200  # a bad row: steps with it are skipped, and one is located
    options = {
        "seeds": [0, 5], "ema": 0.9, "patience": 2, "data": (x, y), "guard": "skip",
        "optimizer": optax.adam(0.3),
    }  # fmt: skip
    straight = train(12, **options)
    train(2, tmp_path, **options)
    resumed = train(12, tmp_path, resume=True, **options)
    same(resumed, straight)
    found = [finding.lines() for finding in resumed.findings]
    assert found == [finding.lines() for finding in straight.findings]
    assert found


@pytest.mark.slow
def test_random_numbers_of_the_optimizer_continue(tmp_path):
    options = {"optimizer": optax.chain(optax.add_noise(0.1, 0.5, 3), optax.sgd(0.1))}
    train(1, tmp_path, **options)
    same(train(2, tmp_path, resume=True, **options), train(2, **options))


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    schedule = optax.exponential_decay(0.01, 5, 8.0)  # grows: the best is not the last
    history = train(9, tmp_path, optimizer=optax.sgd(schedule))
    best = history.best_epoch
    assert best < 8
    expected = [f"snapshot-{epoch:06d}-0000000.npz" for epoch in (best, 8, 9)]
    assert files(tmp_path) == expected


def test_a_folder_in_use_is_not_taken_for_another_run(tmp_path):
    train(1, tmp_path)
    with pytest.raises(JaxnnError, match="already holds some"):
        Snapshots(tmp_path)
    with pytest.raises(JaxnnError, match="keep=0"):
        Snapshots(tmp_path / "new", keep=0)


def test_parameters_alone_are_no_snapshot(tmp_path):
    """Files cut or foreign: test_checkpoint.py, tests/app/test_damaged_files.py."""
    path = tmp_path / "snapshot-000001-0000000.npz"
    save_params(path, {"w": np.ones(3)})
    with pytest.raises(JaxnnError, match=f"{path.name} is not a snapshot"):
        train(2, tmp_path, resume=True)


@functools.cache
def snapshot_bytes():
    with TemporaryDirectory() as folder:
        train(1, folder)
        return Snapshots(folder, resume=True).path(1, 0).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 1}, r"seeds is \[0\] there and \[1\] here"),
        ({"data": blobs(160, seed=3)}, "training data is crc32"),
        ({"dtype": "float32"}, "dtype is float64 there and float32"),
        ({"optimizer": optax.sgd(0.1)}, "another network"),
    ],
)
def test_another_run_is_not_continued(tmp_path, change, message):
    (tmp_path / "snapshot-000001-0000000.npz").write_bytes(snapshot_bytes())
    with pytest.raises(JaxnnError, match=message):
        train(2, tmp_path, resume=True, **change)


def test_one_changed_label_is_another_run(tmp_path):
    x, y = blobs(2200)
    train(1, tmp_path, data=(x, y))
    changed = y.copy()
    changed[1] = (changed[1] + 1) % 3
    with pytest.raises(JaxnnError, match="training data is crc32"):
        train(2, tmp_path, resume=True, data=(x, changed))


def test_settings_that_were_edited_since_are_named(tmp_path):
    def go_on(epochs, resume, **settings):
        kept = Snapshots(tmp_path, resume=resume, settings=settings)
        return train(epochs, snapshots=kept)

    go_on(1, False, lr=0.1, layers=(8,))
    with pytest.raises(JaxnnError, match=r"setting lr is 0\.1 there and 0\.2 here"):
        go_on(2, True, lr=0.2, layers=(8,))
    assert len(go_on(2, True, lr=0.1, layers=(8,)).epochs) == 2


def test_a_damaged_newest_snapshot_gives_way_to_an_older_one(tmp_path, whole):
    train(3, tmp_path)
    newest = tmp_path / "snapshot-000003-0000000.npz"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 0xFF
    newest.write_bytes(content)
    said, rows = [], []
    kept = Snapshots(tmp_path, resume=True, log=said.append, restored=rows.extend)
    same(train(6, snapshots=kept), whole)
    assert len(rows) == 2  # what the snapshot holds is told, for metrics.jsonl
    assert "snapshot-000003-0000000.npz cannot be read" in said[0]
    assert "an older one is resumed" in said[0]
    assert (tmp_path / "snapshot-000003-0000000.npz.damaged").exists()


def test_a_snapshot_written_late_is_of_its_own_epoch(tmp_path, monkeypatch, whole):
    """The run goes on while a slow disk writes; each file holds its own history."""

    def late(*of):
        time.sleep(0.3)  # an epoch takes milliseconds
        save_params(*of)

    monkeypatch.setattr("jaxnn.train.snapshots.save_params", late)
    train(3, tmp_path)
    (tmp_path / "snapshot-000003-0000000.npz").unlink()
    same(train(6, tmp_path, resume=True), whole)


def test_a_whole_snapshot_of_another_run_is_not_called_damaged(tmp_path):
    other = tmp_path / "other"
    train(1, tmp_path)
    train(2, other, seeds=1)
    shutil.copy(other / "snapshot-000002-0000000.npz", tmp_path)
    said = []
    kept = Snapshots(tmp_path, resume=True, log=said.append)
    train(1, snapshots=kept)
    assert "is a snapshot of another run: seeds is [1] there" in said[0]
    assert files(tmp_path)[-1] == "snapshot-000002-0000000.npz.other"


HOLDER = """
import sys, time
from jaxnn.files import locked
with locked(sys.argv[1], "snapshots in"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_processes_do_not_train_one_run_and_a_dead_one_holds_nothing(tmp_path):
    words = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(JaxnnError, match="in use by another process"):
            train(1, tmp_path)
        assert files(tmp_path) == [".lock"]
        holder.kill()
    with locked(tmp_path, "run"), pytest.raises(JaxnnError, match="in use"):
        train(1, tmp_path)
    train(1, tmp_path)
    assert files(tmp_path) == ["snapshot-000001-0000000.npz"]


@pytest.fixture(scope="module")
def waiting():
    """A run of `fit` before its first step."""
    caught = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "train", lambda self, *_, **__: caught.append(self))
        train(1)
    (run,) = caught
    run.stopping = BestEpoch(run.ts, 1, False, None)
    run.history = History(run.ts.params, run.ts.state, run.ts, 0)
    return run


def places(value, depth=4):
    """Paths to all parts of a JSON value."""
    if depth and isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in pairs:
            yield (key,)
            yield from ((key, *rest) for rest in places(part, depth - 1))


def refusal(snapshots, run):
    """What is said against going on from a snapshot, None if it is taken."""
    try:
        snapshots.restore(run)
    except JaxnnError as error:
        return str(error)


def damaged(header, place, wrong):
    copy = json.loads(json.dumps(header))
    part = copy["meta"]
    for key in place[:-1]:
        part = part[key]
    if wrong is None:
        del part[place[-1]]
    else:
        part[place[-1]] = wrong
    return copy


def test_a_record_of_any_wrong_type_is_refused_and_nothing_is_taken(tmp_path, waiting):
    path = tmp_path / "snapshot-000001-0000000.npz"
    path.write_bytes(snapshot_bytes())
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    header, start, taken = json.loads(str(arrays["__jaxnn__"])), waiting.ts, []
    for place in places(header["meta"]):
        for wrong in (None, "x", {"a": 1}, [[["x"]]], [1, 2, 3]):
            text = json.dumps(damaged(header, place, wrong))
            np.savez(path, **arrays | {"__jaxnn__": np.array(text)})
            words = refusal(Snapshots(tmp_path, resume=True), waiting)
            if words is None:
                taken.append((place, wrong))
                waiting.ts, waiting.history.epochs[:] = start, []
            else:
                assert path.name in words
                assert waiting.ts is start
                assert not waiting.history.epochs
    # what is only counted for a person, or not there in this run
    assert not [one for one in taken if one[0][0] not in ("metrics", "guard", "rows")]
    assert len(taken) < 20


VICTIM = """
import sys
import numpy as np
from tests.train.test_resume import train
history = train(int(sys.argv[2]), sys.argv[1], resume=True, every=3)
np.savez(sys.argv[3], *__import__("jax").tree.leaves(history.last))
"""


def killed_and_resumed(tmp_path, kills, epochs=400, seed=0):
    """Final arrays of a run killed so many times, each time at a random moment."""
    folder, out = tmp_path / "run", tmp_path / "end.npz"
    words = [sys.executable, "-c", VICTIM, str(folder), str(epochs), str(out)]
    environment = os.environ | {  # the same program as in this process
        "JAX_ENABLE_X64": "true",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
        "JAX_PLATFORMS": "cpu",
    }
    rng, hits = random.Random(seed), 0
    while not out.exists():
        process = subprocess.Popen(words, env=environment)
        before = Snapshots(folder, resume=True).newest()
        while process.poll() is None:  # until it trains, and then some
            if hits < kills and Snapshots(folder, resume=True).newest() != before:
                time.sleep(rng.uniform(0, 0.3))
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                    hits += 1
                break
            time.sleep(0.005)
        process.wait()
    with np.load(out) as file:
        return hits, [file[name] for name in file.files]


def check_kills(tmp_path, kills, epochs):
    hits, found = killed_and_resumed(tmp_path, kills, epochs)
    assert hits == kills
    straight = train(epochs, tmp_path / "straight", every=3)
    for a, b in zip(found, jax.tree.leaves(straight.last), strict=True):
        assert a.tobytes() == np.asarray(b).tobytes()
    assert not list((tmp_path / "run").glob(".*.tmp"))


def test_a_run_killed_in_the_middle_ends_with_the_same_bits(tmp_path):
    check_kills(tmp_path, 1, 60)


@pytest.mark.slow
def test_a_run_killed_ten_times_ends_with_the_same_bits(tmp_path):
    check_kills(tmp_path, 10, 1500)
