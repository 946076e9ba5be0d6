"""A NaN that no result shows: an attack keeps the best of its points, never a NaN."""

from jaxnn.guard.replay import Frame
from jaxnn.guard.trace import Origin, has_nan, is_bad, join, origin, trail


def first_nan(frame: Frame, scope, turn) -> Origin | None:
    """The first operation, in the order they are run, that made NaN of no NaN."""
    frame.run_all()
    for number, eqn in enumerate(frame.jaxpr.eqns):
        values = [frame.value(v) for v in eqn.outvars if v in frame.env]
        bodies = _bodies(frame, number, turn)
        if bodies is not None:
            for body, now in bodies:
                found = first_nan(body, join(scope, eqn), now)
                if found is not None:
                    return found
            continue
        given = any(is_bad(v) and has_nan(v) for v in frame.inputs_of(number))
        for which, value in enumerate(values):
            if not given and is_bad(value) and has_nan(value):
                found = trail(frame, eqn.outvars[which], scope, turn)
                here = origin(frame, number, which, scope, turn)
                return found if isinstance(found, Origin) else here
    return None


def _bodies(frame, number, turn):
    """The runs within a call, scan or loop, and where each is; None for a plain one."""
    inner = frame.inside.get(number)
    if inner is None or isinstance(inner, Frame):
        return inner and [(inner, turn)]
    found = []
    for order, given in zip(inner.order, inner.given, strict=True):
        now = f"{inner.kind} {order}"
        body = frame.body(inner.body, given, inner.constant)
        found.append((body, f"{turn}, {now}" if turn else now))
    return found
