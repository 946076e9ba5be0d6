"""What becomes of a run that had a bad step: the policies, and the host's guard."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxnn import programs
from jaxnn.arrays import is_key
from jaxnn.errors import JaxnnError
from jaxnn.files import plain
from jaxnn.train.state import NO_LIMIT, TrainState

POLICIES: dict[str, str] = {
    "skip": "leave the step out, bit for bit; after too many in a row, an error",
    "raise": "an error at the first bad step",
    "rollback": "back to the last sound state with half the learning rate; sound is "
    "one whose loss was seen, at the next step",
    "stop": "end the training, keeping the best parameters",
    "off": "take the step: NaN goes where it will",
}
"""Policy -> what it does about a step whose loss, gradients or updates are bad."""

MOST_ROLLBACKS = 20
EXPLODED = 3.0  # times the loss before training: no step of a sound run is so bad
HALVINGS = 8  # that leave a loss as it was: the rate is not what makes it so large
CALM = 1.5  # times that loss: well below, so that other rows are not beyond it


class Slowed(NamedTuple):
    """State of `slowable`: all updates are multiplied by `scale`."""

    scale: Array
    inner: Any


@programs.remembered
def slowable(optimizer: Any) -> Any:
    """The optimizer, its updates times a number that `slow_down` can halve."""

    def init(params):
        return Slowed(jnp.ones(()), optimizer.init(params))

    def update(updates, state, params=None):
        updates, inner = optimizer.update(updates, state.inner, params)
        slowed = jax.tree.map(lambda u: u * state.scale.astype(u.dtype), updates)
        return slowed, Slowed(state.scale, inner)

    return optax.GradientTransformation(init, update)


def slow_down(opt: Slowed, factor: Any) -> Slowed:
    """The state with its scale times `factor`, one number or one a seed."""
    return Slowed(opt.scale * jnp.asarray(factor, opt.scale.dtype), opt.inner)


@programs.jit
def chosen(mask: Any, new: Any, old: Any) -> Any:
    """`new` where the mask says so, a seed or the whole."""

    def pick(a, b):
        if is_key(a):
            wide = jax.random.key_data(a), jax.random.key_data(b)
            return jax.random.wrap_key_data(pick(*wide), impl=jax.random.key_impl(a))
        return jnp.where(
            jnp.reshape(mask, mask.shape + (1,) * (a.ndim - mask.ndim)), a, b
        )

    return jax.tree.map(pick, new, old)


class TrainingError(JaxnnError):
    """Training could not go on; `history` holds what was learned until then."""

    history: Any = None


COUNTED = ("step", "skipped", "limit")  # of a state: these go on, wherever it is from


class GuardStopError(Exception):
    """The policy "stop" ends the training; not an error."""


class Guard:
    """Watches one run by its policy; `findings` holds what it located.

    Args:
      policy: one of `jaxnn.guard.POLICIES`.
      max_bad: bad steps in a row that end a run under "skip".
      seeds: seeds of the run.
      multi_seed: whether they are trained side by side.

    To look at each update before it is taken, it has to be made twice; so the
    programs of a run do not. Parameters that are not finite at the end of a call, or
    too far from where they were, say that an update went wrong: the call is done again
    by a program that looks, and so are all that follow (`watching`). So it is when
    seeds side by side take steps all or nothing and one of them has a bad one.
    """

    def __init__(self, policy: str, max_bad: int, seeds: list, multi_seed: bool):
        self.policy, self.max_bad = policy, max_bad
        self.seeds, self.multi_seed = seeds, multi_seed
        self.in_a_row = np.zeros(len(seeds), int)
        self.rollbacks = 0
        # losses and rates of the call under way, before each of its rollbacks
        self.tries: list[tuple[np.ndarray, Any]] = []
        self.findings: list[Any] = []
        self.norms = np.zeros((0, len(seeds)))
        self.before: Any = None  # the state at the start of the call under way
        self.untrained: Any = None
        self.last_good: Any = None  # what "rollback" goes back to
        self.unlocated = ""  # why nothing was located
        self.watching = False

    def copy(self, ts: TrainState) -> None:
        """Keep the state, which the next call is about to overwrite."""
        if self.policy != "off":
            self.before = jax.tree.map(jnp.copy, ts)

    def needs_rerun(self, ts: TrainState, bad_for_one: bool = False) -> bool:
        """Whether the call has to be done again because an update went wrong, or
        because a step was bad for one seed, and so was taken by none."""
        if self.policy == "off" or self.watching:
            return False
        if bad_for_one:
            self.watching = True
            return True
        pairs = zip(*map(jax.tree.leaves, (ts.params, self.before.params)), strict=True)
        self.watching = any(
            _overflows(after, before)
            for after, before in pairs
            if jnp.issubdtype(after.dtype, jnp.floating)
        )
        return self.watching

    def check_steps(
        self, run: Any, metrics: dict, epoch: int, first: int, rows: Any
    ) -> bool:
        """Whether the call stands; False if it has to be done again after a rollback.

        Raises:
          TrainingError: as the policy says.
          GuardStopError: the policy is "stop".
        """
        ok = metrics["ok"].reshape(len(rows), len(self.seeds))
        norms = metrics["grad_norm"].reshape(ok.shape)
        bad = ~ok if self.policy != "rollback" else ~ok | self._exploded(metrics, ok)
        if self.policy == "off" or not bad.any():
            self.in_a_row[:], self.tries = 0, []
            self.norms = norms[-20:]
            self._keep_good(metrics, ok)
            return True
        at = int(bad.any(1).argmax())
        which = int(bad[at].argmax())
        if not self.findings:
            past = np.concatenate([self.norms, norms[:at]])[-20:, which]
            self._find(run, which, epoch, first + at + 1, at, rows, past)
        self.norms = norms[-20:]
        if self.policy == "rollback":
            return self._roll_back(run, bad, metrics, epoch)
        if self.policy == "skip":
            self._count(ok, epoch, first)
            return True
        run.ts = run.ts._replace(limit=jnp.full_like(run.ts.limit, NO_LIMIT))
        if self.policy == "stop":
            raise GuardStopError
        raise TrainingError(
            f"training: epoch {epoch}, step {first + at + 1}, seed "
            f"{self.seeds[which]} had a loss, gradient or update that is not finite. "
            f"Parameters are those before it.{self._words()}"
        )

    def saved(self) -> dict[str, Any]:
        """What it counts, as plain values; `resumed` takes it up again."""
        return {
            "in_a_row": self.in_a_row.tolist(),
            "rollbacks": self.rollbacks,
            "watching": self.watching,
            "norms": self.norms.tolist(),
            "untrained": None if self.untrained is None else self.untrained.tolist(),
            "findings": [plain(finding.to_json()) for finding in self.findings],
        }

    def resumed(self, saved: dict[str, Any]) -> "Guard":
        """A guard that goes on counting from what `saved` returned.

        Raises, by whatever error, if that was not written so.
        """
        from jaxnn.guard.report import Finding  # only a run that is resumed needs it

        other = Guard(self.policy, self.max_bad, self.seeds, self.multi_seed)
        other.in_a_row = np.array(saved["in_a_row"], int)
        other.rollbacks = saved["rollbacks"]
        other.watching = saved.get("watching", False)
        other.norms = np.array(saved["norms"], float).reshape(-1, len(self.seeds))
        if saved["untrained"] is not None:
            other.untrained = np.array(saved["untrained"], float)
        other.findings = [Finding(**finding) for finding in saved["findings"]]
        for finding in other.findings:
            finding.lines()
        counts = [c for c in (other.in_a_row, other.untrained) if c is not None]
        if any(c.shape != (len(self.seeds),) for c in counts) or other.rollbacks < 0:
            raise ValueError(f"the guard counted {saved}")
        return other

    def check_evaluation(self, run: Any, row: dict, epoch: int) -> None:
        """Say so if evaluation is not finite where training was.

        Raises:
          TrainingError: the policy is "raise".
          GuardStopError: the policy is "stop".
        """
        bad = ~np.isfinite(np.atleast_1d(row.get("validation_loss", 0.0)))
        if self.policy == "off" or not bad.any():
            return
        if not any(finding.part == "evaluation" for finding in self.findings):
            self._find(run, int(bad.argmax()), epoch)
        if self.policy == "stop":
            raise GuardStopError
        if self.policy == "raise":
            raise TrainingError(
                f"training: the validation loss of epoch {epoch}, seed "
                f"{self.seeds[int(bad.argmax())]} is not finite, though its steps "
                f"were."
                f"{self._words()}"
            )

    def check_trained(self, history: Any, tried: int) -> None:
        """Raise if a seed has learned nothing, or nothing that gives numbers.

        Args:
          history: of the whole run.
          tried: its steps.

        Raises:
          TrainingError: all steps of a seed were bad, fewer than end a run on the way;
            or its validation was NaN in every epoch.
        """
        if self.policy == "off" or not history.epochs:
            return

        def column(name):
            return np.array([np.atleast_1d(row[name]) for row in history.epochs], float)

        why = f"each of the {tried:,} steps was bad and left out"
        left_out = column("skipped").sum(0) >= tried
        worthless = left_out
        if not left_out.any() and "validation_loss" in history.epochs[-1]:
            worthless = ~np.isfinite(column("validation_loss")).any(0)
            why = "its validation loss was not finite after any epoch"
        if worthless.any():
            seed = self.seeds[int(worthless.argmax())]
            raise TrainingError(
                f"training: seed {seed} has not been trained: {why}.{self._words()}"
            )

    def _exploded(self, metrics, ok):
        """Steps whose loss is far above that of the untrained network."""
        loss = self._losses(metrics, ok)
        if self.untrained is None:
            self.untrained = np.where(np.isfinite(loss[0]), np.abs(loss[0]), np.inf)
        return loss > EXPLODED * self.untrained

    def _losses(self, metrics, ok):
        return np.asarray(metrics["loss"], np.float64).reshape(ok.shape)

    def _keep_good(self, metrics, ok):
        """Keep the state before the call if its loss, the first one, shows it sound.

        The loss tells of an update one step late: a state may be finite and far away,
        and is known to be sound only by the step after it.
        """
        if self.policy != "rollback":
            return
        loss, limit = self._losses(metrics, ok)[0], CALM * self.untrained
        calm = ok[0] & ((loss <= limit) | ~np.isfinite(limit))
        if self.last_good is None or calm.all():
            self.last_good = self.before
        elif calm.any():
            self.last_good = chosen(calm, self.before, self.last_good)

    def _roll_back(self, run, bad, metrics, epoch):
        self.rollbacks += 1
        scale = self.before.opt.scale  # of all rollbacks so far
        self.tries.append((self._losses(metrics, bad), scale))
        noise = self._noise(bad)
        if self.rollbacks > MOST_ROLLBACKS and not noise.any():
            raise TrainingError(
                f"training: {MOST_ROLLBACKS} rollbacks, each with half the learning "
                f"rate, have not helped, up to epoch {epoch}.{self._words()}"
            )
        self._keep_good(metrics, ~bad)
        slower = bad.any(0)
        mask = slower if self.multi_seed else slower[0]
        # where a step was bad: back; its own buffers, as the program takes them
        back = chosen(mask, self.last_good, self.before)
        factor = np.where(slower, 0.5, 1.0)
        if noise.any():  # the call again as it was, with a limit that bears the noise
            self.untrained = np.maximum(self.untrained, 2 * noise / EXPLODED)
            factor = np.where(noise, np.atleast_1d(self.tries[0][1] / scale), factor)
            self.rollbacks -= len(self.tries)
            self.tries = []
        opt = slow_down(
            back.opt._replace(scale=scale), factor if self.multi_seed else factor[0]
        )
        counted = {name: getattr(self.before, name) for name in COUNTED}
        run.ts = jax.tree.map(jnp.copy, back._replace(opt=opt, **counted))
        return False

    def _noise(self, bad):
        """The loss of each seed that `HALVINGS` of the rate have left as it was, or 0.

        A single step can have it without any fault: dropout of nearly all.
        """
        if len(self.tries) <= HALVINGS:
            return np.zeros(len(self.seeds))
        (before, _), (now, _) = self.tries[-2:]
        with np.errstate(invalid="ignore"):
            same = bad & (np.abs(now - before) <= 0.01 * np.abs(before))
        noisy = (same == bad).all(0)
        return np.where(noisy, np.where(same, now, 0).max(0), 0.0)

    def _count(self, ok, epoch, first):
        """Count bad steps in a row, across calls and epochs; raise at the cap."""
        for i, good in enumerate(ok):
            self.in_a_row = np.where(good, 0, self.in_a_row + 1)
            if self.in_a_row.max() >= self.max_bad:
                seed = self.seeds[int(self.in_a_row.argmax())]
                raise TrainingError(
                    f"training diverged: {self.max_bad} steps in a row had a "
                    f"non-finite loss, gradient or update, up to epoch {epoch}, step "
                    f"{first + i + 1} of that epoch, seed {seed}. Parameters are those "
                    f"before the first of them.{self._words()}"
                )

    def _words(self):
        if not self.findings:
            return (
                " Try a smaller lr, another init, or look at the data. Where it began "
                f"was not found{self.unlocated}."
            )
        return "\n" + "\n".join(self.findings[0].lines())

    def _find(self, run, which, epoch, *call):
        """Locate a bad step of a call, or without one what is bad in evaluation.

        Whatever that meets: a report must not end a run in its place.
        """
        start = time.perf_counter()
        try:
            from jaxnn.guard import repro  # only a bad run needs it

            find = repro.find_in_step if call else repro.find_in_evaluation
            finding = find(run, which, epoch, *call)
        except Exception as error:
            self.unlocated = f" ({type(error).__name__}: {error})"
            return
        if finding is not None:
            finding.seconds = round(time.perf_counter() - start, 3)
            self.findings.append(finding)


def _overflows(after: Any, before: Any) -> bool:
    """Whether the square of the way between two arrays is not finite.

    The step asks the same of an update, in float32 too: far from overflowing itself a
    number can be too large for what comes next. An infinite number that was there
    before is a mask, and on purpose.
    """
    after, before = (np.asarray(a) for a in (after, before))
    wide = np.promote_types(after.dtype, np.float32)
    after, before = (a.astype(wide, copy=False).ravel() for a in (after, before))
    with np.errstate(over="ignore", invalid="ignore"):
        moved = after - before
        if np.isfinite(np.vdot(moved, moved)):
            return False
        moved = moved[np.isfinite(before)]
        return not np.isfinite(np.vdot(moved, moved))
