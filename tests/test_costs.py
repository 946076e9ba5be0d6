import re
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from jaxnn import layers as nn
from jaxnn.combine import (
    freeze,
    mlp,
    parallel,
    remat,
    repeat,
    residual,
    serial,
    share,
    stack,
)
from jaxnn.costs import count_flops, count_parameters, layer_costs, summary
from jaxnn.errors import JaxnnError
from jaxnn.interop import layer_from_jax
from tests.combine.cases import NETWORKS
from tests.combine.test_networks import lenet
from tests.layers.cases import traced_init


def rows(net, in_shape, batch=8):
    return {cost.name: cost for cost in layer_costs(net, in_shape, batch)}


def itemsize():
    return jnp.result_type(float).itemsize


def test_table_of_a_flat_network():
    lines = summary(mlp([4, 3, 2]), (4,), batch=10).splitlines()
    assert [line.split()[0] for line in lines[:-1]] == [
        "layer", "input", "flatten", "dense(3)", "relu", "dense(2)", "total",
    ]  # fmt: skip
    assert lines[0].split() == [
        "layer", "output", "parameters", "forward", "backward", "cache",
    ]  # fmt: skip
    assert re.match(r"dense\(3\)  \(B, 3\)  +15 ", lines[3])
    assert lines[-1] == "B = 10; forward and backward in FLOPs"


