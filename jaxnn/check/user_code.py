"""Your own rule, layer or pair of functions, found in a file and judged.

`FILE.py:name` is looked up in the file. It may be

- a `Rule`, or a pair `(forward, backward)` with `forward(*args) -> (y, cache)` and
  `backward(cache, dy) -> gradients`, one for each argument (a single array if there is
  one argument only);
- nothing, but the file has functions `name_forward` and `name_backward` (or `name_fwd`
  and `name_bwd`), which are such a pair;
- a function with both, as `jax.custom_vjp` makes them;
- a `Layer`.

Arguments are `name_inputs` in the file, a tuple (for a layer its input, batch axis
first). Otherwise their shapes are given and values drawn from N(0, 1).
"""

import functools
import importlib.util
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.arrays import is_float
from jaxnn.check.adapters import argument_names, record_layer, record_rule
from jaxnn.check.audit import SHAPES_DIFFER, audit
from jaxnn.check.numpy_pair import (
    AsItStands,
    ByDifferences,
    Pair,
    misbehavior,
)
from jaxnn.check.points import AS_CALLED, MORE_POINTS
from jaxnn.check.recorder import LayerRecord, modes, named_leaves, one_line
from jaxnn.check.report import Audit, Finding
from jaxnn.check.tolerance import compare_arrays, no_numbers
from jaxnn.errors import JaxnnError, lookup
from jaxnn.layers import Layer
from jaxnn.rules import Rule

BATCH = 4  # samples drawn for a layer
LARGEST = 10_000_000  # entries of an argument that is drawn
EVALUATION = "train=False"
PAIRS = (("_forward", "_backward"), ("_fwd", "_bwd"))
IN_PLACE = (
    "guess: in NumPy an array is changed in place (+=, [...] =) after the cache "
    "was given it; in JAX, where nothing can be changed in place, it is right"
)


class UserCode(NamedTuple):
    """What was found in a file.

    Attributes:
      name: what it is called there.
      what: a `Rule` or a `Layer`; pairs have become rules.
      inputs: its arguments if the file gives any, else None.
    """

    name: str
    what: Rule | Layer
    inputs: tuple[Any, ...] | None


def load_user_code(target: str) -> UserCode:
    """Find `FILE.py:name`; the file is run, with its folder on the import path.

    Raises:
      JaxnnError: no such file or name, the file fails, or it is none of the above.
    """
    path, _, name = target.rpartition(":")
    module = run_file(Path(path))
    inputs: Any = getattr(module, f"{name}_inputs", None)
    if inputs is not None and (
        not isinstance(inputs, tuple | list)
        or (isinstance(inputs, list) and _is_numbers(inputs))
    ):
        inputs = (inputs,)
    found = getattr(module, name, None)
    if found is None:
        for ends in PAIRS:
            pair = tuple(getattr(module, name + end, None) for end in ends)
            if all(map(callable, pair)):
                found = pair
    if found is None:
        lookup(f"name in {path}", name, _candidates(module))
    given = None if inputs is None else tuple(inputs)
    return UserCode(name, _as_rule_or_layer(name, found), given)


