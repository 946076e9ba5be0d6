"""`jaxnn data`: which data sets are known and here, whether whole, downloads."""

from collections.abc import Sequence

from jaxnn.app.config import DataConfig
from jaxnn.data.sources import SOURCES, FileStatus, fetch, locate, verify
from jaxnn.errors import JaxnnError, lookup
from jaxnn.text import aligned


def data_run(config: DataConfig) -> bool:
    """Print a table; False if a file is missing or damaged.

    Raises:
      JaxnnError: no name, an unknown one, or no data.
    """
    intact = True
    if config.action == "list":
        text = list_datasets()
    elif config.name is None:
        raise JaxnnError(
            f"data {config.action}: got no name; expected such as "
            f"`jaxnn data {config.action} mnist`"
        )
    elif config.action == "fetch":
        text = fetch_dataset(config.name)
    else:
        intact, text = verify_dataset(config.name)
    print(text)
    return intact


def list_datasets() -> str:
    """A table of the named data sets: sizes, license, and where each one is."""
    rows = [("name", "classes", "train", "test", "license", "where")]
    for name, source in SOURCES.items():
        try:
            place = locate(name)
            missing = f"not here: jaxnn data fetch {name}"
            where = missing if place is None else str(place.folder)
        except JaxnnError as error:
            where = str(error).splitlines()[0]
        sizes = (str(source.classes), f"{source.train:,}", f"{source.test:,}")
        rows.append((name, *sizes, source.license, where))
    return aligned(rows, right=(1, 2, 3))


def verify_dataset(name: str) -> tuple[bool, str]:
    """Check the files of a data set, given by name or folder.

    Returns:
      whether none is wrong or damaged, and a table with one line a file.

    Raises:
      JaxnnError: it is not on this machine.
    """
    statuses = verify(name)
    rows = [("status", "file", "SHA-256")]
    for status in statuses:
        rows.append((status.status, str(status.file), status.found))
        if status.status == "mismatch":
            rows.append(("", "  expected", status.expected))
    text = aligned(rows)
    if any(status.status == "unknown" for status in statuses):
        text += "\nunknown: readable, but no checksum is published to compare with."
    if not _intact(statuses):
        text += "\nTo put it right, delete the bad files and run: jaxnn data fetch NAME"
    return _intact(statuses), text


def fetch_dataset(name: str) -> str:
    """Download a named data set, unless it is here and intact; say where it is.

    Raises:
      JaxnnError: unknown name, or every mirror failed.
    """
    lookup("data set", name, SOURCES)
    place = locate(name)
    if place is not None and _intact(verify(name)):
        return f"{name} is already here and intact: {place.folder}"
    return f"{name} is now in {fetch(name)}"


def _intact(statuses: Sequence[FileStatus]) -> bool:
    return all(status.status in ("ok", "unknown") for status in statuses)
