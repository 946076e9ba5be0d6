"""`--use FILE.py` or `--use MODULE`: what it registers is known to the command."""

import importlib
import os
from pathlib import Path

from jaxnn.check.user_code import run_file
from jaxnn.errors import JaxnnError


def use(target: str) -> None:
    """Run a file, or import a module, for the tables that it adds to.

    Raises:
      JaxnnError: there is none, or it fails.
    """
    if target.endswith(".py") or os.sep in target:
        run_file(Path(target), "--use FILE.py or --use MODULE")
        return
    try:
        importlib.import_module(target)
    except (Exception, SystemExit) as error:
        raise JaxnnError(
            f"--use {target}: cannot be imported ({type(error).__name__}: {error}); "
            "expected FILE.py, or a module that is installed"
        ) from error
