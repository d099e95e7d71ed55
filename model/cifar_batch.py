"""The pickled dictionary of a CIFAR batch, read without building anything that the file describes (`model.inert_pickle`)."""
import math
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from model.inert_pickle import Machine, Standing, UnpickleError, builtins, encoded

LARGEST = 1 << 28
"""Bytes of a batch's pickle: the largest published one, CIFAR-100's training set, has 155 MB."""


class _Dtype(Standing):
    """Stands for numpy.dtype: bytes, or the integers that labels may have."""

    KINDS = {"u1": np.uint8, "|u1": np.uint8, "uint8": np.uint8, "i8": np.int64, "<i8": np.int64, "i4": np.int32, "<i4": np.int32}

    def __init__(self, name: object, *_: object) -> None:
        if isinstance(name, bytes):
            name = name.decode("latin1")
        if not isinstance(name, str) or name not in self.KINDS:
            raise UnpickleError(f"an array has the dtype {str(name)[:20]!r}, not that of pixels or labels")
        self.kind = np.dtype(self.KINDS[name]).newbyteorder("<")

    def set_state(self, state: object) -> None:
        """See Standing: only the byte order counts."""
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", "|", "=", b"<", b"|", b"="):
            raise UnpickleError("an array is not little-endian")


class _Array(Standing):
    """Stands for numpy.ndarray; `values` once its state is known."""

    def __init__(self, *_: object) -> None:
        self.values: NDArray[Any] | None = None

    def set_state(self, state: object) -> None:
        """See Standing: (version, shape, dtype, in Fortran's order, bytes)."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise UnpickleError("an array's description is damaged")
        _, shape, dtype, fortran, raw = state
        good = isinstance(shape, tuple) and len(shape) <= 4 and all(type(side) is int and side >= 0 for side in shape)
        if not good or not isinstance(dtype, _Dtype) or not isinstance(raw, bytes) or type(fortran) not in (bool, int):
            raise UnpickleError("an array's description is damaged")
        if math.prod(shape) * dtype.kind.itemsize != len(raw):
            raise UnpickleError(f"an array of shape {list(shape)} has {len(raw)} bytes")
        self.values = np.frombuffer(raw, dtype.kind).reshape(shape, order="F" if fortran else "C")


def _table() -> dict[tuple[str, str], object]:
    """What a batch may name. `ndarray` itself is only an argument of `_reconstruct`."""
    table = {**builtins(), ("_codecs", "encode"): encoded, ("numpy", "dtype"): lambda *arguments: _Dtype(*arguments),
             ("numpy", "ndarray"): lambda *arguments: _Array()}
    return table | {(module, "_reconstruct"): lambda *arguments: _Array()
                    for module in ("numpy.core.multiarray", "numpy._core.multiarray")}


def read(file: BinaryIO) -> dict[Any, Any]:
    """The dictionary at the place of `file`, arrays as numpy's, texts of Python 2 as bytes; UnpickleError."""
    found = Machine(_table(), "bytes").load(file, LARGEST)
    if not isinstance(found, dict):
        raise UnpickleError(f"holds a {type(found).__name__}, not the dictionary of a CIFAR batch: unpack it again")
    for key, value in found.items():
        if isinstance(value, _Array):
            if value.values is None:
                raise UnpickleError(f"its array {str(key)[:40]} is not described: unpack it again")
            found[key] = value.values
    return found


def labels(found: object) -> NDArray[np.int64]:
    """A batch's labels, int64 [N], from a list of integers or an array of them; UnpickleError."""
    if isinstance(found, list):
        if not all(type(label) is int and -(1 << 63) <= label < 1 << 63 for label in found):
            raise UnpickleError("holds a label that is not a whole number")
        return np.array(found, np.int64)
    if isinstance(found, np.ndarray) and found.ndim == 1:
        return found.astype(np.int64)
    raise UnpickleError(f"its labels are a {type(found).__name__}, not a list")
