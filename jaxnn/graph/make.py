"""Nodes of ops: a rule, its settings, and the nodes it takes."""

import inspect
from typing import Any

from jax.tree_util import Partial

from jaxnn import rules
from jaxnn.errors import JaxnnError, lookup
from jaxnn.graph.node import Node, as_node
from jaxnn.rules import RULES, Rule, einsum, matmul


def apply(rule: Rule | str, *inputs: Any, name: str | None = None) -> Node:
    """The node of `rule` on `inputs`: nodes, or numbers and arrays as constants.

    Args:
      rule: any `Rule`, your own too, or the name of one in `RULES`.
      inputs: one for each argument of the rule's `fwd`.
      name: what to call the node; `<rule>_<number>` if left out.

    Raises:
      JaxnnError: no such rule, or not as many inputs as it takes.
    """
    if isinstance(rule, str):
        rule = lookup("rule", rule, RULES)
    if not isinstance(rule, Rule):
        raise JaxnnError(f"apply: got {type(rule).__name__}, expected a Rule or a name")
    try:
        inspect.signature(rule.fwd).bind(*inputs)
    except TypeError as error:
        takes = ", ".join(inspect.signature(rule.fwd).parameters)
        raise JaxnnError(
            f"{name or rule.name}: got {len(inputs)} inputs, expected ({takes})"
        ) from error
    nodes = tuple(as_node(value) for value in inputs)
    return Node("op", name, base=rule.name, rule=rule, inputs=nodes)


def call(op: str, *args: Any, name: str | None = None, **settings: Any) -> Node:
    """`apply` of the rule `op` with settings: `call("leaky_relu", x, slope=0.2)`.

    What the rule's `fwd` takes are inputs; further arguments, strings and keywords are
    settings, given to the function in `jaxnn.rules` that makes the rule.
    """
    rule, make = lookup("op", op, RULES), getattr(rules, op, None)
    if op == "matmul":
        rule = make = PRODUCT
    words = [a for a in args if isinstance(a, str)]
    others = [a for a in args if not isinstance(a, str)]
    takes = _inputs_of(rule, len(others))
    inputs, more = others[:takes], [*words, *others[takes:]]
    for setting in (*more, *settings.values()):
        if isinstance(setting, Node):
            raise JaxnnError(
                f"{name or op}: the node {setting.name} is given as a setting; it "
                f"takes {takes} inputs, and settings are fixed when the node is made"
            )
    if callable(make):
        try:
            rule = make(*more, **settings)
        except TypeError as error:
            raise JaxnnError(f"{name or op}: {error}") from error
    elif more or settings:
        given = [*map(repr, more), *settings]
        raise JaxnnError(f"{name or op}: takes no settings, got {', '.join(given)}")
    return apply(rule, *inputs, name=name)


def _inputs_of(rule: Rule, given: int) -> int:
    """How many inputs a rule takes, of `given` if that is any number."""
    parameters = inspect.signature(rule.fwd).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return given
    return len(parameters)


def _product_fwd(a, b):
    if not a.ndim or not b.ndim:
        raise JaxnnError("@ takes no scalars, write *")
    # the plain product has the faster rule; einsum knows vectors and stacks of matrices
    rule = matmul if b.ndim == 2 else einsum(_subscripts(a.ndim, b.ndim))
    y, cache = rule.fwd(a, b)
    return y, Partial(rule.bwd, cache)


def _product_bwd(back, dy):
    return back(dy)


def _subscripts(a_axes, b_axes):
    """What `a @ b` means in NumPy: b has one axis, or three and more."""
    if b_axes == 1:
        return "k,k->" if a_axes == 1 else "...k,k->..."
    return "k,...kn->...n" if a_axes == 1 else "...mk,...kn->...mn"


PRODUCT = Rule("matmul", _product_fwd, _product_bwd)
