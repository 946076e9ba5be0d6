"""Layers made alike are equal, readable and can be sent to another process."""

import copy
import json
import pickle
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from jaxnn import combine, layers
from jaxnn.combine import freeze, mlp, parallel, residual, serial, share, siamese, stack
from jaxnn.errors import JaxnnError
from jaxnn.interop import layer_from_jax
from jaxnn.layers import conv, dense, dropout, elu, flatten, leaky_relu, relu
from tests.combine.cases import NETWORKS
from tests.layers.cases import ALL


def shared(width=3):
    """A network with a share in a share, made anew at each call."""

    def network(d):
        inner = share(serial(dense(width), d), lambda e: serial(e, d, e))
        return serial(d, inner, relu)

    return share(dense(3), network)


def my_draw(key, shape, dtype):
    return jnp.zeros(shape, dtype)


def cube(x):
    """A function that another process can import."""
    return x**3


ALIKE = {
    "dense": lambda: dense(3), "defaults": lambda: conv(3, 3, 1, "SAME"),
    "mlp": lambda: mlp([4, 3, 2], normalize=True, drop_rate=0.5, output="softmax"),
    "branches": lambda: residual(parallel(dense(3), relu, merge="sum"), dense(3)),
    "stack": lambda: stack(serial(flatten, dense(3)), 2), "share": shared,
    "siamese": lambda: siamese(leaky_relu(0.2)),
    "a function of JAX": lambda: serial(layer_from_jax(cube), dense(3)),
    "partial": lambda: dense(3, partial(jax.nn.initializers.normal, 0.1)),
}  # fmt: skip


@pytest.mark.parametrize("name", ALIKE)
def test_networks_made_alike_are_equal_and_pickle(name):
    one, other = ALIKE[name](), ALIKE[name]()
    assert one is not other
    assert one == other
    assert hash(one) == hash(other)
    again = pickle.loads(pickle.dumps(one))
    assert again == one
    assert repr(again) == repr(one)
    assert copy.copy(one) is copy.deepcopy(one) is one


def test_what_differs_in_a_setting_or_in_its_type_is_not_equal():
    different = [
        dense(3), dense(4), dense(3, bias=False), dense(3, "xavier"), elu(1), elu(1.0),
        elu(True), leaky_relu(0.0), leaky_relu(-0.0), conv(3, 3), conv(3, 5), relu,
        layers.tanh, serial(relu), serial(relu, relu), shared(), shared(2),
        dense(3, lambda *_: jnp.zeros(1)), dense(3, lambda *_: jnp.zeros(1)),
        parallel(relu, merge="sum"), parallel(relu, merge="maximum"),
        freeze(relu), freeze(relu, ()),
    ]  # fmt: skip
    for i, one in enumerate(different):
        assert [other == one for other in different].count(True) == 1, (i, one)
    assert conv(3, [5, 5]) == conv(3, (5, 5))
    assert dense(3) != "dense(3)"


def test_a_layer_changed_or_written_by_hand_equals_itself_only():
    layer = dense(3)._replace(name="dense(3)")
    assert layer == layer
    assert layer not in (dense(3), dense(3)._replace(name="dense(3)"))
    assert layer.bounds is None  # they were those of another forward
    assert repr(layer) == "<layer dense(3)>"
    with pytest.raises(JaxnnError, match=r"dense\(3\): .*cannot be pickled"):
        pickle.dumps(serial(layer))
    arrays = freeze(dense(2), {"w": jnp.ones((2, 2)), "b": jnp.ones(2)})
    assert arrays.made is None
    assert jax.jit(lambda p: dropout(p).made)(0.5) is None  # a sweep traces it


def test_layers_are_shown_as_they_are_written():
    for text in (
        "dense(3)", "dense(3, bias=False)", "serial(flatten, dense(3, 'xavier'), relu)",
        "mlp([784, 30, 10], 'tanh', drop_rate=0.5)", "conv(8, 5, padding='VALID')",
        "reshape(2, -1)", "stack(residual(dense(4)), 3)",
        "parallel(dense(2), relu, merge='concatenate')",
    ):  # fmt: skip
        assert repr(eval(text, vars(layers) | vars(combine))) == text
    assert repr(serial(shared(), relu)) == "serial(share(dense(3)), relu)"


@pytest.mark.parametrize("layer", [case.layer for case in ALL], ids=repr)
def test_every_layer_comes_back_from_a_pickle_and_from_json(layer):
    assert pickle.loads(pickle.dumps(layer)) == layer
    assert layers.from_plain(json.loads(json.dumps(layers.to_plain(layer)))) == layer


@pytest.mark.parametrize("name", NETWORKS)
def test_every_combinator_comes_back_from_a_pickle(name):
    layer, in_shape, _ = NETWORKS[name]
    again = pickle.loads(pickle.dumps(layer))
    assert again == layer
    assert again.name == layer.name

    def shapes(layer):
        return jax.eval_shape(lambda: layer.init(jax.random.key(0), in_shape)[:2])

    assert shapes(again) == shapes(layer)


def test_networks_come_back_from_json_or_say_what_cannot():
    came = []
    for name, (net, *_) in NETWORKS.items():
        try:
            text = json.dumps(layers.to_plain(net))
        except JaxnnError as error:
            assert "plain form" in str(error)  # noqa: PT017
            continue
        assert layers.from_plain(json.loads(text)) == net
        came.append(name)
    assert len(came) > len(NETWORKS) / 2
    with pytest.raises(JaxnnError, match="got the argument my_draw, which has"):
        layers.to_plain(serial(dense(3, my_draw)))
    with pytest.raises(JaxnnError, match=r"dense\(3\): written by hand"):
        layers.to_plain(serial(dense(3)._replace(name="dense(3)")))
    for wrong in ({"make": "os:system", "args": ["true"]}, {"make": "no.such:one"}, 3):
        with pytest.raises(JaxnnError, match="a network as data"):
            layers.from_plain(wrong)


def test_a_new_process_makes_the_same_network():
    net = mlp([4, 3, 2])
    code = (
        "import pickle, sys; net = pickle.load(sys.stdin.buffer); "
        "sys.stdout.buffer.write(pickle.dumps(net))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(net), capture_output=True,
        check=True,
    )  # fmt: skip
    assert pickle.loads(done.stdout) == net


def test_equal_networks_share_a_compiled_program():
    traced = []

    @partial(jax.jit, static_argnums=0)
    def forward(net, params, x):
        traced.append(net)
        return net.forward(params, ((), (), (), ()), x, train=False)[0]

    x = jnp.ones((2, 4))
    for net in (mlp([4, 3, 2]), mlp((4, 3, 2)), mlp([4, 3, 2], "tanh")):
        forward(net, net.init(jax.random.key(0), (4,))[0], x)
    assert len(traced) == 2
