"""Reading a torch checkpoint (`torch.save`, zip or legacy format) without running anything that it names.

The pickle machine is `model.inert_pickle`; every global is looked up in a table of inert stand-ins made here: tensors
become `TensorRef` records, storages their dtype, a yacs CfgNode a plain dict. Anything else is refused by its name.
No torch import, and storages are read only when asked for, so an optimiser's state costs nothing.
"""
import io
import math
import struct
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.inert_pickle import Machine, Standing, UnpickleError, builtins, encoded, scalar_dict

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
PICKLE_BYTES = 64 << 20
"""Largest pickle that is read; a Swin-T's takes about 0.1 MB."""
ITEM_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1,
              "uint8": 1, "bool": 1}
STORAGES = {"DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
            "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
            "ByteStorage": "uint8", "BoolStorage": "bool"}
DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error)
"""What zipfile raises on damaged archives."""
NUMPY_TYPES = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1")


class CfgDict(dict[Any, Any]):
    """Stands for a yacs CfgNode: its entries. The node's own attributes (frozen, renamed keys) say nothing of the network."""

    __slots__ = ()


class StorageRef(NamedTuple):
    """One storage of the file: its key, dtype and length in items. (A named tuple: a pickle cannot write into it.)"""

    key: str
    dtype: str
    items: int

    @property
    def bytes(self) -> int:
        """Its size in the file."""
        return self.items * ITEM_BYTES[self.dtype]


class TensorRef(NamedTuple):
    """A tensor of the file, not read yet: view of a storage with offset, shape and stride in items."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Its size once it is read."""
        return math.prod(self.shape) * ITEM_BYTES[self.storage.dtype]


def _rebuild_tensor(storage: object, offset: int, shape: Any, stride: Any, *_: object) -> TensorRef:
    if not isinstance(storage, StorageRef):
        raise UnpickleError(f"builds a tensor from a {type(storage).__name__}, not from a storage")
    ref = TensorRef(storage, offset, tuple(shape), tuple(stride))
    if len(ref.shape) != len(ref.stride) or any(type(n) is not int or n < 0 for n in (offset, *ref.shape, *ref.stride)):
        raise UnpickleError(f"a tensor of storage {storage.key!r} has no valid offset, shape and stride: copy the file again")
    count = math.prod(ref.shape)
    last = offset + sum((n - 1) * step for n, step in zip(ref.shape, ref.stride, strict=True))
    if count and (last >= storage.items or count > storage.items):
        raise UnpickleError(f"a tensor of shape {list(ref.shape)} reaches beyond the {storage.items} items "
                            f"of its storage {storage.key!r}: the file is damaged; copy it again")
    return ref


def _rebuild_parameter(data: object, *_: object) -> object:
    return data


def _numpy_scalar(dtype: object, raw: object) -> float | int | bool:
    if not isinstance(dtype, _NumpyType) or not isinstance(raw, bytes):
        raise UnpickleError("a numpy scalar is not a plain number")
    return np.frombuffer(raw, dtype.name, 1)[0].item()  # type: ignore[no-any-return]


class _NumpyType(Standing):
    """Stands for numpy.dtype: only plain numbers."""

    def __init__(self, name: object, *_: object) -> None:
        if not isinstance(name, str) or name not in NUMPY_TYPES:
            raise UnpickleError("a numpy.dtype is not one of " + " ".join(NUMPY_TYPES))
        self.name = name

    def set_state(self, state: object) -> None:
        """See Standing: only the byte order counts."""
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", "|", "="):
            raise UnpickleError("a numpy scalar is not little-endian")


def _globals() -> dict[tuple[str, str], object]:
    """What a checkpoint may name, each an inert stand-in."""
    table: dict[tuple[str, str], object] = {
        ("collections", "OrderedDict"): lambda *arguments: OrderedDict(scalar_dict(*arguments)),
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        ("torch", "Size"): lambda *arguments: tuple(*arguments),
        ("yacs.config", "CfgNode"): lambda *arguments: CfgDict(scalar_dict(*arguments)),
        ("_codecs", "encode"): encoded,
        **builtins(),
    }
    for module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray"):
        table |= {(module, "scalar"): _numpy_scalar, (module, "dtype"): lambda *arguments: _NumpyType(*arguments)}
    for name, dtype in STORAGES.items():
        table["torch", name] = dtype
    return table


