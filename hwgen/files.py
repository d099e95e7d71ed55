"""Writing generated files: only when they changed, never half, and by one run at a time."""
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class BusyError(ValueError):
    """Another run is at work in the folder: one line that names it."""


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """`folder`, made if need be, for this run alone. BusyError where another has it; a run that dies lets go of it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"{folder}: another run is at work there: wait for its end, or name another folder") from None
        yield


def write_if_changed(path: Path, text: str | bytes) -> bool:
    """Write `path` unless it holds `text` already; True if it was written. A crash leaves the old file."""
    data = text.encode() if isinstance(text, str) else text
    if path.exists() and path.read_bytes() == data:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part{os.getpid()}")
    part.write_bytes(data)
    part.replace(path)
    return True


def hex_image(words: Iterable[int], bits: int) -> str:
    """A memory image for $readmemh: one word of `bits` bits a line."""
    digits = -(-bits // 4)
    return "".join(f"{word:0{digits}x}\n" for word in words)


def json_text(value: object) -> str:
    """JSON as it is committed or compared: sorted, indented, one newline at the end."""
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def digest(*parts: str | bytes) -> str:
    """Hex SHA-256 over `parts`, with their lengths."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()
