"""Equal networks share compiled programs, and a long process lets them go."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnn import Classifier, defenses, fit, mlp, programs
from jaxnn.attacks import fgsm
from jaxnn.losses import loss_by_name
from jaxnn.optimizers import optimizer_by_name
from jaxnn.regularize import input_noise, l1, l2, max_norm, sum_penalties, weight_noise
from jaxnn.train.policy import slowable
from tests.compiling import compiling

X = np.random.default_rng(0).uniform(0, 1, (40, 4)).astype("float32")
Y = (3 * X[:, 0]).astype(int)
KEY = jax.random.key(0)


def trained(net, **options):
    options = {"validation": (X, Y), "epochs": 2, "batch": 8} | options
    return fit(net, (X, Y), **options)


def measured(net, **options):
    """Trained, evaluated, attacked: the numbers of it."""
    history = trained(net, **options)
    model = Classifier(net, history.params, history.state)
    x_adv = fgsm(model, X, Y, epsilon=0.1)
    return history.epochs, np.asarray(x_adv), model.outputs(x_adv)


def settings():
    """Of a step, made anew."""
    return {
        "defense": defenses.pgd(defenses.ramp(0.1, 10), 2),
        "penalty": sum_penalties(l1(0.01), l2(0.1)),
        "project": max_norm(3.0),
        "augment": input_noise(0.1),
        "weight_noise": weight_noise(0.01),
        "loss": loss_by_name("softmax_cross_entropy", 0.1),
        "optimizer": optimizer_by_name("adamw", 0.1, "cosine", 10),
    }


@pytest.mark.parametrize("options", [dict, settings])
def test_an_equal_network_compiles_nothing(options):
    first = measured(mlp([4, 5, 3], drop_rate=0.1), **options())
    with compiling() as found:
        again = measured(mlp((4, 5, 3), "relu", drop_rate=0.1), **options())
    assert not found
    for one, other in zip(first[0], again[0], strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}
    np.testing.assert_array_equal(first[1], again[1])
    np.testing.assert_array_equal(first[2], again[2])


OTHERS = {
    "lr": {"optimizer": optimizer_by_name("adam", 0.1)},
    "penalty": {"penalty": l2(1.0)}, "batch": {"batch": 4},
    "guard": {"guard": "rollback", "optimizer": optimizer_by_name("sgd", 0.1)},
    "dtype": {"dtype": "float32"}, "seeds": {"seeds": [0, 1]},
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_another_setting_is_another_program(name):
    """Rows differ as they do in a process that never trained the first network."""
    other, plain = OTHERS[name], trained(mlp([4, 5, 3]))
    got = trained(mlp([4, 5, 3]), **other)
    programs.release()
    want = trained(mlp([4, 5, 3]), **other)
    for one, row in zip(got.epochs, want.epochs, strict=True):
        assert one | {"seconds": 0} == row | {"seconds": 0}
    assert got.epochs[-1]["loss"] != plain.epochs[-1]["loss"]


def test_precision_and_foreign_optimizers_are_part_of_a_program():
    net = mlp([4, 5, 3])
    trained(net)
    with compiling() as found:
        trained(net, optimizer=optax.adam(1e-3))  # that it is ours cannot be told
    assert found
    with jax.default_matmul_precision("highest"), compiling() as found:
        trained(net)
    assert found
    with compiling() as found:
        trained(net)
    assert not found


def test_our_optimizers_are_the_same_for_the_same_arguments():
    assert optimizer_by_name("adam") is optimizer_by_name("adam")
    assert optimizer_by_name("adam", 1) is not optimizer_by_name("adam", 1.0)
    assert optimizer_by_name("adam", 0.1) is not optimizer_by_name("sgd", 0.1)
    one = optimizer_by_name("adam")
    assert slowable(one) is slowable(one)
    mask = {"w": True}  # cannot be hashed
    assert optimizer_by_name("adamw", mask=mask) is not None


def test_what_was_rehearsed_is_compiled_and_not_run():
    program = programs.jit(lambda x: {"y": 2 * x + 1})
    x = jnp.ones(3)
    with programs.rehearsal():
        assert not program(np.ones(3))["y"].any()
    with compiling() as found:
        assert (np.asarray(program(x)["y"]) == 3).all()
    assert not found


def test_programs_are_let_go_after_so_many(monkeypatch):
    monkeypatch.setattr(programs, "MOST", 3)
    traced = []

    @programs.jit
    def double(x):
        traced.append(x.shape)
        return 2 * x

    programs.release()
    for n in (1, 2, 1, 2, 3):
        double(jnp.ones(n))
    assert len(traced) == 3
    double(jnp.ones(1))  # after three all were let go
    assert len(traced) == 4
    for n in range(programs.AHEAD + 5):
        f = programs.ahead(n, lambda x, n=n: x + n, jnp.ones(2))
        assert (f(jnp.ones(2)) == n + 1).all()
    assert len(programs._kept.ahead) == programs.AHEAD


MANY = """
import gc
import jax, numpy as np
jax.config.update("jax_disable_most_optimizations", True)
from jaxnn import Classifier, fit, mlp, programs
from jaxnn.attacks import fgsm
from jaxnn.layers import leaky_relu
programs.MOST, programs.AHEAD = 6, 2
x = np.random.default_rng(0).uniform(0, 1, (20, 4)).astype("float32")
y = (3 * x[:, 0]).astype(int)
for i in range(18):
    net = mlp([4, 5, 3], leaky_relu(i / 40))
    params, state, _ = net.init(jax.random.key(0), (4,))
    if i % 2:
        fit(net, (x, y), epochs=1, batch=10)
    else:
        model = Classifier(net, params, state)
        model.outputs(fgsm(model, x, y, epsilon=.1))
    gc.collect()
    print(sum(1 for _ in open("/proc/self/maps")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory maps of Linux")
def test_memory_maps_do_not_grow_with_the_number_of_networks():
    """The process would end in LLVM: Linux gives it 65,530 memory maps."""
    done = subprocess.run(
        [sys.executable, "-c", MANY], capture_output=True, text=True, check=True
    )
    maps = [int(line) for line in done.stdout.split()]
    assert len(maps) == 18
    assert max(maps[10:]) <= max(maps[:10]) + 20, maps