class _Reader(Machine):
    """A pickle machine that knows only `_globals`, and collects the storages that the pickle refers to."""

    def __init__(self) -> None:
        super().__init__(_globals(), "utf-8", self._storage)
        self.storages: dict[str, StorageRef] = {}

    def _named(self, module: object, name: object) -> None:
        try:
            super()._named(module, name)
        except UnpickleError as error:
            raise UnpickleError(f"{str(error).replace('such a file', 'a checkpoint of the authors' + chr(39) + ' code')}; "
                                "save only model and config and try again") from None

    def _storage(self, pid: object) -> StorageRef:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], str) \
                or pid[1] not in ITEM_BYTES:
            raise UnpickleError("refers to something that is not a storage of numbers: save only model and config")
        _, dtype, key, _, items = pid[:5]
        if len(pid) > 5 and pid[5] is not None:
            raise UnpickleError("holds views of storages (torch before 0.4): save it with a newer torch")
        if not isinstance(key, str) or type(items) is not int or items < 0:
            raise UnpickleError("a storage has no valid key and length: copy the file again")
        found = self.storages.setdefault(key, StorageRef(key, dtype, items))
        if found != StorageRef(key, dtype, items):
            raise UnpickleError(f"storage {key!r} is described twice, differently")
        return found


def _unpickle(file: BinaryIO) -> tuple[Any, dict[str, StorageRef]]:
    reader = _Reader()
    return reader.load(file, PICKLE_BYTES), reader.storages


