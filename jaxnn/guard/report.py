"""What the guard has to say about a bad step: where, what, which samples, and why."""

from dataclasses import dataclass, field, fields
from typing import Any

import jax
import numpy as np

TOLD = {
    "sound": "; the step is sound without",
    "chance": "no row: with other random numbers the step is sound, so a layer's own "
    "noise (or that of the augmentation) made it",
    "bad": "no row: the step is bad without those that look bad too",
}
"""What the experiment of leaving rows out told, as `Finding.experiment`."""


@dataclass
class Finding:
    """The first bad step of a run, and the first bad value in it.

    Attributes:
      epoch: counted from 1.
      step: of that epoch, counted from 1.
      seed: which network, where several train side by side.
      part: "data", "augmentation", "mixup", "weight noise", "forward", "loss",
        "backward", "regulariser", "update", or "evaluation": after the epoch, in
        evaluation mode only.
      layer: place and name, "" outside the network.
      op: the operation, "" if only the second path could tell.
      line: "file.py:31" of the operation, "" if unknown.
      shape: of the bad value.
      dtype: of the bad value.
      nan: how many NaN it has.
      plus_inf: how many +infinity.
      minus_inf: how many -infinity.
      index: of its first bad element.
      samples: rows of the training data that caused it, if the step is sound without
        them (of the validation data where part is "evaluation").
      labels: of those samples.
      inputs: (smallest, largest) finite value of what the operation was given.
      lr: learning rate at that step, if the optimizer tells.
      grad_norms: of the last 20 steps before it.
      agree: whether both ways of looking name the same part and layer.
      cause: in words, with what to do.
      replay: the command that shows it again, "" if nothing was written.
      experiment: what leaving out rows told: "sound" without `samples`, "bad" without
        any, or bad by "chance": sound with other random numbers; "" if none was made.
      turn: where in scans and loops, such as "scan step 3", "" outside.
      seconds: that it took to find this, from the state before the bad step.
      case: everything that the step was given, see `jaxnn.guard.repro`.
    """

    epoch: int
    step: int
    seed: int
    part: str
    layer: str
    op: str
    line: str
    shape: tuple[int, ...]
    dtype: str
    nan: int
    plus_inf: int
    minus_inf: int
    index: tuple[int, ...]
    samples: list[int] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    inputs: tuple[float, float] | None = None
    lr: float | None = None
    grad_norms: list[float] = field(default_factory=list)
    agree: bool = True
    cause: str = ""
    replay: str = ""
    experiment: str = ""
    turn: str = ""
    seconds: float | None = None
    case: Any = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """All of it but the arrays of `case`, as plain values."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "case"}

    def lines(self) -> list[str]:
        """What a person reads."""
        where = f"{self.part}" + (f" of layer {self.layer}" if self.layer else "")
        where += f", {self.turn}" if self.turn else ""
        made = ", ".join(
            f"{count:,} {name}"
            for count, name in (
                (self.nan, "NaN"), (self.plus_inf, "+inf"), (self.minus_inf, "-inf")
            )
            if count
        )  # fmt: skip
        found = [
            f"first bad step  {self._when()}",
            f"where           {where}"
            + (f", operation {self.op}" if self.op else "")
            + (f" ({self.line})" if self.line else ""),
            f"what            {made or 'finite, but its square overflows'} in "
            f"{self.dtype}{list(self.shape)}"
            + (f", first at {list(self.index)}" if made else ""),
        ]
        if self.inputs is not None:
            found.append(
                f"it was given    values from {self.inputs[0]:.4g} to "
                f"{self.inputs[1]:.4g}"
            )
        if self.samples:
            shown = ", ".join(
                f"{row} (label {label})"
                for row, label in list(zip(self.samples, self.labels, strict=True))[:8]
            )
            more = f" and {len(self.samples) - 8} more" if len(self.samples) > 8 else ""
            found.append(
                f"samples         {shown}{more}{TOLD.get(self.experiment, '')}"
            )
        elif self.experiment:
            found.append(f"samples         {TOLD[self.experiment]}")
        if self.lr is not None:
            found.append(f"learning rate   {self.lr:.4g}")
        if self.grad_norms:
            for start in range(0, len(self.grad_norms), 10):
                name = "gradient norms" if not start else ""
                ten = self.grad_norms[start : start + 10]
                found.append(f"{name:<16}{', '.join(f'{n:.3g}' for n in ten)}")
        found.append(f"likely cause    {self.cause}")
        if not self.agree:
            found.append(
                "note            the two ways of looking name different layers"
            )
        if self.replay:
            found.append(f"replay          {self.replay}")
        return found

    def _when(self):
        if not self.epoch:
            return "a single call"
        if self.part == "evaluation":
            return f"epoch {self.epoch}, in its evaluation, seed {self.seed}"
        return f"epoch {self.epoch}, step {self.step}, seed {self.seed}"


def counts(value: np.ndarray) -> dict[str, Any]:
    """Shape, type and numbers of bad elements, as `Finding` has them."""
    wide = np.asarray(value, np.float64)
    bad = np.argwhere(~np.isfinite(wide))
    return {
        "shape": tuple(value.shape),
        "dtype": str(value.dtype),
        "nan": int(np.isnan(wide).sum()),
        "plus_inf": int(np.isposinf(wide).sum()),
        "minus_inf": int(np.isneginf(wide).sum()),
        "index": tuple(map(int, bad[0])) if len(bad) else (),
    }


def value_range(values: Any) -> tuple[float, float] | None:
    """Smallest and largest finite value among floating arrays."""
    low, high = np.inf, -np.inf
    for value in values:
        if not np.issubdtype(getattr(value, "dtype", np.dtype(object)), np.floating):
            continue
        wide = np.asarray(value, np.float64)
        finite = wide[np.isfinite(wide)]
        if finite.size:
            low, high = min(low, finite.min()), max(high, finite.max())
    return (float(low), float(high)) if low <= high else None


def learning_rate(optimizer: Any, opt: Any) -> float | None:
    """The rate that an optax optimizer used in a state; None if it cannot be found out.

    A rate kept in the state (`optax.inject_hyperparams`) is read there. Else it is
    looked up among what the optimizer's functions enclose: a number, or a schedule and
    the count in the state. `jaxnn.train.policy.Slowed` multiplies it.
    """
    counted, scale = [], 1.0
    for path, leaf in jax.tree_util.tree_leaves_with_path(opt):
        name = jax.tree_util.keystr(path)
        if "learning_rate" in name:
            return float(np.asarray(leaf))
        if name.endswith(".count"):
            counted.append(leaf)
        if name == ".scale":
            scale = float(np.asarray(leaf))
    try:
        for name, value in _enclosed(getattr(optimizer, "update", None), set()):
            if name == "step_size" and np.ndim(value) == 0:
                return abs(float(value)) * scale
            if name == "step_size_fn" and counted:
                # jit: one program to compile, not one for each operation
                return abs(float(jax.jit(value)(counted[-1]))) * scale
    except (TypeError, ValueError):
        return None
    return None


def _enclosed(function, seen):
    """Names and values that a function and the functions it encloses stand on."""
    if id(function) in seen:
        return
    seen.add(id(function))
    if isinstance(function, tuple | list):
        for one in function:
            yield from _enclosed(one, seen)
    code = getattr(function, "__code__", None)
    cells = getattr(function, "__closure__", None)
    if code is None or cells is None:
        return
    for name, cell in zip(code.co_freevars, cells, strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # not filled yet
            continue
        yield name, value
        yield from _enclosed(value, seen)
