"""What the guard says of values it is given: no program is run here."""

from types import SimpleNamespace
from typing import NamedTuple

import jax
import numpy as np
import pytest

from jaxnn.combine import serial
from jaxnn.guard.backtrace import Origin
from jaxnn.guard.causes import PARTS, likely_cause
from jaxnn.guard.layers import Culprit, Note, first_culprit
from jaxnn.guard.locate import _owner, _too_large, argument_name, bad_rows
from jaxnn.guard.report import Finding, counts, value_range
from jaxnn.layers import dense, relu

INF, NAN = np.inf, np.nan


def cause(op, *given, made=NAN, part="forward", **more):
    args = tuple(np.asarray(a, float) for a in given)
    origin = Origin(op, "", "", args, np.asarray(made, float))
    return likely_cause(part, origin, None, **more)


CAUSES = [  # operation, what it was given, what it made, words
    ("log", [0.0], -INF, "log of 0"), ("log", [-1.0], NAN, "log of a negative"),
    ("log", [INF], INF, "log of a number too large"),
    ("rsqrt", [0.0], INF, "sqrt of 0"), ("rsqrt", [-2.0], NAN, "of a negative number"),
    ("div", [1.0, 0.0], INF, "a division by 0"), ("div", [0.0, 0.0], NAN, "0 / 0"),
    ("div", [INF, INF], NAN, "infinity / infinity"),
    ("div", [1e300, 1e-300], INF, "a quotient overflows"),
    ("mul", [1e300, 1e300], INF, "product of finite"),
    ("mul", [0.0, INF], NAN, "0 times infinity"),
    ("mul", [2.0, INF], INF, "a product with an infinite"),
    ("add", [INF, -INF], NAN, "infinity minus infinity"),
    ("add", [1e308, 1e308], INF, "a sum of finite"),
    ("pow", [0.0, -1.0], INF, "0 to a negative power"),
    ("pow", [-2.0, 0.5], NAN, "a power that is not whole"),
    ("pow", [9.0, 999.0], INF, "a power overflows"),
    ("exp", [999.0], INF, "exp overflows"), ("exp", [INF], INF, "exp of infinity"),
    ("dot_general", [INF], NAN, "meets an infinite"),
    ("dot_general", [1e300], INF, "a matrix product overflows"),
    ("acos", [2.0], NAN, "arccos outside"), ("unheard of", [1.0], NAN, "too large, or"),
]  # fmt: skip


@pytest.mark.parametrize(("op", "given", "made", "words"), CAUSES)
def test_the_cause_is_told_from_what_the_operation_was_given(op, given, made, words):
    assert words in cause(op, *given, made=made)
    # also where a good row stands beside the bad one
    beside = ([1.0, a] for a in given)
    assert words in cause(op, *beside, made=[1.0, made])


def test_the_part_of_the_step_comes_first_and_the_edge_has_words_of_its_own():
    assert cause("log", [0.0], part="mixup").startswith(f"{PARTS['mixup']}; log of 0")
    assert "unsafe here" in cause("log", [0.0], part="backward")
    assert "unsafe here" not in cause("log", [0.0])
    assert "derivative of cbrt is infinite" in cause("cbrt", [0.0], ahead=True)
    assert "parameter w was not finite before" in cause("log", 0, before="parameter w")
    layer = Culprit("backward", "0 a", np.ones(2), ())
    assert "gradient is so large" in likely_cause("backward", None, layer)
    assert "update is so large" in likely_cause("update", None, layer)
    bad = layer._replace(value=np.full(2, NAN))
    assert likely_cause("update", None, bad) == PARTS["update"]
    assert likely_cause("data", None, bad) == PARTS["data"]


