"""ONNX graphs as networks: layers one after another, and branches that meet again.

ONNX has channels before height and width, the layers have them last. The value that
is followed through the graph knows how its axes lie in both; kernels are turned, and
an array that is flattened is first brought into the order that the file means.
"""

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import layers
from jaxnn.combine import parallel, residual, serial
from jaxnn.errors import JaxnnError
from jaxnn.interop.onnx_layers import FLOATS, READERS
from jaxnn.interop.onnx_out import MERGES
from jaxnn.layers import Layer
from jaxnn.train.inputs import init_shapes

FOLDED = (
    "Constant", "Shape", "Identity", "Cast", "Reshape", "Transpose", "Flatten",
    "Squeeze", "Unsqueeze", "Concat", "Slice", "Gather", "Neg", "Sqrt", "Add", "Sub",
    "Mul", "Div",
)  # fmt: skip
"""Computed of constants while a file is read. No loops: a file may be anybody's."""
MOST = 2**28  # numbers in what is computed of constants


class Imported(NamedTuple):
    """A network read from a file, and what its input is, without the batch axis."""

    net: Layer
    params: Any
    state: Any
    in_shape: tuple[int, ...]


def from_onnx(path: str | Path, in_shape: Sequence[int] | None = None) -> Imported:
    """Read a network from an ONNX file; nothing in it is run as code.

    Args:
      path: the file; arrays that it keeps in another one lie in the same folder.
      in_shape: what the network shall take, channels last, such as (28, 28) where the
        file takes (1, 28, 28) or (784,); None: as the file, its channels last.

    Raises:
      JaxnnError: no such file, operations or forms of them that are not known.
    """
    import onnx

    try:
        whole = onnx.load(path)
        graph = whole.graph
        known: dict[str, Any] = {
            a.name: onnx.numpy_helper.to_array(a) for a in graph.initializer
        }
    except Exception as error:  # protobuf has exceptions of its own
        raise JaxnnError(f"{path} cannot be read as ONNX ({error})") from error
    inputs = [i for i in graph.input if i.name not in known]
    outputs = [o for o in graph.output if o.type.tensor_type.elem_type in FLOATS]
    if len(inputs) != 1 or len(outputs) != 1:
        raise JaxnnError(
            f"{path}: got {len(inputs)} inputs and {len(outputs)} outputs that are "
            "arrays of floats, expected one of each"
        )
    sizes = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim]
    chains = {inputs[0].name: Chain(sizes, in_shape, str(path))}
    wanted, nodes = {outputs[0].name}, []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            nodes.append(node)
    opsets = {opset.domain: opset.version for opset in whole.opset_import}
    for node in reversed(nodes):
        where = f"{path}: {node.op_type} {node.name or node.output[0]}"
        _read(node, opsets, chains, known, where)
    if outputs[0].name not in chains:
        raise JaxnnError(f"{path}: its output does not depend on its input")
    chain = chains[outputs[0].name]
    chain.flat()
    net, params, state = _together(chain.steps)
    params, state = jax.tree.map(lambda a: jnp.asarray(a, float), (params, state))
    return Imported(net, params, state, chain.in_shape)


def _read(node, opsets, chains, known, where):
    """Make the value of a node: a chain, or one that is `known`."""
    from onnx import helper

    op, live = node.op_type, [name for name in node.input if name in chains]
    if missing := [n for n in node.input if n and n not in chains and n not in known]:
        raise JaxnnError(f"{where}: takes {missing[0]}, which nothing here makes")
    settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    table = FOLDED if not live else READERS if len(live) == 1 else MERGED
    try:
        if op == "Shape" and live:
            size = slice(settings.get("start"), settings.get("end"))
            known[node.output[0]] = np.array(chains[live[0]].whole)[size]
        elif op not in table:
            on = ("of constants", "", "on two values")[min(len(live), 2)]
            raise JaxnnError(
                f"this operation is not known here {on}; known are "
                + ", ".join(sorted(table))
            )
        elif not live:
            known.update(zip(node.output, _folded(node, opsets, known), strict=True))
        else:
            given = [copy.copy(chains[name]) for name in live]
            chain, constants = given[0], [known.get(name) for name in node.input]
            chain.node = frozenset(node.output)
            if len(live) > 1:
                _merge(given, settings | {"op": op}, len(node.input))
            else:
                READERS[op](chain, settings | {"op": op}, *constants)
            chains[node.output[0]] = chain
    except (ValueError, TypeError, IndexError, ArithmeticError) as error:
        raise JaxnnError(f"{where}: {error}") from error


