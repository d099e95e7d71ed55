"""The file of measured accuracies beside a configuration, which `model evaluate` and `quantize accuracy` write."""
import json
from pathlib import Path
from typing import Any

from model.config import Config


def accuracy_file(config: Config) -> Path:
    """The file of measured accuracies of a configuration's network: beside the network file."""
    return config.network.parent / f"{config.network.stem}.accuracy.json"


def measured(path: Path) -> dict[str, Any]:
    """What an accuracy file holds, {} where there is none; ValueError in one line when it is broken."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: broken ({error}): measure again with `python -m model evaluate`") from None
    return found
