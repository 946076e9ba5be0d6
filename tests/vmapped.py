"""What `test_vmapped.py` runs: a script, as a compiler's failed check ends the process.

Its words are a dtype, kinds with their batch sizes (`dense:2,layers:3`; rules, layers,
dense, networks) and the names of cases, or none for all. Every case goes forward and
backward under `jit(vmap)` and must equal one after the other; networks also with shared
parameters. A few cases are one program. It prints their names before it begins, so that
the last line names what ended it; alone each of them tells which it was.
"""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import mlp, serial
from jaxnn.layers import batch_norm, conv, dense, flatten, layer_norm, max_pool, relu
from tests.combine.cases import NETWORKS
from tests.layers.cases import KEY, LAYER_CASES, LayerCase, setup
from tests.rules.cases import CASES
from tests.rules.common import assert_trees_close, inputs, normal

MEMBERS, TOGETHER = 2, 6
DENSE = {
    "12-5-4": (mlp([12, 5, 4]), (12,), 0),
    "40-30-10": (mlp([40, 30, 10]), (40,), 0),
    "5-3-1": (mlp([5, 3, 1]), (5,), 0),
    "9-6-2, no bias": (serial(dense(6, bias=False), dense(2)), (9,), 0),
    "steps of 7": (serial(dense(5), relu, dense(3)), (3, 7), 0),
    # no bias and a large epsilon: else the gradient in front of batch norm is rounding,
    # of a bias always, of two rows (x_hat = +-1) nearly
    "batch norm": (
        serial(dense(6, bias=False), batch_norm(epsilon=1.0), relu, dense(3)), (8,), 0,
    ),
    "layer norm": (serial(dense(6), layer_norm(), relu, dense(3)), (8,), 0),
    "convolutional": (
        serial(conv(3), relu, max_pool(2), flatten, dense(5), dense(3)), (6, 6, 2), 0,
    ),
}  # fmt: skip


def rows_of(tree, batch):
    """Its rows over and over until there are so many."""
    return jax.tree.map(lambda a: a[np.arange(batch) % len(a)], tree)


def cast(tree, dtype):
    def one(a):
        return a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a

    return jax.tree.map(one, tree)


def variants(tree):
    """Stacked: the arrays, and the same times 1.5; whole numbers and masks rolled."""

    def other(a):
        floats = jnp.issubdtype(a.dtype, jnp.floating)
        return a * jnp.asarray(1.5, a.dtype) if floats or not a.ndim else jnp.roll(a, 1)

    return jax.tree.map(lambda a: jnp.stack([a, other(a)]), tree)


def member(tree, m):
    """Its m-th of `MEMBERS`."""
    return jax.tree.map(lambda a: a[m], tree)


def compare(run, arrays, shared, tolerance):
    """`run(*arrays)` under jit(vmap) against one by one; some arguments also shared."""
    one_by_one = jax.jit(run)
    stacked = variants(arrays)
    for given in {(), tuple(shared)}:
        axes = [None if i in given else 0 for i in range(len(arrays))]
        args = [
            s if axis == 0 else alone
            for s, alone, axis in zip(stacked, arrays, axes, strict=True)
        ]
        together = jax.jit(jax.vmap(run, in_axes=axes))(*args)
        for m in range(MEMBERS):
            mine = [
                member(a, m) if axis == 0 else a
                for a, axis in zip(args, axes, strict=True)
            ]
            assert_trees_close(member(together, m), one_by_one(*mine), tolerance)


def groups(cases, names):
    """A few of the cases at a time, those of `names` each by itself."""
    chosen = names or list(cases)
    size = 1 if names else TOGETHER
    for start in range(0, len(chosen), size):
        few = chosen[start : start + size]
        print(*few, sep="\n", end="\n\n", flush=True)
        yield {name: cases[name] for name in few}


def run_layers(cases, shared, batch, dtype, tolerance, names):
    key = jax.random.key_data(KEY)  # another member's is another
    for few in groups({name: LayerCase(*case) for name, case in cases.items()}, names):
        params, state, x, dy = {}, {}, {}, {}
        for name, case in few.items():
            s = setup(*case._replace(batch=max(case.batch, 2)))
            given = cast((s.params, s.state, rows_of(s.x, batch)), dtype)
            params[name], state[name], x[name] = given
            y = jax.eval_shape(partial(forward, case.layer), *given, key)[0]
            dy[name] = jnp.asarray(normal(*y.shape, seed=6), y.dtype)

        def run(params, state, x, dy, key, few=few):
            found = {}
            for name, case in few.items():
                given = params[name], state[name], x[name], key
                y, after, cache = forward(case.layer, *given)
                found[name] = y, after, case.layer.backward(cache, dy[name])
            return found

        compare(run, [params, state, x, dy, key], shared, tolerance)


def forward(layer, params, state, x, key):
    key = jax.random.wrap_key_data(key)
    return layer.forward(params, state, x, key=key, train=True)


def run_rules(batch, dtype, tolerance, names):
    for few in groups({name: cases[0] for name, cases in CASES.items()}, names):
        args, dy = {}, {}
        for name, case in few.items():
            args[name], dy[name] = inputs(case)
            # products with so many rows, which is what a batch is to them
            if name in ("affine", "matmul"):
                rows = rows_of((args[name][0], dy[name]), batch)
                args[name][0], dy[name] = rows
            args[name], dy[name] = cast((args[name], dy[name]), dtype)

        def run(args, dy, few=few):
            found = {}
            for name, case in few.items():
                y, cache = case.rule.fwd(*args[name])
                back = case.rule.bwd(cache, dy[name])
                found[name] = y, [d for d in back if d is not None]
            return found

        compare(run, [args, dy], (), tolerance)


def main(dtype, kinds, *names):
    tolerance = {"float64": 1e-11, "float32": 1e-5, "bfloat16": 0.1, "float16": 0.01}
    jax.config.update("jax_enable_x64", dtype == "float64")
    for pair in kinds.split(","):
        print(pair, flush=True)
        kind, batch = pair.split(":")
        how = int(batch), dtype, tolerance[dtype], names
        if kind == "rules":
            run_rules(*how)
        elif kind == "layers":
            first = {name: cases[0] for name, cases in LAYER_CASES.items()}
            run_layers(first, (), *how)
        else:
            run_layers({"dense": DENSE, "networks": NETWORKS}[kind], (0, 1), *how)


if __name__ == "__main__":
    main(*sys.argv[1:])
