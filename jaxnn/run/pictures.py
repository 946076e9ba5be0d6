"""Pictures and pages of a run: one that fails is told of, and fails nothing else."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def draw(folder: Path, pictures: Mapping[str, Callable[[Path], Any]]) -> dict[str, str]:
    """Draw each of `pictures` (file name -> what draws to a path) into `folder`.

    A picture is not worth a run, which is saved before: whatever goes wrong with one
    is caught, and returned to be told.

    Returns:
      File name -> why it is not there, of those that failed.
    """
    failed = {}
    for name, make in pictures.items():
        try:
            make(folder / name)
        except Exception as error:
            words = (str(error).splitlines() or [""])[0]
            failed[name] = f"{type(error).__name__}: {words}"
    return failed
