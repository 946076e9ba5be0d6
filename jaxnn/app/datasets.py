"""`jaxnn data`: which data sets are known and here, whether whole, downloads."""

from jaxnn.app.config import DataConfig
from jaxnn.data.sources import SOURCES, fetch, locate, verify
from jaxnn.errors import JaxnnError, lookup
from jaxnn.text import aligned


def data_run(config: DataConfig) -> bool:
    """Print a table; False if a file is missing or damaged."""
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
    """Whether no file of a data set or folder is wrong; a line each."""
    rows, found = [("status", "file", "SHA-256")], verify(name)
    for file in found:
        rows.append((file.status, str(file.file), file.found))
        if file.status == "mismatch":
            rows.append(("", "  expected", file.expected))
    text, seen = aligned(rows), {file.status for file in found}
    if "unknown" in seen:
        text += "\nunknown: readable, but no checksum is published to compare with."
    intact = seen <= {"ok", "unknown"}
    if not intact:
        text += "\nTo put it right, delete the bad files and run: jaxnn data fetch NAME"
    return intact, text


def fetch_dataset(name: str) -> str:
    """Download a named data set, unless it is here and intact; say where it is."""
    lookup("data set", name, SOURCES)
    place = locate(name)
    if place is not None and verify_dataset(name)[0]:
        return f"{name} is already here and intact: {place.folder}"
    return f"{name} is now in {fetch(name)}"
