"""How every command line tells an error: one line on stderr, exit code 2. (Not in errors.py, which hardware ids depend on.)"""
import argparse
import functools
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

P = ParamSpec("P")
NO_TORCH = "torch cannot be imported: install its CPU build, see the note on torch in `make help`"


def told(error: Exception) -> str:
    """What a user reads of `error`: of a ValueError its first line, of an OSError the file and what is wrong with it."""
    if isinstance(error, OSError) and error.filename is not None:
        what = (error.strerror or str(error)).lower()
        return f"{error.filename2 or error.filename}: {what}: name another file or folder, or change its rights"
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0] if isinstance(error, ValueError) else text


def seed_number(text: str) -> int:
    """A seed of a command line: 0 to 2^32 - 1; ArgumentTypeError."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"a seed is a number from 0 to 2^32 - 1, not {text!r}")
    return int(text)


def output_file(path: Path) -> Path:
    """`path`, its folder made: called before long work, so that the work cannot be lost on it. ValueError for a folder."""
    if path.is_dir():
        raise ValueError(f"{path}: is a folder: name a file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def command_line(*also: type[Exception]) -> Callable[[Callable[P, int]], Callable[P, int]]:
    """Decorator of a `main`: what a user can mend is told on stderr, without a traceback.

    ValueError, OSError and `also`: `told`, exit code 2; a missing torch likewise. Ctrl-C: exit code 130.
    """
    kinds: tuple[type[Exception], ...] = (ValueError, OSError, *also)

    def decorate(main: Callable[P, int]) -> Callable[P, int]:
        @functools.wraps(main)
        def run(*args: P.args, **kwargs: P.kwargs) -> int:
            try:
                return main(*args, **kwargs)
            except ModuleNotFoundError as error:
                if error.name != "torch":
                    raise
                print(NO_TORCH, file=sys.stderr)
                return 2
            except kinds as error:
                print(told(error), file=sys.stderr)
                return 2
            except KeyboardInterrupt:
                warnings.simplefilter("ignore")  # Amaranth's, of hardware that was half built
                print("interrupted: run the same command again", file=sys.stderr)
                return 130
        return run
    return decorate
