"""A TOML table read into a dataclass: the keys it has, their types, and one line about the first thing that is wrong."""
import dataclasses
import types
import typing

from model.errors import ConfigError

T = typing.TypeVar("T")


def read_table(cls: type[T], table: str, raw: object) -> T:
    """Build dataclass `cls` from TOML table `raw`; ConfigError names unknown, missing and ill-typed keys."""
    if not isinstance(raw, dict):
        raise ConfigError(f"[{table}] must be a table, not {raw!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in raw:
        if key not in fields:
            raise ConfigError(f"[{table}] has no key {key!r}; known keys: {', '.join(fields)}")
    for name, entry in fields.items():
        if name not in raw and entry.default is dataclasses.MISSING:
            raise ConfigError(f"[{table}] lacks {name!r}: {entry.metadata['doc']}")
    hints = typing.get_type_hints(cls)
    return cls(**{key: typed(table, key, value, hints[key]) for key, value in raw.items()})


def typed(table: str, key: str, value: object, kind: object) -> object:
    """`value` as `kind`: int, float, str, bool, or a tuple of one of them from a list (a tuple was typed by the caller)."""
    if typing.get_origin(kind) is tuple:
        if isinstance(value, tuple):
            return value
        item = typing.get_args(kind)[0]
        if not isinstance(value, list):
            raise ConfigError(f"[{table}] {key} must be a list of {item.__name__}, not {value!r}")
        return tuple(typed(table, key, entry, item) for entry in value)
    if isinstance(kind, types.UnionType):
        raise TypeError(f"[{table}] {key}: unions are not supported in configurations")
    assert isinstance(kind, type)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ConfigError(f"[{table}] {key} must be {kind.__name__}, not {value!r}")
    return value
