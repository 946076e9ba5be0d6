"""What the guard has to say about a bad step: where, what, which samples, and why."""

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from jaxnn.guard.backtrace import Origin
from jaxnn.guard.causes import edge_cause, operation_cause
from jaxnn.guard.layers import Culprit

PARTS = {
    "data": "the input already has it: repair or remove those samples",
    "augmentation": "the augmentation (`augment`) made it of sound inputs",
    "mixup": "mixup made it of sound inputs",
    "weight noise": "the noise on the weights made it of sound weights: a smaller one",
    "update": "the optimizer, or a projection after it, made it of finite gradients: "
    "look at lr, epsilon and schedule",
}
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


def likely_cause(
    part: str,
    origin: Origin | None,
    by_layers: Culprit | None,
    before: str = "",
    ahead: bool = False,
) -> str:
    """Words for what went wrong, from the part of the step and the operation.

    `ahead`: whether a factor of the gradient was made bad on the way forward.
    """
    if part == "data" and (origin is None or by_layers is not None):
        return PARTS[part]
    before = before or (
        by_layers.before if by_layers is not None and origin is None else ""
    )
    if before:
        return (
            f"{before} was not finite before this step already: look at its "
            "initializer, at what loaded it, or at a run with guard='off'"
        )
    if origin is None and by_layers is not None and np.isfinite(by_layers.value).all():
        if part == "update":
            return "the update is so large that its square overflows: a smaller lr"
        return (
            "the gradient is so large that its square overflows: a smaller lr, another "
            "init, or clip_norm"
        )
    if part in PARTS and origin is None:
        return PARTS[part]
    words = ""
    if origin is not None and origin.constant:
        words = "a constant that is not finite came in here: look at this line"
    elif origin is not None:
        words = operation_cause(origin.op, origin.inputs, origin.output)
    words = words or "values have grown too large, or a function left its domain"
    if part in PARTS and part != "data":
        words = f"{PARTS[part]}; {words}"
    if ahead:
        return edge_cause(origin.op if origin is not None else "")
    if part == "backward":
        words += "; the forward values are finite, so the formula of the gradient is "
        words += "unsafe here"
    return words
