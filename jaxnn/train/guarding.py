"""The host's side of the guard: what becomes of a run that had a bad step."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.errors import JaxnnError
from jaxnn.files import plain
from jaxnn.guard.policies import EXPLODED, MOST_ROLLBACKS, slow_down
from jaxnn.train.state import NO_LIMIT, TrainState


class TrainingError(JaxnnError):
    """Training could not go on; `history` holds what was learnt until then."""

    history: Any


class GuardStopError(Exception):
    """The policy "stop" ends the training; not an error."""


class Guard:
    """Watches one run by its policy; `findings` holds what it located.

    Args:
      policy: one of `jaxnn.guard.POLICIES`.
      max_bad: bad steps in a row that end a run under "skip".
      seeds: seeds of the run.
      many: whether they are trained side by side.

    To look at each update before it is taken, it has to be made twice; so the
    programs of a run do not. Parameters that are not finite at the end of a call, or
    too far from where they were, say that an update went wrong: the call is done again
    by a program that looks, and so are all that follow (`watching`). So it is when
    seeds side by side take steps `together` and one of them has a bad one.
    """

    def __init__(self, policy: str, max_bad: int, seeds: list, many: bool):
        self.policy, self.max_bad, self.seeds, self.many = policy, max_bad, seeds, many
        self.in_a_row = np.zeros(len(seeds), int)
        self.rollbacks = 0
        self.findings: list[Any] = []
        self.norms = np.zeros((0, len(seeds)))
        self.before: Any = None  # the state at the start of the call under way
        self.untrained: Any = None
        self.sound: Any = None  # what "rollback" goes back to
        self.unlocated = ""  # why nothing was located
        self.watching = False

    def copy(self, ts: TrainState) -> None:
        """Keep the state, which the next call is about to overwrite."""
        if self.policy != "off":
            self.before = jax.tree.map(jnp.copy, ts)

    def spoilt(self, ts: TrainState, held_up: bool = False) -> bool:
        """Whether the call has to be done again because an update went wrong, or
        because one seed's bad step has `held_up` the others."""
        if self.policy == "off" or self.watching:
            return False
        if held_up:
            self.watching = True
            return True
        pairs = zip(*map(jax.tree.leaves, (ts.params, self.before.params)), strict=True)
        self.watching = any(
            _overflows(after, before)
            for after, before in pairs
            if jnp.issubdtype(after.dtype, jnp.floating)
        )
        return self.watching

    def look(self, run: Any, metrics: dict, epoch: int, first: int, rows: Any) -> bool:
        """Whether the call stands; False if it has to be done again after a rollback.

        Raises:
          TrainingError: as the policy says.
          GuardStopError: the policy is "stop".
        """
        ok = metrics["ok"].reshape(len(rows), len(self.seeds))
        norms = metrics["grad_norm"].reshape(ok.shape)
        bad = ~ok if self.policy != "rollback" else ~ok | self._exploded(metrics, ok)
        if self.policy == "off" or not bad.any():
            self.in_a_row[:] = 0
            self.norms = norms[-20:]
            return True
        at = int(bad.any(1).argmax())
        which = int(bad[at].argmax())
        if not self.findings:
            past = np.concatenate([self.norms, norms[:at]])[-20:, which]
            self._find(run, epoch, first, at, which, rows, past)
        self.norms = norms[-20:]
        if self.policy == "rollback":
            return self._roll_back(run, bad.any(0), epoch)
        if self.policy == "skip":
            self._count(ok, epoch, first)
            return True
        run.ts = self._unlimited(run.ts)
        if self.policy == "stop":
            raise GuardStopError
        raise TrainingError(
            f"training: epoch {epoch}, step {first + at + 1}, seed "
            f"{self.seeds[which]} had a loss, gradient or update that is not finite. "
            f"Parameters are those before it.{self._words()}"
        )

    def saved(self) -> dict[str, Any]:
        """What it counts, as plain values; `restore` takes it up again."""
        return {
            "in_a_row": self.in_a_row.tolist(),
            "rollbacks": self.rollbacks,
            "watching": self.watching,
            "norms": self.norms.tolist(),
            "untrained": None if self.untrained is None else self.untrained.tolist(),
            "findings": [plain(finding.to_json()) for finding in self.findings],
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on counting from what `saved` returned."""
        from jaxnn.guard.finding import Finding  # only a run that is resumed needs it

        self.in_a_row = np.array(saved["in_a_row"], int)
        self.rollbacks = saved["rollbacks"]
        self.watching = saved.get("watching", False)
        self.norms = np.array(saved["norms"], float).reshape(-1, len(self.seeds))
        untrained = saved["untrained"]
        self.untrained = None if untrained is None else np.array(untrained, float)
        self.findings = [Finding(**finding) for finding in saved["findings"]]

    def check(self, saved: dict[str, Any]) -> None:
        """Raise, by whatever error, if `restore` could not go on from this."""
        other = Guard(self.policy, self.max_bad, self.seeds, self.many)
        other.restore(saved)
        for finding in other.findings:
            finding.lines()
        for counted in (other.in_a_row, other.untrained):
            if counted is not None and counted.shape != other.in_a_row.shape:
                raise ValueError(f"the guard counted {counted.tolist()}")
        if other.in_a_row.shape != (len(self.seeds),) or other.rollbacks + 0 < 0:
            raise ValueError(f"the guard counted {saved}")

    def _exploded(self, metrics, ok):
        """Steps whose loss is far above that of the untrained network."""
        loss = np.asarray(metrics["loss"], np.float64).reshape(ok.shape)
        if self.untrained is None:
            self.untrained = np.where(np.isfinite(loss[0]), np.abs(loss[0]), np.inf)
        return loss > EXPLODED * self.untrained

    def _roll_back(self, run, slower, epoch):
        self.rollbacks += 1
        if self.rollbacks > MOST_ROLLBACKS:
            raise TrainingError(
                f"training: {MOST_ROLLBACKS} rollbacks, each with half the learning "
                f"rate, have not helped, up to epoch {epoch}.{self._words()}"
            )
        factor = np.where(slower, 0.5, 1.0)
        opt = slow_down(self.before.opt, factor if self.many else factor[0])
        run.ts = self.before._replace(opt=opt)
        return False

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

    def _unlimited(self, ts):
        return ts._replace(limit=jnp.full_like(ts.limit, NO_LIMIT))

    def _find(self, *where):
        """Locate, whatever that meets: a report must not end a run in its place."""
        start = time.perf_counter()
        try:
            finding = self._locate(*where)
        except Exception as error:
            self.unlocated = f" ({type(error).__name__}: {error})"
            return
        if finding is not None:
            finding.seconds = round(time.perf_counter() - start, 3)
            self.findings.append(finding)

    def _locate(self, run, epoch, first, at, which, rows, past):
        """Replay the call up to the bad step, then look into that step."""
        from jaxnn.guard.locate import locate_nonfinite  # only a bad run needs these
        from jaxnn.guard.repro import Case

        start = np.asarray(self.before.step).reshape(-1)[which]
        # by a copy: the program takes what it is given
        again = jax.tree.map(jnp.copy, self.before)
        again = again._replace(limit=jnp.full_like(again.limit, start + at))
        ts, _ = run.program(rows)(again, run.x, run.y, rows, run.keys)
        key, picked = run.keys, rows[at]
        if run.spread is not None:
            ts, key = run.spread.local((ts, key))
        if self.many:
            ts = jax.tree.map(lambda a: a[which], ts)
            key = run.keys[which]
            picked = picked[which] if rows.ndim == 3 else picked
        ts = ts._replace(
            step=jnp.asarray(start + at, jnp.int32), limit=jnp.asarray(NO_LIMIT)
        )
        # by NumPy, which need not compile it
        x, y = jax.tree.map(lambda a: np.asarray(a)[picked], (run.x, run.y))
        about = {
            "epoch": epoch, "number": first + at + 1, "seed": self.seeds[which],
            "rows": picked, "grad_norms": past,
        }  # fmt: skip
        case = Case(ts, x, y, key, about)
        finding = locate_nonfinite(run.step, *case[:4], **about)
        if finding is not None:
            finding.case = case
        return finding


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
