"""One of two processes that train together.

Its words: rank, port, what happens then, devices of both together, a folder.

Prints its history as JSON. With "die" or "stop" the second process then kills or stops
itself in the middle of a training without end, and the first must not wait for ever.
With "resume" both train from where the folder stands, and the second ends itself after
the third epoch if they begin anew.
"""

import json
import os
import signal
import sys

import jax

from jaxnn.distributed.processes import distributed_run
from jaxnn.environment import Processes
from jaxnn.train import Snapshots, batch_order
from tests.parallel.on_devices import NET, X, Y, losses, train


def resumed(mesh, rank, folder):
    """Train from where the folder stands."""
    kept = Snapshots(folder, resume=True)
    anew = kept.newest() is None

    def die(row):
        if anew and rank == 1 and row["epoch"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)  # as a scheduler does

    history = train(mesh, epochs=6, snapshots=kept, on_epoch=die)
    norm = float(sum(abs(a).sum() for a in jax.tree.leaves(history.params)))
    print(json.dumps({"losses": losses(history), "norm": norm, "anew": anew}))


def trained(mesh, rank, then):
    """Train twice, then as the word says."""
    found = {"losses": losses(train(mesh))}
    x = X / 255
    x[7] = 1e300  # in the part of one process's device
    bad = train(mesh, x, epochs=4)
    found["skipped"] = [row["skipped"] for row in bad.epochs]
    found["in batch"] = [int(7 in batch_order(80, 64, e)) for e in (1, 2, 3, 4)]
    found["devices"] = [mesh.size, len(mesh.local_devices)]
    found["norm"] = float(sum(abs(a).sum() for a in jax.tree.leaves(bad.params)))
    print(json.dumps(found), flush=True)

    def fail(row):
        if then != "end" and rank == 1 and row["epoch"] == 3:
            how = signal.SIGKILL if then == "die" else signal.SIGSTOP
            os.kill(os.getpid(), how)

    train(mesh, epochs=3 if then == "end" else 10**6, on_epoch=fail)
    return bad


def main():
    """One process, from its words."""
    rank, port, then = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    timeout = 15 if then == "stop" else 60
    ranks = Processes(f"127.0.0.1:{port}", 2, rank, rank_timeout=timeout)
    with distributed_run(ranks, int(sys.argv[4])) as mesh:
        if then == "resume":
            return resumed(mesh, rank, sys.argv[5])
        bad = trained(mesh, rank, then)
    # alone again: what is left is done by the first
    logits, _, _ = NET.forward(bad.params, bad.state, X[:2] / 255.0, train=False)
    print("end", logits.shape, len(Y), flush=True)


if __name__ == "__main__":
    main()
