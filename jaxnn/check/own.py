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
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.check.alone import argument_names, watch_layer, watch_rule
from jaxnn.check.audit import audit
from jaxnn.check.findings import Audit
from jaxnn.check.numeric import audit_numpy
from jaxnn.check.watch import Seen, one_line
from jaxnn.errors import JaxnnError, lookup
from jaxnn.layers import Layer
from jaxnn.rules import Rule

BATCH = 4  # samples drawn for a layer
PAIRS = (("_forward", "_backward"), ("_fwd", "_bwd"))


class Own(NamedTuple):
    """What was found in a file.

    Attributes:
      name: what it is called there.
      what: a `Rule` or a `Layer`; pairs have become rules.
      inputs: its arguments if the file gives any, else None.
    """

    name: str
    what: Rule | Layer
    inputs: tuple[Any, ...] | None


def load_own(target: str) -> Own:
    """Find `FILE.py:name`; the file is run, with its folder on the import path.

    Raises:
      JaxnnError: no such file or name, the file fails, or it is none of the above.
    """
    path, _, name = target.rpartition(":")
    module = _run_file(Path(path))
    inputs: Any = getattr(module, f"{name}_inputs", None)
    if inputs is not None and not isinstance(inputs, tuple | list):
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
    return Own(name, _as_rule_or_layer(name, found), given)


def audit_own(
    own: Own,
    shapes: Sequence[tuple[int, ...]] = (),
    dtypes: Sequence[str] = ("float64", "float32"),
    seed: int = 0,
) -> tuple[Audit, list[Seen]]:
    """Judge it at its inputs, or at drawn ones of the given shapes.

    Code that JAX cannot trace, as it calls NumPy, is compared with differences.

    Returns:
      The audit, and what was seen of it at work, nothing if it calls NumPy.

    Raises:
      JaxnnError: no inputs, or its forward fails on them.
    """
    draw = np.random.default_rng(seed)
    if isinstance(own.what, Layer):
        return _audit_layer(own, shapes, dtypes, seed)
    inputs = own.inputs or tuple(draw.standard_normal(s) for s in shapes)
    if not inputs:
        names = ", ".join(argument_names(own.what.fwd, 0)) or "x, w, b"
        raise JaxnnError(
            f"{own.name}: got no inputs; add {own.name}_inputs = ({names}) to the "
            "file, arrays to call it with, or give one shape for each argument: "
            "--shape 4,3 3,5 5"
        )
    with jax.enable_x64(True):
        try:
            jax.eval_shape(own.what.fwd, *map(jnp.asarray, inputs))
        except jax.errors.TracerArrayConversionError:
            return audit_numpy(own.what, *inputs), []
        except Exception as error:
            raise _failed(own.name, inputs, error) from error
    seen = watch_rule(own.what, *inputs)
    return audit(seen, dtypes), seen


def _audit_layer(own, shapes, dtypes, seed) -> tuple[Audit, list[Seen]]:
    if own.inputs is None and len(shapes) != 1:
        raise JaxnnError(
            f"{own.name}: got {len(shapes)} shapes for a layer, expected one, without "
            f"the batch axis, such as --shape 28,28,1; or add {own.name}_inputs = x"
        )
    draw = np.random.default_rng(seed)
    x = own.inputs[0] if own.inputs else draw.standard_normal((BATCH, *shapes[0]))
    key = jax.random.key(seed)
    try:
        params, state, _ = own.what.init(key, np.shape(x)[1:])
        jax.eval_shape(
            lambda x: own.what.forward(params, state, x, key=key, train=True), x
        )
    except Exception as error:
        raise _failed(own.name, (x,), error) from error
    seen = watch_layer(own.what, params, state, x, key=key)
    return audit(seen, dtypes), seen


def _failed(name, inputs, error) -> JaxnnError:
    shapes = ", ".join(str(np.shape(a)) for a in inputs)
    return JaxnnError(
        f"{name}: its forward fails on inputs of shapes {shapes} ({one_line(error)}); "
        f"give others with --shape or {name}_inputs"
    )


def _as_rule_or_layer(name, found) -> Rule | Layer:
    if isinstance(found, Rule | Layer):
        return found
    ends = [getattr(found, end, None) for end in ("fwd", "bwd")]
    if isinstance(found, tuple | list) and len(found) == 2:
        ends = list(found)
    if all(map(callable, ends)):
        forward, backward = cast("list[Callable]", ends)
        return Rule(name, _with_cache(name, forward), backward)
    raise JaxnnError(
        f"{name} is {type(found).__name__}, expected a Rule, a Layer, a pair (forward, "
        f"backward), or functions {name}_forward and {name}_backward"
    )


def _with_cache(name, forward) -> Callable:
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

    return checked


def _run_file(path: Path):
    if not path.is_file():
        raise JaxnnError(f"{path}: no such file; expected FILE.py:name")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules.setdefault(path.stem, module)  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except JaxnnError:
        raise
    except Exception as error:
        raise JaxnnError(
            f"{path} fails when it is run: {type(error).__name__}: {error}"
        ) from error
    return module


def _candidates(module) -> dict[str, Any]:
    """What in a module could be meant."""
    found = {}
    for name, value in vars(module).items():
        if name.startswith("_"):
            continue
        if isinstance(value, Rule | Layer) or hasattr(value, "bwd"):
            found[name] = value
        if callable(value):
            for forward, _ in PAIRS:
                if name.endswith(forward):
                    found[name.removesuffix(forward)] = value
    return found or {"(none that is a Rule, a Layer or a pair)": None}
