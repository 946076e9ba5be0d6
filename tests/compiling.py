"""How many programs are compiled."""

from contextlib import contextmanager

import jax


@contextmanager
def compiling():
    """A list that grows by each program compiled."""
    found = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.clear_event_listeners()
