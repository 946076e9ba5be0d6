"""What a rule says that cannot work: where, got, expected."""

import jax.numpy as jnp
import pytest

from jaxnn import rules
from jaxnn.errors import JaxnnError


def ran(rule, *shapes):
    return lambda: rule.fwd(*map(jnp.ones, shapes))


ERRORS = {
    "matmul: stacked matrices": (ran(rules.matmul, (2, 3, 4), (2, 4, 5)),
        r"matmul: expected x \(..., I\) and w \(I, O\), got \(2, 3, 4\) and "
        r"\(2, 4, 5\); .*einsum"),
    "affine: widths": (ran(rules.affine, (3, 4), (5, 2), (2,)), "affine: expected x"),
    "add": (ran(rules.add, (3, 4), (3,)), r"add: shapes \(3, 4\) and \(3,\) do not fit",
    ),
    "where": (ran(rules.where, (3,), (3,), (3,)),
        r"where: mask has dtype float\d+, expected bool"),
    "where: shapes": (
        lambda: rules.where.fwd(jnp.ones(2, bool), jnp.ones(3), jnp.ones(3)),
        r"where: shapes \(2,\) and \(3,\) and \(3,\) do not fit"),
    "sum: no such axis": (ran(rules.sum(2), (3, 4)),
        r"sum: got axis=2 for x of shape \(3, 4\), expected different axes between -2 "
        "and 1"),
    "max: of nothing": (ran(rules.max(0), (0, 4)),
        r"max: x of shape \(0, 4\) has no element along axis 0"),
    "einsum: one operand": (lambda: rules.einsum("ij->i"), r"einsum\('ij->i'\): .*two"),
    "einsum: three": (lambda: rules.einsum("i,i,i->i"), r"expected two operands"),
    "einsum: output twice": (lambda: rules.einsum("i,j->ii"),
        r"got the output 'ii', expected letters of the operands, each once"),
    "einsum: unknown output": (lambda: rules.einsum("i,j->k"), r"got the output 'k'"),
    "einsum: dots from nowhere": (lambda: rules.einsum("i,j->...i"),
        r"the output has '\.\.\.' but no operand does"),
    "einsum: axes": (ran(rules.einsum("ij,jk->ik"), (3,), (3, 4)),
        r"einsum\('ij,jk->ik'\): shapes \(3,\) and \(3, 4\) do not fit"),
    "einsum: sizes": (ran(rules.einsum(), (3, 4), (3, 4)), r"do not fit"),
    "einsum: diagonal": (lambda: rules.einsum("ii,i->i"),
        r"einsum\('ii,i->i'\): got the index 'i' twice in the operand 'ii', which "
        "means its diagonal; expected each index once .*identity matrix"),
    "einsum: too few for dots": (
        ran(rules.einsum("...ij,j"), (4,), (4,)), r"do not fit"),
    "einsum: dots differ": (
        ran(rules.einsum("...i,...i"), (2, 4), (3, 4)), r"do not fit"),
    "reshape": (ran(rules.reshape((5, -1)), (3, 4)),
        r"reshape: shape \(3, 4\) has 12 elements, expected as many as in \(5, -1\)"),
    "reshape: two free": (ran(rules.reshape((-1, -1)), (3, 4)), r"one -1 at most"),
    "reshape: free beside 0": (ran(rules.reshape((0, -1)), (0, 4)), r"one -1 at most"),
    "transpose": (ran(rules.transpose((0, 0)), (3, 4)),
        r"transpose: got axes \(0, 0\) for an array of 2 axes"),
    "concatenate: nothing": (lambda: rules.concatenate().fwd(), r"shapes of nothing"),
    "concatenate: sizes": (ran(rules.concatenate(), (3, 4), (2, 4)),
        r"concatenate: got shapes \(3, 4\), \(2, 4\), expected .* but for axis -1"),
    "concatenate: axes": (ran(rules.concatenate(0), (3, 4), (3,)), r"got shapes"),
    "concatenate: axis": (ran(rules.concatenate(2), (3, 4)), r"but for axis 2"),
    "broadcast_to": (ran(rules.broadcast_to((2, 3)), (2,)),
        r"broadcast_to: x has shape \(2,\), expected \(2, 3\)"),
    "broadcast_to: fewer axes": (ran(rules.broadcast_to((3,)), (1, 3)), r"expected \(3",
    ),
    "slice: too many": (ran(rules.slice((0, 0)), (3,)),
        r"slice: got index \(0, 0\) for shape \(3,\), expected one entry an axis"),
    "slice: out of range": (ran(rules.slice(3), (3,)), r"slice: got 3 in index 3 for"),
    "slice: step 0": (ran(rules.slice(slice(0, 2, 0)), (3,)), r"a step other than 0"),
    "slice: array": (ran(rules.slice([0, 1]), (3,)), r"slice: got \[0, 1\] in index"),
    "slice: mask": (ran(rules.slice(True), (3,)), r"slice: got True in index"),
    "slice: two dots": (ran(rules.slice((..., ...)), (3,)), r"one '\.\.\.' at most"),
    "pad: mode": (lambda: rules.pad(1, "reflct"),
        r"unknown padding mode 'reflct'\. Did you mean 'reflect'\?"),
    "pad: axes": (ran(rules.pad([1]), (3, 4)),
        r"pad\(\[1\]\): expected an int or \(before, after\).* each of 2 axes"),
    "pad: negative": (ran(rules.pad([-1]), (3,)), r"pad\(\[-1\]\): .*not negative"),
    "pad: a triple": (ran(rules.pad([(1, 1, 1)]), (3,)), r"pad\("),
    "pad: no inner axis": (ran(rules.pad(1), (3, 4)),
        r"pad\(1\): x has 2 axes, none between the first and the last"),
    "pad: nothing to copy": (ran(rules.pad([1], "edge"), (0,)),
        r"pad\(edge\): an axis has no elements to copy"),
    "upsample: method": (lambda: rules.upsample(2, "cubic"),
        r"unknown upsampling method 'cubic'\. Valid names: linear, nearest"),
    "upsample: factor 0": (ran(rules.upsample(0), (1, 2, 1)), r"upsample\(0\): x has 3",
    ),
    "upsample: factors": (ran(rules.upsample((2, 2)), (1, 2, 1)),
        r"upsample\(\(2, 2\)\): x has 3 axes, expected a whole factor"),
    "upsample: no inner axis": (
        ran(rules.upsample(), (2, 3)), r"upsample\(2\): x has 2"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "message"), ERRORS.values(), ids=ERRORS)
def test_error_says_where_got_and_expected(call, message):
    with pytest.raises(JaxnnError, match=message):
        call()