def test_a_report_lists_samples_and_norms_in_rows_that_can_be_read():
    value = np.array([[1, NAN], [INF, -INF], [INF, 2]])
    found = Finding(
        2, 3, 0, "forward", "1 bad", "log", "a.py:3", **counts(value),
        samples=list(range(10)), labels=[7], lr=0.25, agree=False,
        inputs=value_range([np.arange(3), np.array([0.5, 4.0, NAN]), np.float32(-1)]),
        grad_norms=[float(n) for n in range(12)], cause="why", replay="how",
    )  # fmt: skip
    assert found.lines() == [
        "first bad step  epoch 2, step 3, seed 0",
        "where           forward of layer 1 bad, operation log (a.py:3)",
        "what            1 NaN, 2 +inf, 1 -inf in float64[3, 2], first at [0, 1]",
        "it was given    values from -1 to 4",
        "samples         0 (label 7), 1, 2, 3, 4, 5, 6, 7 and 2 more",
        "learning rate   0.25",
        "gradient norms  0, 1, 2, 3, 4, 5, 6, 7, 8, 9",
        "                10, 11",
        "likely cause    why",
        "note            the two ways of looking name different layers",
        "replay          how",
    ]
    found.case = np.arange(3)  # what is written for a replay is no part of the report
    assert "array" not in repr(found)
    assert Finding(**found.to_json()) == found
    found.epoch = 0
    assert found.lines()[0] == "first bad step  a single call"
    for count, end in ((8, "7"), (9, "7 and 1 more")):
        found.samples = list(range(count))
        assert (
            found.lines()[4] == f"samples         0 (label 7), 1, 2, 3, 4, 5, 6, {end}"
        )


def noted(*layers):
    """Notes of (what a layer was given, what it made), forward."""
    return [Note("forward", f"layer {i}", [np.array(given)], [], [np.array(made)])
            for i, (given, made) in enumerate(layers)]  # fmt: skip


CULPRITS = {  # notes -> the layer to blame, and who is if that was a mask
    "none": (noted((1.0, 2.0)), None, None),
    "the data": (noted((NAN, NAN)), "", None),
    "a mask": (noted((1.0, -INF), (-INF, 0.5)), None, None),
    "a mask, then NaN": (noted((1.0, -INF), (-INF, NAN)), "layer 0", "layer 1"),
    "no mask": (noted((1.0, INF), (INF, NAN)), "layer 0", None),
    "a mask kept": (noted((1.0, -INF), (-INF, -INF)), "layer 0", None),
    "NaN came in": (noted((1.0, -INF), ([NAN, -INF], NAN)), "layer 0", None),
    "NaN that is taken away": (noted((1.0, NAN), (NAN, 0.5)), "layer 0", None),
}


@pytest.mark.parametrize(("notes", "layer", "instead"), CULPRITS.values(), ids=CULPRITS)
def test_the_layer_to_blame(notes, layer, instead):
    found = first_culprit(notes)
    assert (found and found.layer) == layer
    assert ((found and found.or_else) or (None, None))[1] == instead


def test_bad_rows_are_those_of_the_batch_axis():
    rows = np.ones((4, 3))
    rows[2, 1] = NAN
    assert bad_rows(rows, 4).tolist() == [False, False, True, False]
    assert bad_rows(rows.T, 4).tolist() == [False, False, True, False]
    assert bad_rows(rows.repeat(2, 0), 4).tolist() == [False, False, True, False]
    for value in (rows, np.full(4, NAN), np.ones(4), np.arange(5)):
        assert bad_rows(value, 5) is None
    assert bad_rows(np.full(4, NAN), 4) is None


def test_what_is_too_large_is_the_largest_and_whole_numbers_never_are():
    params = {"count": np.zeros(2, int), "w": np.ones(2, "float32")}
    made = {"grads": {"a": np.full(2, 1e19, "f4"), "w": np.full(2, 3e19, "f4")}}
    assert _too_large(None, made, "backward")[2] is made["grads"]["w"]
    for new, found in ((2.0, None), (3e19, "update")):
        moved = {"params": {"count": params["count"] + 1, "w": params["w"] * new}}
        large = _too_large(SimpleNamespace(params=params), moved, "update")
        assert (large and large[0]) == found


class Before(NamedTuple):
    """As a `TrainState` names its parts."""

    params: dict
    state: dict
    opt: dict


def test_what_was_bad_before_the_step_is_named_by_its_place():
    args = Before({"w": 1.0}, {"mean": 1.0}, {"mu": {"w": 1.0}}), 2.0, 3.0, 4.0
    origin = Origin("log", "", "", (), np.ones(1))
    found = [argument_name(args, origin._replace(argument=i)) for i in range(6)]
    assert found == [
        "parameter w", "running statistic mean", "optimizer state mu/w", "input",
        "target or weight", "3",
    ]  # fmt: skip
    assert argument_name(args, origin) == argument_name(args, None) == ""


def test_a_parameter_belongs_to_the_innermost_layer():
    net = serial(relu, serial(dense(3), relu))
    tree = ((), ({"w": 1.0}, ()))
    ((path, _),) = jax.tree_util.tree_leaves_with_path(tree)
    assert _owner(net, path) == "1 serial(2 layers) > 0 dense(3)"
    assert _owner(dense(3), path[2:]) == "parameter w"
