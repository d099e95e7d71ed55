"""Short links to folders whose names Verilator's makefiles cannot hold: blanks and other signs that make reads as its own.

A link lies in a folder of this user's alone, `<temporary folder>/mst-<user id>/`, under a name computed from the path that it
stands for, so that builds find their files there again.
"""
import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

PLAIN = re.compile(r"[A-Za-z0-9_./+@-]+")
"""Paths that make, the shell and a compiler's command line take as they are."""


def plain_path(path: Path) -> Path:
    """An absolute `path`, or the same file or folder through a link where make could not hold its name.

    ValueError where the file's own name is at fault, or no folder for links can be made.
    """
    if PLAIN.fullmatch(str(path)):
        return path
    if path.is_dir():
        return _link(path)
    if not PLAIN.fullmatch(path.name):
        raise ValueError(f"{path}: its name has a sign that make cannot hold: rename it to letters, digits and _ . + @ -")
    return _link(path.parent) / path.name


def with_plain_paths(argument: str, folders: Iterable[Path]) -> str:
    """`argument` with each of `folders` in it by its plain path."""
    for folder in sorted(map(str, folders), key=len, reverse=True):
        if not PLAIN.fullmatch(folder):
            argument = argument.replace(folder, str(plain_path(Path(folder))))
    return argument


def _link(folder: Path) -> Path:
    links = _links(folder)
    link = links / hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    with contextlib.suppress(FileExistsError):
        link.symlink_to(folder, target_is_directory=True)
    if os.readlink(link) != str(folder):
        raise ValueError(f"{link}: leads to {os.readlink(link)}, not to {folder}: remove it")
    return link


def _links(wanted: Path) -> Path:
    """This user's folder of links, made if need be; `wanted`: the path that an error names."""
    for place in (tempfile.gettempdir(), "/tmp"):
        if PLAIN.fullmatch(place) and Path(place).is_dir():
            links = Path(place) / f"mst-{os.getuid()}"
            links.mkdir(mode=0o700, exist_ok=True)
            if links.is_symlink() or links.stat().st_uid != os.getuid():
                raise ValueError(f"{links}: belongs to another user: set TMPDIR to a folder of your own")
            return links
    raise ValueError(f"{wanted}: make cannot hold this path, and no temporary folder has a plain one: set TMPDIR to one "
                     "without blanks")
