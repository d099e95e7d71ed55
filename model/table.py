"""A TOML table read into a dataclass: the keys it has, their types, and one line about the first thing that is wrong."""
import dataclasses
import math
import types
import typing

from model.errors import ConfigError

T = typing.TypeVar("T")
LONGEST = 4096
"""Entries of a list in a table."""
SHOWN = 100
"""Characters of a value that a message repeats."""


def shown(value: object) -> str:
    """`value` as a message says it: on one line, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # numbers of thousands of digits, nests of thousands of lists
        return f"a {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def read_table(cls: type[T], table: str, raw: object) -> T:
    """Build dataclass `cls` from TOML table `raw`; ConfigError names unknown, missing and ill-typed keys."""
    if not isinstance(raw, dict):
        raise ConfigError(f"[{table}] must be a table, not {shown(raw)}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in raw:
        if key not in fields:
            raise ConfigError(f"[{table}] has no key {shown(key)}; known keys: {', '.join(fields)}")
    for name, entry in fields.items():
        if name not in raw and entry.default is dataclasses.MISSING:
            raise ConfigError(f"[{table}] lacks {name!r}: {entry.metadata['doc']}")
    hints = typing.get_type_hints(cls)
    return cls(**{key: typed(table, key, value, hints[key]) for key, value in raw.items()})


def _named(item: object) -> str:
    return "lists" if typing.get_origin(item) is tuple else getattr(item, "__name__", str(item))


def typed(table: str, key: str, value: object, kind: object) -> object:
    """`value` as `kind`: int, float, str, bool, or a tuple of one of them from a list (a tuple was typed by the caller).

    ConfigError for another type, an integer beyond 64 bits, a float that is not finite.
    """
    if typing.get_origin(kind) is tuple:
        if isinstance(value, tuple):
            return value
        item, *others = typing.get_args(kind)
        pair = others not in ([], [...])  # a tuple of a fixed length, such as (channels, stride)
        what = f"{1 + len(others)} values" if pair else _named(item)
        if not isinstance(value, list) or (pair and len(value) != 1 + len(others)):
            raise ConfigError(f"[{table}] {key} must be a list of {what}, not {shown(value)}")
        if len(value) > LONGEST:
            raise ConfigError(f"[{table}] {key} has {len(value)} entries, more than {LONGEST}")
        return tuple(typed(table, key, entry, item) for entry in value)
    if isinstance(kind, types.UnionType):
        raise TypeError(f"[{table}] {key}: unions are not supported in configurations")
    assert isinstance(kind, type)
    if type(value) is int and not -(1 << 63) <= value < 1 << 63:
        raise ConfigError(f"[{table}] {key} must fit 64 bits, not {shown(value)}")
    if type(value) is float and not math.isfinite(value):
        raise ConfigError(f"[{table}] {key} must be a finite number, not {value}")
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ConfigError(f"[{table}] {key} must be {kind.__name__}, not {shown(value)}")
    return value