def _folded(node, opsets, known):
    """What a node makes of constants, a few: no file may fill the memory."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    given = {name: known[name] for name in node.input if name}
    sizes = [a.size for a in given.values()]
    most = math.prod(sizes) if node.op_type == "Gather" else sum(sizes)
    if node.op_type in ("Add", "Sub", "Mul", "Div"):
        most = math.prod(np.broadcast_shapes(*(a.shape for a in given.values())))
    if most > MOST:
        raise JaxnnError(f"up to {most:.0e} constants, expected at most {MOST:.0e}")
    ends = (map(helper.make_empty_tensor_value_info, e) for e in (given, node.output))
    graph = helper.make_graph([node], "constants", *map(list, ends))
    return ReferenceEvaluator(graph, opsets=opsets).run(None, given)


class Step(NamedTuple):
    """A layer, the shape it makes, and the nodes whose arrays it holds."""

    layer: Layer
    params: Any
    state: Any
    here: tuple[int, ...]
    nodes: frozenset[str]


def _together(steps) -> tuple[Layer, Any, Any]:
    """One network of steps, and its params and state."""
    trees = zip(*(step[:3] for step in steps), strict=True) if steps else ((), (), ())
    made, params, state = trees
    return serial(*made), tuple(params), tuple(state)


class Chain:
    """The layers so far, and the value that they make.

    Attributes:
      steps: the layers; branches that meet are one of them.
      node: what makes the layers that are added.
      batch: the size of the batch axis in ONNX; 0: any.
      lead: (batch,), or () where the value has no such axis.
      shape: of the value in ONNX, without the batch axis.
      last: whether the layers have its channels last, and ONNX first; else both have
        the elements in the same order, the layers as `here`.
      here: the layers' shape.
    """

    def __init__(self, sizes, in_shape, where):
        if not all(sizes[1:]) or not sizes:
            raise JaxnnError(f"{where}: its input has axes without a size: {sizes}")
        alone = in_shape is not None and math.prod(sizes) == math.prod(in_shape)
        self.batch = 1 if alone else sizes[0]
        self.lead: tuple[int, ...] = (
            () if sizes[0] != self.batch else (self.batch or 1,)
        )
        shape = self.shape = tuple(sizes[len(self.lead) :])
        turned = (*shape[1:], *shape[:1]) if len(shape) == 3 else ()
        in_shape = turned or shape if in_shape is None else in_shape
        self.steps: list[Step] = []
        self.node: frozenset[str] = frozenset()
        self.in_shape = self.here = tuple(in_shape)
        self.last = self.here == turned
        fits = math.prod(shape) == math.prod(self.here)
        same = len(self.here) < 3 or self.here == shape
        if not (self.last or (fits and same)):
            raise JaxnnError(
                f"{where}: takes inputs {shape}, expected as many numbers as in "
                f"{self.here}, or channels before height and width"
            )

    @property
    def whole(self) -> tuple[int, ...]:
        """The shape in ONNX, for a batch of one where it is not fixed."""
        return (*self.lead, *self.shape)

    def add(self, layer: Layer, params: Any = (), state: Any = ()) -> None:
        """One layer more."""
        self.here = init_shapes(layer, self.here)[2]
        nodes = self.node if jax.tree.leaves((params, state)) else frozenset()
        self.steps = [*self.steps, Step(layer, params, state, self.here, nodes)]

    def images(self) -> None:
        """Channels last, whatever it was."""
        if self.last:
            return
        channels, *sizes = self.shape
        if channels == 1:
            self.add(layers.reshape(*sizes, 1))
        else:
            if self.here != self.shape:
                self.add(layers.reshape(*self.shape))
            self.add(layers.transpose(*range(1, len(self.shape)), 0))
        self.last = True

    def as_written(self) -> None:
        """The elements in ONNX's order."""
        if self.last and min(self.shape[0], math.prod(self.shape[1:])) > 1:
            n = len(self.shape)
            self.add(layers.transpose(n - 1, *range(n - 1)))
        self.last = False

    def flat(self) -> None:
        """One axis, in ONNX's order."""
        self.as_written()
        if len(self.here) != 1:
            self.add(layers.flatten)

    def settled(self) -> None:
        """As values that meet have to be: images, or rows of numbers."""
        (self.images if len(self.shape) > 1 else self.flat)()

    def moved(self, layer: Layer, params: Any = (), state: Any = ()) -> None:
        """A layer on images, channels last, that makes such."""
        self.images()
        self.add(layer, params, state)
        self.shape = (self.here[-1], *self.here[:-1])

    def reshaped(self, whole: Sequence[int]) -> None:
        """Another shape in ONNX, with the batch axis, of the same elements in order."""
        lead, shape = tuple(whole[:1]), tuple(whole[1:])
        if lead != (self.batch or 1,) or not shape:
            if self.batch != 1:
                raise JaxnnError(f"to {whole}, expected the batch as the first axis")
            lead, shape = (), tuple(whole)  # a batch of one has no need of an axis
        if shape != self.shape:
            self.as_written()
        self.lead, self.shape = lead, shape


# ---- branches that meet

MERGED = {op: merge for merge, op in MERGES.items()} | {"Add": "sum"}


def _merge(chains: list[Chain], settings, inputs) -> None:
    """Let the first of chains go on where branches of one meet."""
    first = chains[0]
    for chain in chains:
        chain.settled()
    merge, axis = MERGED[settings["op"]], settings.get("axis", 1)
    if inputs > len(chains) or axis % len(first.whole) != len(first.lead):
        raise JaxnnError("expected values of the graph, joined by their channels")
    shared = 0
    while all(
        len(c.steps) > shared and c.steps[shared] is first.steps[shared] for c in chains
    ):
        shared += 1
    branches = [chain.steps[shared:] for chain in chains]
    nodes = [
        node for b in branches for node in frozenset().union(*(s.nodes for s in b))
    ]
    if len(nodes) > len(set(nodes)):
        raise JaxnnError(
            "one value goes to several branches that meet in different places; its "
            "parameters would be there twice"
        )
    if merge == "sum" and len(branches) == 2:
        inner, projection = sorted(branches, key=len, reverse=True)
        made = [_together(inner), _together(projection)][: 1 + bool(projection)]
        nets, *trees = zip(*made, strict=True)
        layer = residual(*nets)
        trees = trees if projection else [tree[0] for tree in trees]
    else:
        made, *trees = zip(*map(_together, branches), strict=True)
        layer = parallel(*made, merge=merge)
    first.steps, first.node = first.steps[:shared], frozenset(nodes)
    first.here = first.steps[-1].here if shared else first.in_shape
    first.add(layer, *trees)
    if len(first.here) > 1:
        first.shape = (first.here[-1], *first.here[:-1])
    else:
        first.shape = first.here
