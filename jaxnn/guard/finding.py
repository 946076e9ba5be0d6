"""What the guard has to say about a bad step: where, what, which samples, and why."""

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from jaxnn.guard.layers import Spot
from jaxnn.guard.trace import Origin

CAUSES = {
    "log": "log of 0 or of a negative number: take logits and a loss that computes the "
    "logarithm itself (softmax_cross_entropy, log_softmax + nll)",
    "log1p": "log1p of -1 or less: use softplus, or a loss on logits",
    "div": "0 / 0, or a division by 0: add an epsilon to the denominator, inside any "
    "square root",
    "sqrt": "the square root of a negative number: variances as E[x^2] - E[x]^2 can "
    "round below 0; take the mean of squared deviations",
    "rsqrt": "1 / sqrt of 0 or of a negative number: add an epsilon inside",
    "pow": "a power of 0 or of a negative number that is not real",
    "integer_pow": "a negative power of 0, or an overflow",
    "exp": "exp overflows (above 88 in float32, 11 in float16): subtract the row's "
    "maximum first, or use softmax, softplus, log_softmax",
    "exp2": "exp2 overflows: subtract the maximum first",
    "expm1": "expm1 overflows: use elu, or clip what goes in",
    "sub": "infinity minus infinity: a row whose entries are all masked with -inf, or "
    "an earlier overflow",
    "add": "infinity minus infinity, or a sum that overflows",
    "add_any": "two gradients whose sum overflows: a smaller lr, clip_norm",
    "mul": "0 times infinity, often the branch not taken of a `where`: make its input "
    "safe before the function (double where)",
    "dot_general": "a matrix product overflows: weights have grown too large; try a "
    "smaller lr, another init or clip_norm",
    "conv_general_dilated": "a convolution overflows: weights have grown too large; "
    "try a smaller lr, another init or clip_norm",
    "reduce_sum": "a sum overflows: values have grown too large for their type",
    "square": "a square overflows (above 1.8e19 in float32, 255 in float16)",
    "convert_element_type": "a value is outside the range of the narrower type: scale "
    "the loss, or compute this part in float32",
    "select_n": "a constant that is not finite was chosen by a condition",
}
"""Operation -> likely cause, and what to do."""

PARTS = {
    "data": "the input already has it: repair or remove those samples",
    "update": "the optimiser, or a projection after it, made it of finite gradients: "
    "look at lr, epsilon and schedule",
}


@dataclass
class Finding:
    """The first bad step of a run, and the first bad value in it.

    Attributes:
      epoch: counted from 1.
      step: of that epoch, counted from 1.
      seed: which network, where several train side by side.
      part: "data", "forward", "loss", "backward", "regulariser" or "update".
      layer: place and name, "" outside the network.
      op: the operation, "" if only the second path could tell.
      line: "file.py:31" of the operation, "" if unknown.
      shape: of the bad value.
      dtype: of the bad value.
      nan: how many NaN it has.
      plus_inf: how many +infinity.
      minus_inf: how many -infinity.
      index: of its first bad element.
      samples: rows of the training data that caused it, if samples did.
      labels: of those samples.
      inputs: (smallest, largest) finite value of what the operation was given.
      lr: learning rate at that step, if the optimiser tells.
      grad_norms: of the last 20 steps before it.
      agree: whether both ways of looking name the same part and layer.
      cause: in words, with what to do.
      replay: the command that shows it again, "" if nothing was written.
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
        when = f"epoch {self.epoch}, step {self.step}, seed {self.seed}"
        found = [
            f"first bad step  {when if self.epoch else 'a single call'}",
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
            found.append(f"samples         {shown}{more}; the step is sound without")
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
    part: str, origin: Origin | None, spot: Spot | None, before: str = ""
) -> str:
    """Words for what went wrong, from the part of the step and the operation."""
    if part == "data":
        return PARTS[part]
    before = before or (spot.before if spot is not None and origin is None else "")
    if before:
        return (
            f"{before} was not finite before this step already: look at its "
            "initialiser, at what loaded it, or at a run with guard='off'"
        )
    if origin is None and spot is not None and np.isfinite(spot.value).all():
        if part == "update":
            return "the update is so large that its square overflows: a smaller lr"
        return (
            "the gradient is so large that its square overflows: a smaller lr, another "
            "init, or clip_norm"
        )
    if part in PARTS and origin is None:
        return PARTS[part]
    words = CAUSES.get(origin.op if origin else "", "")
    if origin is not None and origin.constant:
        words = "a constant that is not finite came in here: look at this line"
    if not words:
        words = "values have grown too large, or a function left its domain"
    if part == "update":
        words = f"{PARTS['update']}; {words}"
    if part == "backward":
        words += "; the forward values are finite, so the formula of the gradient is "
        words += "unsafe here"
    return words