class CheckpointFile:
    """An open checkpoint: `content` is its object with TensorRefs for tensors; `values(ref)` reads one of them. Close it."""

    def __init__(self, path: str | Path) -> None:
        """UnpickleError (one line, without the path) where the file cannot be read."""
        self.path = Path(path)
        self.prefix = ""
        self.archive: zipfile.ZipFile | None = None
        self.places: dict[str, int] = {}  # legacy format: file position of each storage
        self.size = self.path.stat().st_size
        with self.path.open("rb") as file:
            start = file.read(4)
        if zipfile.is_zipfile(self.path):
            self.content = self._zip()
        elif start.startswith(b"PK"):
            raise UnpickleError("truncated: a zip archive without its end; copy the file again")
        elif start[:1] == b"\x80":
            self.content = self._legacy()
        else:
            what = "empty" if not start else f"starts with {start!r}"
            raise UnpickleError(f"not a checkpoint of torch.save ({what}): give the .pth file of the authors' code")

    def __enter__(self) -> "CheckpointFile":
        return self

    def __exit__(self, *_: object) -> None:
        if self.archive is not None:
            self.archive.close()

    def _zip(self) -> Any:
        try:
            archive = self.archive = zipfile.ZipFile(self.path)
            found = [info for info in archive.infolist() if info.filename.split("/")[1:] == ["data.pkl"]]
            wide = next((info for info in archive.infolist() if info.compress_size > self.size), None)
            if wide is not None:  # zipfile takes its word, and as much memory
                raise UnpickleError(f"{wide.filename[:60]!r} should take {wide.compress_size} bytes of a file of {self.size}: "
                                    "copy it again")
            if len(found) != 1:
                raise UnpickleError("a zip archive without data.pkl: not a checkpoint of torch.save; "
                                    "give the .pth file of the authors' code")
            self.prefix = found[0].filename.removesuffix("data.pkl")
            if found[0].file_size > PICKLE_BYTES:
                raise UnpickleError(f"its data.pkl has {found[0].file_size} bytes, more than {PICKLE_BYTES}: "
                                    "save only model and config")
            order = f"{self.prefix}byteorder"
            if order in archive.namelist() and (archive.getinfo(order).file_size > 16 or archive.read(order) != b"little"):
                raise UnpickleError("was written on a big-endian machine: save it again on a little-endian one")
            return _unpickle(io.BytesIO(archive.read(found[0])))[0]
        except UnpickleError:
            raise
        except DAMAGE as error:
            raise UnpickleError(f"damaged zip archive ({error}): copy the file again") from None

    def _legacy(self) -> Any:
        with self.path.open("rb") as file:
            if _unpickle(file)[0] != LEGACY_MAGIC or _unpickle(file)[0] != LEGACY_PROTOCOL:
                raise UnpickleError("a pickle, but not of torch.save: give the .pth file of the authors' code")
            system = _unpickle(file)[0]
            if not isinstance(system, dict) or system.get("little_endian") is not True:
                raise UnpickleError("was written on a big-endian machine: save it again on a little-endian one")
            content, storages = _unpickle(file)
            keys, _ = _unpickle(file)
            if not isinstance(keys, list) or any(not isinstance(key, str) or key not in storages for key in keys):
                raise UnpickleError("its list of storages is damaged: copy the file again")
            size, at = self.path.stat().st_size, file.tell()
            for key in keys:
                file.seek(at)
                items = int.from_bytes(file.read(8), "little")
                storage = storages[key]
                end = at + 8 + items * ITEM_BYTES[storage.dtype]
                if items != storage.items or end > size:
                    raise UnpickleError(f"truncated: storage {key!r} should end at byte {end} of {size}; copy the file again")
                self.places[key], at = at + 8, end
        return content

    def values(self, ref: TensorRef) -> NDArray[Any]:
        """The tensor's items, in its shape, copied; bfloat16 as the uint16 of its bits."""
        storage = ref.storage
        size = storage.items * ITEM_BYTES[storage.dtype]
        if self.archive is not None:
            name = f"{self.prefix}data/{storage.key}"
            try:
                info = self.archive.getinfo(name)
                if info.file_size != size or info.compress_type != zipfile.ZIP_STORED:
                    raise UnpickleError(f"{name} has {info.file_size} bytes, not {size}: copy the file again")
                raw = self.archive.read(info)
            except KeyError:
                raise UnpickleError(f"lacks {name}: copy the file again") from None
            except UnpickleError:
                raise
            except DAMAGE as error:
                raise UnpickleError(f"{name} is damaged ({error}): copy the file again") from None
        else:
            if storage.key not in self.places:
                raise UnpickleError(f"lacks storage {storage.key!r}: copy the file again")
            with self.path.open("rb") as file:
                file.seek(self.places[storage.key])
                raw = file.read(size)
        dtype = np.dtype("uint16" if storage.dtype == "bfloat16" else storage.dtype).newbyteorder("<")
        items = np.frombuffer(raw, dtype)[ref.offset:] if size else np.zeros(0, dtype)
        strides = [step * dtype.itemsize if side > 1 else 0 for side, step in zip(ref.shape, ref.stride, strict=True)]
        try:
            return np.array(np.lib.stride_tricks.as_strided(items, ref.shape, strides))
        except (ValueError, OverflowError):
            raise UnpickleError(f"a tensor of shape {str(list(ref.shape))[:80]} cannot be: copy the file again") from None


def plain(value: object, limit: int = 100_000) -> Any:
    """`value` as JSON-ready data (dict keys as text, sets sorted); UnpickleError if deeper than 50 or larger than `limit`."""
    left = limit

    def convert(item: object, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > 50:
            raise UnpickleError("its config is too large or refers to itself")
        if item is None or isinstance(item, bool | int | float | str):
            return item
        if isinstance(item, dict):
            return {str(key): convert(entry, depth + 1) for key, entry in item.items()}
        if isinstance(item, list | tuple):
            return [convert(entry, depth + 1) for entry in item]
        if isinstance(item, set | frozenset):
            return sorted((convert(entry, depth + 1) for entry in item), key=str)
        raise UnpickleError(f"its config holds a {type(item).__name__}")

    return convert(value, 0)
