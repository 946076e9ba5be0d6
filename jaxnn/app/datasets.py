"""`jaxnn data`: which data sets are known and here, whether whole, downloads."""

from jaxnn.app.config import DataConfig
from jaxnn.data import command
from jaxnn.errors import JaxnnError


def data_run(config: DataConfig, started: float | None = None) -> bool:
    """Print a table; False if a file is missing or damaged.

    Raises:
      JaxnnError: no name, an unknown one, or no data.
    """
    del started
    intact = True
    if config.action == "list":
        text = command.list_datasets()
    elif config.name is None:
        raise JaxnnError(
            f"data {config.action}: got no name; expected such as "
            f"`jaxnn data {config.action} mnist`"
        )
    elif config.action == "fetch":
        text = command.fetch_dataset(config.name)
    else:
        intact, text = command.verify_dataset(config.name)
    print(text)
    return intact
