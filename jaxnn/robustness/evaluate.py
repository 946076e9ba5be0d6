"""How robust is a network? The worst case per image, and whether to believe it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn import attacks
from jaxnn.arrays import as_rows
from jaxnn.attacks.classifier import Classifier, to_logits
from jaxnn.data.datasets import stratified_sample, unit_images
from jaxnn.errors import JaxnnError, known_words, lookup
from jaxnn.robustness.causes import find_cause
from jaxnn.robustness.context import CHECKS, Check, CheckContext
from jaxnn.robustness.masking import LayerGradient
from jaxnn.robustness.threat import Proportion, Threat
from jaxnn.robustness.worst import attack_suite, first_three, not_attacked, under
from jaxnn.tree import BATCH, map_batches

LEVELS = ("fast", "full")


class Round(NamedTuple):
    """One attack of the suite."""

    name: str
    tried: int  # images it was tried on: those still right, or a sample of them
    broken: int  # how many of them it broke
    alone: Proportion  # what it leaves right by itself: of all, or of the sample


class Evaluation(NamedTuple):
    """What `evaluate` found; an image that no attack could follow is not robust."""

    threat: Threat  # what the attacker may do
    level: str  # "fast" or "full"
    clean: Proportion  # classified right without an attack, of all images
    robust: Proportion  # left right by every attack of the suite, of all
    rounds: list[Round]  # the attacks in the order they were run
    targeted: Proportion  # least-likely class reached, of the sample
    curve: dict[str, np.ndarray]  # attack -> accuracy on the sample at `epsilons`
    epsilons: np.ndarray  # budgets of the curve
    checks: list[Check]  # K1 to K20
    layers: list[LayerGradient]  # gradients of every layer, from the output back
    not_attacked: np.ndarray  # rows that no attack broke whose own gradient is NaN
    not_finite: np.ndarray  # rows for which the network's outputs are not finite
    verdict: str  # whether the number can be believed
    robust_images: np.ndarray  # which images stayed right (N,), bool
    x_adv: np.ndarray  # the worst example found for every image (N, ...)
    sample: np.ndarray  # rows of the sample
    seconds: float  # how long it took

    @property
    def believable(self) -> bool:
        """Whether no check failed."""
        return all(c.verdict != "fail" for c in self.checks)

    def __repr__(self) -> str:
        return (
            f"<Evaluation: {self.clean} right, {self.robust} in the worst case, "
            f"{self.threat}; {self.verdict}>"
        )

    def _repr_html_(self) -> str:
        from jaxnn.robustness.report import attack_rows  # which knows this class
        from jaxnn.text import html

        head, *rows = attack_rows(self)
        return html(head, rows, f"{self.threat}. {self.verdict}")


@known_words
def evaluate(
    model: Classifier, x: Any, y: Any, *, threat: Threat | None = None,
    level: str = "fast", seed: int = 0, sample: int = 500,
    others: Mapping[str, Classifier] | None = None, certified: Any = None,
    log: Callable[[str], None] | None = None,
) -> Evaluation:  # fmt: skip
    """Attack every image by a suite, keep the worst case, and check the attack.

    On the level "fast" all images see the first three attacks, as in `worst_case`;
    otherwise an image that one attack has broken is not shown to the next. The checks
    K1 to K20 run on a stratified sample, by default, and say whether robustness is real
    or the gradient is only hidden. A network is measured by its logits, see
    `jaxnn.attacks.classifier`, with plain cross-entropy and margin.

    Args:
      model: the network; of a `black_box` the attacks and checks that need no gradient.
        Its `precision` is that of the attacks; all else is measured in float32.
      x: images (N, ...), float in [0, 1] or uint8.
      y: labels (N,).
      threat: norm, epsilon and box; None is linf 0.1.
      level: "fast" (one start) or "full" (10 restarts, 100 steps, 5,000 queries).
      seed: of all randomness.
      sample: images of the checks, the curve and the targeted attack.
      others: name -> other networks, for transfer (K9).
      certified: which images (N,) a certificate holds for, for K19.
      log: called with a line of progress now and then.

    Raises:
      JaxnnError: unknown level or norm, lengths that differ, no images.
    """
    started = time.perf_counter()
    lookup("level", level, dict.fromkeys(LEVELS))
    threat = (threat or Threat()).checked()
    x, y = _images(x, y)
    log = log or (lambda line: None)
    key, batch = jax.random.key(seed), min(BATCH, len(y))
    outputs = model.keyed(x)
    precision, (model, y) = model.precision, to_logits(model.exact, x, y)
    classes = model.outputs(x[:1], batch).shape[-1]
    suite = attack_suite(level, threat.norm, classes, model.gradients)
    rows = stratified_sample(y, min(sample, len(y)), seed)
    rivals = {name: to_logits(net, x, y)[0] for name, net in (others or {}).items()}
    proven = None if certified is None else np.asarray(certified)[rows]
    context = CheckContext(
        model, threat, key, batch, x[rows], y[rows], rows, suite, rivals, proven,
        precision,
    )  # fmt: skip

    clean = model.correct(x, y, batch)
    to_all = [s.name for s in first_three()] if level == "fast" else []
    correct, rounds, x_adv = _attacked(context, x, y, clean, to_all, log)
    blind = correct & not_attacked(model, x, y, batch)
    correct &= ~blind
    log("checks K1 to K20")
    results = [CHECKS[k](context) for k in sorted(CHECKS, key=lambda k: int(k[1:]))]
    return Evaluation(
        threat=threat,
        level=level,
        clean=Proportion.of(clean),
        robust=Proportion.of(correct),
        rounds=rounds,
        targeted=_targeted(context),
        curve={name: found.mean(1) for name, found in context.curve.items()},
        epsilons=context.epsilons,
        checks=results,
        layers=context.masking.layers,
        not_attacked=np.flatnonzero(blind),
        not_finite=np.flatnonzero(~np.isfinite(outputs.outputs(x)).all(-1)),
        verdict=judge(results, context),
        robust_images=correct,
        x_adv=x_adv,
        sample=rows,
        seconds=time.perf_counter() - started,
    )


def _attacked(context, x, y, clean, to_all, log):
    """(which images stay right, the rounds, the worst examples) of the whole suite."""
    correct, rounds, x_adv = clean.copy(), [], x.copy()
    model = replace(context.model, precision=context.precision)
    for spec in context.suite:
        shown = correct.copy()
        if spec.name in to_all:
            shown[:] = True
        elif spec.images is not None:  # dear attacks see the sample only
            shown &= np.isin(np.arange(len(y)), context.rows[: spec.images])
        tried, left = int((shown & correct).sum()), np.ones(len(y), bool)
        if shown.any():
            found = under(
                context.threat, spec.attack, model, x[shown], y[shown],
                key=context.key, batch=context.batch, **spec.options,
            )  # fmt: skip
            left[shown] = context.model.correct(found, y[shown], context.batch)
            lost = correct & ~left
            x_adv[lost] = found[lost[shown]]
        alone = left if spec.name in to_all else context.left[spec.name]
        broken = int((correct & ~left).sum())
        rounds.append(Round(spec.name, tried, broken, Proportion.of(alone)))
        correct &= left
        log(f"{spec.name}: {broken:,} of {tried:,} broken, {correct.sum():,} stand")
    return correct, rounds, x_adv


def _images(x, y):
    x = np.asarray(as_rows(x, "robustness", "images"))
    y = np.asarray(as_rows(y, "robustness", "labels"))
    if len(x) != len(y):
        raise JaxnnError(
            f"robustness: got {len(x)} images and {len(y)} labels, expected as many"
        )
    if x.dtype == np.uint8:
        x = unit_images(x)
    # as attacks see them: what float32 rounds off is no change that they made
    return x.astype(jax.dtypes.canonicalize_dtype(x.dtype)), y


def _targeted(context):
    """How often the least likely class is reached, of the sample."""
    goal = map_batches(
        partial(attacks.least_likely, context.model), context.x, batch=context.batch
    )
    attack = attacks.pgd if context.model.gradients else attacks.spsa
    x_adv = context.attack(attack, goal, steps=context.steps, targeted=True)
    return Proportion.of(context.correct(x_adv, goal))


def judge(results: list[Check], e: CheckContext) -> str:
    """The verdict: which checks failed, and what hides the gradient."""
    failed = [c for c in results if c.verdict == "fail"]
    if failed:
        return (
            f"DO NOT BELIEVE the accuracy under attack: {_names(failed)} failed. "
            f"Cause: {find_cause(e, failed)}."
        )
    message = "No sign of masked gradients"
    if not e.model.gradients:
        message = "Attacked by its outputs only: who has gradients may break more"
    warned = [c for c in results if c.verdict == "warn"]
    if warned:
        message = f"Believable with care: warnings from {_names(warned)}"
    return message + "; an upper bound on robustness, as any attack gives."


def _names(checks):
    return ", ".join(f"{c.id} ({c.name})" for c in checks)