def test_short_table_has_shapes_and_parameters_only():
    assert summary(mlp([4, 3, 2]), (4,), batch=None).splitlines() == [
        "layer     output  parameters",
        "input     (B, 4)",
        "flatten   (B, 4)           0",
        "dense(3)  (B, 3)          15",
        "relu      (B, 3)           0",
        "dense(2)  (B, 2)           8",
        "total                     23",
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_add_up_however_nested(name):
    net, in_shape, _ = NETWORKS[name]
    whole = layer_costs(net, in_shape, None)[0]
    params, state = traced_init(net, in_shape)
    assert whole.parameters == count_parameters(params)
    x = jnp.ones((2, *in_shape))
    y, *_ = jax.eval_shape(partial(net.forward, train=False), params, state, x)
    assert whole.out_shape == y.shape[1:]


def test_parts_are_indented_and_counted_in_their_network():
    net = serial(residual(serial(nn.dense(3), nn.tanh), nn.dense(3)), nn.dense(2))
    costs = layer_costs(net, (4,), 8)
    assert [(c.depth, c.name) for c in costs] == [
        (0, "serial(2 layers)"), (1, "residual(serial(2 layers), dense(3))"),
        (2, "serial(2 layers)"), (3, "dense(3)"), (3, "tanh"), (2, "dense(3)"),
        (1, "dense(2)"),
    ]  # fmt: skip
    whole, block, inner, first, _, skip, last = costs
    assert whole.parameters == block.parameters + last.parameters == 38
    assert block.parameters == first.parameters + skip.parameters
    assert block.forward_flops == inner.forward_flops + skip.forward_flops
    assert whole.backward_flops == block.backward_flops + last.backward_flops
    assert "\n    dense(3)" in summary(net, (4,))


def test_flops_of_dense_are_those_of_its_products():
    net = nn.dense(5, bias=False)
    cost = layer_costs(net, (7,), 16)[0]
    assert cost.forward_flops == 2 * 16 * 7 * 5
    assert cost.backward_flops == 2 * cost.forward_flops


def test_flops_are_those_of_the_compiled_network():
    # flatten, dense, relu, dense: nothing for the compiler to simplify
    net = mlp([64, 32, 10])
    params, state = traced_init(net, (64,))
    x = jax.ShapeDtypeStruct((16, 64), float)
    compiled = jax.jit(lambda p, s, x: net.forward(p, s, x, train=True)[0]).lower(
        params, state, x
    )
    want = compiled.compile().cost_analysis()["flops"]
    assert layer_costs(net, (64,), 16)[0].forward_flops == pytest.approx(want, rel=0.01)


def test_a_scan_counts_as_often_as_it_runs():
    block = serial(nn.dense(6, bias=False), nn.dense(6, bias=False))
    one = layer_costs(block, (6,), 8)[0]
    five = layer_costs(stack(stack(block, 5), 3), (6,), 8)
    for cost in five[:3]:  # the whole, 3 x stack, 5 x block
        assert cost.parameters == 15 * one.parameters
        assert cost.forward_flops == pytest.approx(15 * one.forward_flops, rel=0.01)
        assert cost.backward_flops == pytest.approx(15 * one.backward_flops, rel=0.01)
        assert cost.cache_bytes == 15 * one.cache_bytes
    assert [c.name for c in five[1:3]] == [
        "3 x stack(serial(2 layers), 5)", "5 x serial(2 layers)",
    ]  # fmt: skip


def test_a_recurrent_layer_counts_every_step():
    short, long = (layer_costs(nn.lstm(4), (steps, 3), 2)[0] for steps in (5, 50))
    assert long.forward_flops / short.forward_flops == pytest.approx(10, rel=0.05)
    assert long.backward_flops / short.backward_flops == pytest.approx(10, rel=0.05)


def test_a_repeated_layer_has_one_set_of_parameters():
    whole, each = layer_costs(repeat(nn.dense(3), 4), (3,), 8)
    assert whole.parameters == each.parameters == 12
    assert each.name == "4 x dense(3)"
    assert each.forward_flops == 4 * (2 * 8 * 9 + 8 * 3)


def test_cache_counts_an_array_once():
    whole, first, act, second = layer_costs(
        serial(nn.dense(5), nn.tanh, nn.dense(3)), (4,), 8
    )
    # x, tanh's output, which the next layer keeps too; the weights are kept anyway
    sizes = [cost.cache_bytes // itemsize() for cost in (whole, first, act, second)]
    assert sizes == [8 * (4 + 5), 8 * 4, 8 * 5, 0]


def test_cache_of_remat_is_its_input():
    net = remat(serial(nn.dense(5), nn.tanh, nn.dense(4), nn.tanh))
    costs = layer_costs(net, (4,), 8)
    assert costs[0].cache_bytes == 8 * 4 * itemsize()
    assert all(cost.cache_bytes == 0 for cost in costs[1:])
    plain = layer_costs(net.parts[0], (4,), 8)[0]
    again = costs[0].backward_flops
    assert again == plain.forward_flops + plain.backward_flops


def test_cache_bytes_are_those_of_the_cache():
    net = serial(nn.dense(5), nn.batch_norm(), nn.relu, nn.dropout(0.3), nn.dense(2))
    found = layer_costs(net, (4,), 8)[0].cache_bytes
    params, state = traced_init(net, (4,))

    def cache(params, state):
        _, _, cache = net.forward(
            params, state, jnp.ones((8, 4)), key=jax.random.key(0), train=True
        )
        return cache

    leaves = jax.tree.leaves(jax.eval_shape(cache, params, state))
    everything = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    weights = itemsize() * (4 * 5 + 5 * 2 + 5)  # w, w and gamma
    assert found == everything - weights


def test_frozen_parameters_are_counted_apart():
    net = serial(freeze(mlp([4, 3, 3])), stack(freeze(nn.dense(3)), 2), nn.dense(2))
    whole = layer_costs(net, (4,), 8)[0]
    assert (whole.parameters, whole.frozen) == (8, 27 + 2 * 12)
    by_name = rows(net, (4,))
    assert by_name["2 x freeze(dense(3))"].frozen == 24
    # x, not w, has a gradient
    plain = layer_costs(nn.dense(3, bias=False), (4,), 8)[0]
    frozen = layer_costs(freeze(nn.dense(3, bias=False)), (4,), 8)[0]
    assert frozen.backward_flops == plain.backward_flops / 2
    text = summary(net, (4,))
    assert re.search(r"total +8 \+ 51 frozen", text)
    assert re.search(r"freeze\(mlp\(\[4, 3, 3\]\)\) +\(B, 3\) +27 frozen", text)


def test_shared_parameters_count_where_they_are_shared():
    def network(d):
        return serial(d, stack(serial(d, nn.tanh, nn.dense(3)), 2), d)

    costs = layer_costs(serial(share(nn.dense(3), network), nn.dense(2)), (3,), 8)
    assert costs[0].parameters == 12 + 2 * 12 + 8
    shown = [(c.name, c.parameters, c.shared) for c in costs[1:]]
    assert shown == [
        ("share(dense(3))", 36, False), ("serial(3 layers)", 24, False),
        ("dense(3)", 0, True), ("stack(serial(3 layers), 2)", 24, False),
        ("2 x serial(3 layers)", 24, False), ("dense(3)", 0, True), ("tanh", 0, False),
        ("dense(3)", 24, False), ("dense(3)", 0, True), ("dense(2)", 8, False),
    ]  # fmt: skip
    text = summary(share(nn.dense(3), lambda d: d), (3,), batch=None)
    assert re.search(r"dense\(3\) +\(B, 3\) +shared", text)


def test_layers_by_vjp_say_so():
    net = serial(layer_from_jax(jnp.sinc), parallel(layer_from_jax(jnp.cos), nn.relu))
    text = summary(net, (3,))
    assert "sinc by jax.vjp" in text
    assert "  cos by jax.vjp" in text
    assert all(c.backward_flops > 0 for c in layer_costs(net, (3,)))


def test_inputs_may_be_whole_numbers():
    net = serial(nn.embedding(10, 3), nn.flatten, nn.dense(2))
    assert layer_costs(net, (4,), 8, "int32")[0].parameters == 30 + 26


def test_it_computes_nothing_and_is_quick():
    huge = serial(nn.dense(10**5), nn.relu, nn.dense(10**5))  # 80 GB of weights
    assert layer_costs(huge, (10**5,), 4)[0].parameters == 2 * 10**10 + 2 * 10**5


def test_images():
    by_name = rows(lenet(), (28, 28, 1), 2)
    assert by_name["conv(6, 5)"].out_shape == (28, 28, 6)
    assert by_name["conv(6, 5)"].parameters == 156
    assert layer_costs(lenet(), (28, 28, 1), None)[0].parameters == 61706


def test_numbers_have_three_digits():
    text = summary(nn.conv(8, 3), (28, 28, 1), batch=128)
    assert re.search(r"80 +14\.6 M +\d+(\.\d)? M +803 kB", text)


def test_an_input_that_does_not_fit_says_where():
    with pytest.raises(JaxnnError, match="mlp") as caught:
        summary(serial(mlp([4, 2])), (5,))
    assert caught.value.__notes__[0] == "in layer 0 of serial: mlp([4, 2])"


def test_flops_of_loops_and_branches():
    w = jnp.ones((4, 4))

    def loop(x):
        x, _ = jax.lax.scan(lambda x, _: (x @ w, None), x, length=10)
        return jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda _, x: x @ w, x))(x)

    assert count_flops(loop, w) == pytest.approx(13 * 128, rel=0.05)
    assert count_flops(lambda x: (x @ w, x @ x)[0], w) == 128
    assert count_flops(lambda x: x, w) == 0
