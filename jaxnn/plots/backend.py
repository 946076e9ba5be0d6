"""matplotlib, imported whatever backend the environment names.

MPLBACKEND is for windows, which no picture here opens; a notebook's is inherited by the
commands it starts, and matplotlib cannot be imported where it names one unknown.
"""

import os

_asked = os.environ.pop("MPLBACKEND", None)
try:
    import matplotlib  # noqa: F401
finally:
    if _asked is not None:
        os.environ["MPLBACKEND"] = _asked