def run_file(path: Path, expected: str = "FILE.py:name") -> ModuleType:
    """Run a file of Python as a module, with its folder on the import path.

    Raises:
      JaxnnError: no such file, or it fails; says where in it.
    """
    if not os.path.isfile(path):
        what = "it is a folder" if os.path.isdir(path) else "no such file"
        raise JaxnnError(f"{path}: {what}; expected {expected}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise JaxnnError(f"{path}: its name does not end in .py; expected {expected}")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules.setdefault(path.stem, module)  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise JaxnnError(f"{path} fails when it is run: {one_line(error)}") from error
    return module


def _candidates(module) -> dict[str, Any]:
    """What in a module could be meant."""
    found = {}
    for name, value in vars(module).items():
        if name.startswith("_"):
            continue
        if isinstance(value, Rule | Layer) or hasattr(value, "bwd"):
            found[name] = value
        elif callable(value):
            for forward, _ in PAIRS:
                if name.endswith(forward):
                    found[name.removesuffix(forward)] = value
    return found or {"(none that is a Rule, a Layer or a pair)": None}


def _as_rule_or_layer(name, found) -> Rule | Layer:
    if isinstance(found, Rule | Layer):
        return found
    ends = [getattr(found, end, None) for end in ("fwd", "bwd")]
    if isinstance(found, tuple | list) and len(found) == 2:
        ends = list(found)
    if not all(map(callable, ends)):
        raise JaxnnError(
            f"{name} is {type(found).__name__}, expected a Rule, a Layer, a pair "
            f"(forward, backward), or functions {name}_forward and {name}_backward"
        )
    forward, backward = cast("list[Callable]", ends)

    # wraps: its argument names stay those of the user's function
    @functools.wraps(forward)
    def checked(*args):
        made = forward(*args)
        if not isinstance(made, tuple | list) or len(made) != 2:
            raise JaxnnError(
                f"{name}: its forward returned {type(made).__name__}, expected the "
                "pair (y, cache); the cache is whatever its backward needs"
            )
        return tuple(made)

    return Rule(name, checked, backward)


def audit_user_code(
    code: UserCode,
    shapes: Sequence[tuple[int, ...]] = (),
    dtypes: Sequence[str] = ("float64", "float32"),
    seed: int = 0,
) -> tuple[Audit, list[LayerRecord]]:
    """Judge it at its inputs, or at drawn ones of the given shapes.

    A layer is judged in both modes. A pair is first run as it stands: it must be two
    functions, and leave its arguments as they are. Then it is compared with `jax.grad`
    or, where its forward calls NumPy, with differences.

    Returns:
      The audit, and the records of it at work, none if it calls NumPy.

    Raises:
      JaxnnError: no inputs or impossible ones, or its forward fails on them.
    """
    if isinstance(code.what, Layer):
        return _audit_layer(code, shapes, dtypes, seed)
    given = code.inputs
    if given is None:
        given = tuple(_draw(code.name, shapes, seed))
    if not given:
        names = ", ".join(argument_names(code.what.fwd, 0)) or "x, w, b"
        raise JaxnnError(
            f"{code.name}: got no inputs; add {code.name}_inputs = ({names}) to the "
            "file, arrays to call it with, or give one shape for each argument: "
            "--shape 4,3 3,5 5"
        )
    names = argument_names(code.what.fwd, len(given))
    inputs = {n: as_input(code.name, a) for n, a in zip(names, given, strict=True)}
    with jax.enable_x64(True):
        return _audit_pair(code, inputs, dtypes)


def _audit_layer(code, shapes, dtypes, seed) -> tuple[Audit, list[LayerRecord]]:
    if code.inputs is None and len(shapes) != 1:
        raise JaxnnError(
            f"{code.name}: got {len(shapes)} shapes for a layer, expected one, without "
            f"the batch axis, such as --shape 28,28,1; or add {code.name}_inputs = x"
        )
    if code.inputs is None:
        (x,) = _draw(code.name, [(BATCH, *shapes[0])], seed)
    else:
        x = as_input(code.name, code.inputs[0])
    key = jax.random.key(seed)
    try:
        params, state, _ = code.what.init(key, np.shape(x)[1:])
        trains = modes(code.what, params, state, x, key)
    except Exception as error:  # whatever a user's code raises
        raise _failed(code.name, (x,), error) from error
    audits, records = [], []
    for train in trains:
        records.append(record_layer(code.what, params, state, x, key=key, train=train))
        audits.append(audit(records[-1], dtypes, points=MORE_POINTS))
    return _merged(audits), records[0]


def _merged(audits: Sequence[Audit]) -> Audit:
    """The audits of training and of evaluation as one."""

    def in_evaluation(one):
        return replace(one, at=f"{one.at}, {EVALUATION}")

    first, *rest = audits
    checks, findings = list(first.checks), list(first.findings)
    known = {(f.layer, f.argument) for f in findings}
    for other in rest:
        checks += map(in_evaluation, other.checks)
        new = (f for f in other.findings if (f.layer, f.argument) not in known)
        findings += map(in_evaluation, new)
    waived = dict.fromkeys(name for one in audits for name in one.waived)
    return replace(
        first, checks=tuple(checks), findings=tuple(findings), waived=tuple(waived)
    )


def _audit_pair(code, inputs, dtypes) -> tuple[Audit, list[LayerRecord]]:
    x = jax.tree.map(lambda a: a.astype(np.float64) if is_float(a) else a, inputs)
    try:
        # by name: trees of JAX sort the keys of a dict
        pair, y = Pair.of(code.what, tuple(inputs), x)
    except (Exception, SystemExit) as error:  # whatever a user's code raises
        raise _failed(code.name, tuple(inputs.values()), error) from error
    _check_real(code.name, x, y)
    draw = np.random.default_rng(77)  # not what a caller may have drawn x with
    dy = jax.tree.map(lambda a: draw.standard_normal(np.shape(a)), y)
    got: dict = {}
    try:
        pair = pair.settled(x, dy)
        found = list(misbehavior(pair, x, dy))
        got = pair.gradients(x, dy)
    except JaxnnError as error:
        found = [(str(error), "")]
    except (Exception, SystemExit) as error:  # whatever a user's code raises
        found = [(f"its backward raised {one_line(error)}", hint(error))]
    if found:
        findings = tuple(
            Finding(code.name, "", AS_CALLED, no_numbers("", "float64", what), todo, ())
            for what, todo in found
        )
        return Audit(findings=findings), []
    args = [x[name] for name in pair.names]
    coarse = any(a.dtype != np.float64 for a in jax.tree.leaves(y))
    if coarse or not _traces(code.what.fwd, args):
        with jax.numpy_rank_promotion("allow"):  # as in NumPy
            return ByDifferences(pair, x, dy).run(), []
    rule, right = code.what, False
    if _traces(lambda *a: rule.bwd(rule.fwd(*a)[1], dy), args):
        records = record_rule(rule, *inputs.values(), dy=dy)
        s = records[-1]
        if pair.convert is not np.array or _agree(s.got, got):
            return audit(records, dtypes, points=MORE_POINTS), records
        right = _agree(s.got, s.want)  # though it is another computation in NumPy
    judge = AsItStands(pair, x, dy)
    found = judge.run(dtypes)
    if right:
        findings = tuple(replace(f, cause=IN_PLACE) for f in found.findings)
        found = replace(found, findings=findings)
    return found, judge.records


def _check_real(name, x, y) -> None:
    """Raise if there is nothing to differentiate, or nothing that it is of."""
    leaves = [np.asarray(a) for a in jax.tree.leaves(y)]
    if not leaves or not all(map(is_float, leaves)):
        kinds = ", ".join(str(a.dtype) for a in leaves) or "nothing"
        raise JaxnnError(
            f"{name}: its forward returned y of {kinds}, expected floating-point "
            "numbers"
        )
    if not any(is_float(a) and a.size for _, a in named_leaves(x)):
        raise JaxnnError(
            f"{name}: no argument holds floating-point numbers, so that there is no "
            f"gradient to compare; give {name}_inputs of floats, such as 1.0"
        )


def _agree(a, b) -> bool:
    """Whether gradients by argument agree; NaN in both is no agreement."""
    return a.keys() == b.keys() and all(
        a[k].shape == b[k].shape and compare_arrays("", b[k], a[k], "float64").passed
        for k in a
    )


def _traces(function, args) -> bool:
    """Whether JAX can make a program of a function of these arrays."""
    try:
        # lower: some of NumPy's functions, such as argsort, are traced but no more
        jax.jit(function).lower(*jax.tree.map(jnp.asarray, args))
    except Exception:  # it runs on arrays, so what it raises here is due to tracing
        return False
    return True


def _draw(name, shapes, seed):
    draw = np.random.default_rng(seed)
    for shape in shapes:
        if math.prod(shape) > LARGEST:
            raise JaxnnError(
                f"{name}: --shape {','.join(map(str, shape))} has "
                f"{math.prod(shape):,} entries, expected at most {LARGEST:,}"
            )
        yield draw.standard_normal(shape)


def as_input(name: str, value: Any) -> Any:
    """An argument as NumPy arrays: an array, what becomes one, or a tree of them.

    Raises:
      JaxnnError: it holds no numbers, or NaN.
    """
    if isinstance(value, dict):
        return {k: as_input(name, v) for k, v in value.items()}
    if isinstance(value, tuple | list) and not _is_numbers(value):
        each = [as_input(name, v) for v in value]
        return type(value)(*each) if hasattr(value, "_fields") else type(value)(each)
    if value is None:
        return value
    said = (
        f"{name}_inputs: got {type(value).__name__} where numbers are expected: arrays "
        "of real numbers, or dicts and lists of them"
    )
    try:
        a = value if isinstance(value, jax.Array) else np.asarray(value)
    except Exception as error:  # whatever a foreign type's conversion raises
        raise JaxnnError(f"{said}: {error}") from error
    if isinstance(a, jax.Array) and not is_float(a):
        return a  # such as a key
    if a.dtype.kind not in "fiub" and a.dtype != jnp.bfloat16:
        raise JaxnnError(said)
    if is_float(a) and np.isnan(a).any():
        raise JaxnnError(
            f"{name}_inputs: got NaN, at which nothing can be compared; give numbers"
        )
    return a


def _is_numbers(value) -> bool:
    """Whether nested lists hold plain numbers alone, and so are meant as one array."""
    if isinstance(value, tuple | list):
        return bool(value) and all(map(_is_numbers, value))
    return isinstance(value, int | float)


def hint(error: BaseException) -> str:
    """What a backward that raised this may lack."""
    text = str(error).lower()
    words = ("shape", "dimension", "broadcast", "mismatch", "contract")
    return SHAPES_DIFFER if any(word in text for word in words) else ""


def _failed(name, inputs, error) -> JaxnnError:
    if isinstance(error, JaxnnError):
        return error
    shapes = ", ".join(str(np.shape(a)) for i in inputs for _, a in named_leaves(i))
    return JaxnnError(
        f"{name}: its forward fails on inputs of shapes {shapes} ({one_line(error)}); "
        f"give others with --shape or {name}_inputs"
    )
