"""A pickle machine that runs nothing: for files that strangers may have written.

Python's own unpickler believes sizes before it reads what they promise (an index of the memo takes gigabytes), hands
numpy states that crash it, and hashes whatever a file says. Here the operations are told apart by `pickletools`, every
size is compared with what is left of the file, and objects come only from the caller's table of stand-ins. What numbers,
texts, containers and stand-ins need is done; anything else is refused by its name.
"""
import pickletools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

OPERATIONS = 1 << 21
"""Most operations of a pickle: 2 s of work. CIFAR-100's training batch has a tenth of them."""
LARGEST_INT = 1 << 128
SCALARS = (str, bytes, int, float, bool, type(None))
"""Types of keys and members of sets. A tuple's hash may take forever: tuples can hold each other."""
Stand = Callable[..., object]


class UnpickleError(ValueError):
    """A pickle that is damaged or holds what it should not: one line that says what is wrong and what to do."""


class Standing:
    """An object of the file, inert. A subclass says what its `state` may be."""

    def set_state(self, state: object) -> None:
        """What the pickle would have given to `__setstate__`."""
        raise UnpickleError(f"gives a state to a {type(self).__name__.lstrip('_')}: copy the file again")


class _Bounded:
    """A file as `pickletools` reads it: no more is asked for than is left of it and of `limit` bytes."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        place = file.tell()
        file.seek(0, 2)
        self.left = min(limit, file.tell() - place)
        file.seek(place)
        self.file = file

    def read(self, size: int) -> bytes:
        data = self.file.read(min(size, self.left))
        self.left -= len(data)
        return data

    def readline(self) -> bytes:
        data = self.file.readline(self.left)
        self.left -= len(data)
        return data

    def tell(self) -> int:
        return self.file.tell()


class _Mark:
    """What MARK leaves on the stack."""


class Machine:
    """Runs one pickle. `table`: what it may name; `persistent`: makes what a persistent id stands for; `text`: how 8-bit
    strings of Python 2 are read, "bytes" or an encoding."""

    def __init__(self, table: Mapping[tuple[str, str], object], text: str = "utf-8",
                 persistent: Callable[[object], object] | None = None) -> None:
        self.table, self.text, self.persistent = table, text, persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.budget = OPERATIONS

    def load(self, file: BinaryIO, limit: int) -> Any:
        """The object of the pickle at the place of `file`, which is left behind it; UnpickleError."""
        try:
            for operation, argument in self._operations(file, limit):
                if operation == "STOP":
                    if len(self.stack) != 1:
                        raise UnpickleError(f"its pickle leaves {len(self.stack)} objects: copy the file again")
                    return self.stack.pop()
                self._run(operation, argument)
        except UnpickleError:
            raise
        except MemoryError:
            raise UnpickleError("its pickle asks for more memory than there is") from None
        except Exception as error:  # whatever a made-up pickle provokes: a line, never a traceback
            text = " ".join(str(error).split())[:100]
            raise UnpickleError(f"its pickle is damaged or truncated ({type(error).__name__}: {text}): "
                                "copy the file again") from None
        raise UnpickleError("its pickle is truncated: copy the file again")

    def _operations(self, file: BinaryIO, limit: int) -> Iterator[tuple[str, Any]]:
        for operation, argument, _ in pickletools.genops(_Bounded(file, limit)):  # type: ignore[arg-type]
            self._spend(1)
            yield operation.name, argument

    def _spend(self, work: int) -> None:
        self.budget -= work
        if self.budget < 0:
            raise UnpickleError(f"its pickle takes more than {OPERATIONS} operations: save less in it")

    def _run(self, operation: str, argument: Any) -> None:
        method = getattr(self, f"_do_{operation.lower()}", None)
        if operation in _CONSTANTS:
            self.stack.append(_CONSTANTS[operation]())
        elif operation in _VALUES:
            self._push_value(argument)
        elif operation in _STRINGS:
            raw = argument.encode("latin1")
            self.stack.append(raw if self.text == "bytes" else raw.decode(self.text))
        elif operation in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = self._top()
        elif operation in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif operation in ("TUPLE1", "TUPLE2", "TUPLE3"):
            self.stack.append(tuple(reversed([self._pop() for _ in range(int(operation[-1]))])))
        elif method is not None:
            method(argument)
        elif operation not in ("PROTO", "FRAME"):
            raise UnpickleError(f"its pickle uses {operation}, which no such file needs: nothing of it was run")

    # -- the stack -------------------------------------------------------------------------------------------------

    def _top(self) -> Any:
        if not self.stack or isinstance(self.stack[-1], _Mark):
            raise UnpickleError("its pickle is damaged (nothing on the stack): copy the file again")
        return self.stack[-1]

    def _pop(self) -> Any:
        self._top()
        return self.stack.pop()

    def _to_mark(self) -> list[Any]:
        found: list[Any] = []
        while self.stack:
            entry = self.stack.pop()
            if isinstance(entry, _Mark):
                return found[::-1]
            found.append(entry)
        raise UnpickleError("its pickle is damaged (no mark on the stack): copy the file again")

    def _push_value(self, value: Any) -> None:
        if isinstance(value, int) and abs(value) >= LARGEST_INT:
            raise UnpickleError("holds a number of more than 128 bits: copy the file again")
        self.stack.append(value)

    def _do_mark(self, _: object) -> None:
        self.stack.append(_Mark())

    def _do_pop(self, _: object) -> None:
        self.stack.pop()

    def _do_pop_mark(self, _: object) -> None:
        self._to_mark()

    def _do_dup(self, _: object) -> None:
        self.stack.append(self._top())

    # -- containers ------------------------------------------------------------------------------------------------

    def _do_tuple(self, _: object) -> None:
        self.stack.append(tuple(self._to_mark()))

    def _do_list(self, _: object) -> None:
        self.stack.append(self._to_mark())

    def _do_dict(self, _: object) -> None:
        entries = self._to_mark()
        self.stack.append({})
        self._fill(entries)

    def _do_frozenset(self, _: object) -> None:
        self.stack.append(frozenset(self._scalars(self._to_mark())))

    def _do_append(self, _: object) -> None:
        self._extend([self._pop()])

    def _do_appends(self, _: object) -> None:
        self._extend(self._to_mark())

    def _do_additems(self, _: object) -> None:
        entries, target = self._scalars(self._to_mark()), self._top()
        if type(target) is not set:
            raise UnpickleError("its pickle is damaged (adds to what is no set): copy the file again")
        target.update(entries)

    def _do_setitem(self, _: object) -> None:
        value = self._pop()
        self._fill([self._pop(), value])

    def _do_setitems(self, _: object) -> None:
        self._fill(self._to_mark())

    def _extend(self, entries: list[Any]) -> None:
        target = self._top()
        if type(target) is not list:
            raise UnpickleError("its pickle is damaged (appends to what is no list): copy the file again")
        target.extend(entries)

    def _fill(self, entries: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict) or len(entries) % 2:
            raise UnpickleError("its pickle is damaged (sets items of what is no dictionary): copy the file again")
        target.update(zip(self._scalars(entries[::2]), entries[1::2], strict=True))

    @staticmethod
    def _scalars(entries: list[Any]) -> list[Any]:
        for entry in entries:
            if not isinstance(entry, SCALARS):
                raise UnpickleError(f"has a {type(entry).__name__} as a key: only texts and numbers are read")
        return entries

    # -- objects ---------------------------------------------------------------------------------------------------

    def _do_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._named(module, name)

    def _do_stack_global(self, _: object) -> None:
        name = self._pop()
        self._named(self._pop(), name)

    def _named(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str) or (module, name) not in self.table:
            raise UnpickleError(f"names {str(module)[:60]}.{str(name)[:60]}, which such a file does not hold: "
                                "nothing of it was run")
        self.stack.append(self.table[module, name])

    def _do_reduce(self, _: object) -> None:
        arguments = self._pop()
        self._call(self._pop(), arguments)

    def _do_newobj(self, _: object) -> None:
        self._do_reduce(_)

    def _call(self, stand: object, arguments: object) -> None:
        if not any(stand is known for known in self.table.values()) or not callable(stand) or type(arguments) is not tuple:
            raise UnpickleError("its pickle is damaged (calls what cannot be called): copy the file again")
        for argument in arguments:
            if isinstance(argument, list | tuple | dict | set | frozenset | str | bytes):
                self._spend(len(argument) >> (6 if isinstance(argument, str | bytes) else 0))
        self.stack.append(stand(*arguments))

    def _do_build(self, _: object) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, Standing):
            target.set_state(state)
        elif not isinstance(target, dict):  # attributes of a dictionary, such as a state dict's _metadata, say nothing here
            raise UnpickleError(f"gives a state to a {type(target).__name__}: copy the file again")

    def _do_binpersid(self, _: object) -> None:
        if self.persistent is None:
            raise UnpickleError("refers to something outside of it: copy the file again")
        self.stack.append(self.persistent(self._pop()))


_CONSTANTS: dict[str, Callable[[], object]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_TUPLE": tuple, "EMPTY_LIST": list,
    "EMPTY_DICT": dict, "EMPTY_SET": set}
_VALUES = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE",
           "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
_STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}


def scalar_set(make: Callable[[Any], object]) -> Stand:
    """A stand-in for set or frozenset: of texts and numbers only."""
    return lambda entries=(): make(Machine._scalars(list(entries)))


def scalar_dict(*arguments: Any) -> dict[Any, Any]:
    """A stand-in for dict: empty, of a dictionary, or of pairs whose keys are texts and numbers."""
    if not arguments or isinstance(arguments[0], dict):
        return dict(*arguments)
    pairs = [(key, value) for key, value in arguments[0]]
    Machine._scalars([key for key, _ in pairs])
    return dict(pairs)


def builtins() -> dict[tuple[str, str], object]:
    """Stand-ins for the builtin containers and numbers, under the module's names of Python 2 and 3."""
    known: dict[str, object] = {"bytes": lambda: b"", "dict": scalar_dict,
                                "set": scalar_set(set), "frozenset": scalar_set(frozenset),
                                "list": lambda *a: list(*a), "tuple": lambda *a: tuple(*a), "bool": lambda *a: bool(*a),
                                "int": lambda *a: int(*a), "float": lambda *a: float(*a), "complex": lambda *a: complex(*a)}
    return {(module, name): stand for module in ("builtins", "__builtin__") for name, stand in known.items()}


def encoded(text: object, encoding: object = "latin1") -> bytes:
    """A stand-in for _codecs.encode, in which Python 3 writes bytes for Python 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise UnpickleError("encodes a text in another way than latin1")
    return text.encode("latin1")
