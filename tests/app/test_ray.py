"""Parts of a command as tasks of a Ray cluster: the same bits as here, whoever dies."""

import gc
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxnn import attacks, tasks
from jaxnn.app import sweep as sweeping
from jaxnn.app.folder import load_run
from jaxnn.attacks import Classifier
from jaxnn.errors import JaxnnError
from jaxnn.files import read_json
from jaxnn.layers import dense
from jaxnn.robustness.threat import Threat
from jaxnn.robustness.worst import under
from tests.app.common import done, refused, run
from tests.train.problem import pixels

# convolutions: some of their sums depend on the number of threads
SWEEP = (
    "sweep", "lr=0.001,0.01", "batch=20,35", "--model", "cnn", "--layers", "4x3", "8",
    "--batch-norm", "--dropout", "0.1", "--epochs", "1", "--validation", "40",
    "--quiet",
)  # fmt: skip
RAY = ("--engine", "ray")
pytestmark = pytest.mark.filterwarnings("ignore:os.fork")
trained = sweeping._trained


# the first: Ray is not started yet
def test_a_cluster_that_is_not_there_is_told_before_a_folder_is_made(
    monkeypatch, tmp_path, digits
):
    words = (*SWEEP, "--data", digits, *RAY)
    assert "it needs --engine ray" in refused(*SWEEP, "--ray-address", "auto")
    assert "leave it out" in refused(*words, "--devices", "2")
    (tmp_path / "mine.py").write_text("")
    assert "would not know" in refused(*words, "--use", "mine.py")
    for address in ("127.0.0.1:1", "localhost"):
        said = refused(*words, "--ray-address", address)
        assert f"no cluster at {address}" in said or "not installed" in said
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'jaxnn[ray]'" in refused(*words)


@pytest.fixture(scope="module")
def cluster():
    """Ray itself, with two workers here."""
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR")
    yield ray
    gc.collect()  # what an error's traceback holds of Ray must not outlive it
    ray.shutdown()


@pytest.fixture(scope="module")
def here(digits):
    """A sweep that was done without Ray."""
    folder = digits.parent / "here"
    done(*SWEEP, "--data", digits, "--out", folder)
    return folder


def results(folder):
    """The points of a sweep, and the bits of its networks."""
    saved = read_json(folder / "sweep.json")
    files = sorted(folder.glob("group-*/params.npz"))
    bits = [{k: a.tobytes() for k, a in np.load(path).items()} for path in files]
    return saved["points"], saved["best"], bits


def killed_once(sweep, number):
    """As the sweep trains a group; but the first worker that is given group 1 dies."""
    mark = sweep.folder / "killed"
    if number == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return trained(sweep, number)


def test_a_sweep_whose_worker_dies_is_the_local_one(
    cluster, here, digits, monkeypatch, tmp_path
):
    monkeypatch.setattr(sweeping, "_trained", killed_once)
    there = tmp_path / "there"
    done(*SWEEP, "--data", digits, "--out", there, *RAY)
    assert (there / "killed").exists()
    assert results(there) == results(here)


def test_what_is_done_is_kept_when_a_sweep_is_interrupted(
    cluster, here, digits, monkeypatch, tmp_path
):
    def stops(sweep, number):
        if number == 1:
            time.sleep(600)
        return trained(sweep, number)

    def interrupted(path, *args):
        save(path, *args)
        raise KeyboardInterrupt

    save, there = sweeping.save_params, tmp_path / "there"
    with monkeypatch.context() as patched:
        patched.setattr(sweeping, "_trained", stops)
        patched.setattr(sweeping, "save_params", interrupted)
        found = run(*SWEEP, "--data", digits, "--out", there, *RAY)
    assert found.status == 130
    assert "interrupted" in found.err
    assert (there / "group-000/params.npz").exists()
    done("sweep", "--resume", there, *RAY)
    assert results(there) == results(here)


def test_attacks_are_the_local_ones(cluster, run_folder):
    found = load_run(run_folder)
    model, (x, y) = Classifier(found.net, found.params, found.state), pixels(80, 28)
    attack = partial(
        under, Threat("l2", 1.0), x=x / np.float32(255), y=y, batch=30,
        key=jax.random.key(0),
    )  # fmt: skip
    for name in (attacks.pgd, attacks.ddn):
        local = attack(name, model, steps=3)
        with tasks.engine("ray"):
            np.testing.assert_array_equal(attack(name, model, steps=3), local)
    saved = []
    for engine in ("local", "ray"):
        words = ("attack", run_folder, "--attack", "fgsm", "--engine", engine)
        done(*words, "--out", engine)
        (path,) = Path(engine).rglob("*.json")
        saved.append(read_json(path) | {"seconds": 0})
    assert saved[0] == saved[1]


def test_what_cannot_be_sent_is_done_here(cluster):
    layer = dense(3)._replace(name="written by hand")
    with tasks.engine("ray"):
        assert dict(tasks.run_tasks(max, [1, 3], 2)) == {0: 2, 1: 3}
        found = dict(tasks.run_tasks(lambda shared, item: shared, [0], layer))
    assert found[0] is layer


def test_an_error_in_a_task_is_raised_here(cluster):
    def broken(shared, item):
        raise JaxnnError(f"{shared} {item}")

    with tasks.engine("ray"), pytest.raises(JaxnnError, match="of item 0"):
        dict(tasks.run_tasks(broken, range(1), "of item"))
