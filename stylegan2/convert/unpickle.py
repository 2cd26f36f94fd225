"""Tensors out of a pickle, without running it.

A pickle is a program for a small stack machine. Most instructions put numbers, strings and containers together; a few
look a name up in any module and call what they find, and that is how a checkpoint runs code on the machine of whoever
loads it. The published StyleGAN2 checkpoints even carry the source code of their networks, to be executed.

`Machine` is that stack machine without the dangerous half. It never imports and never calls anything that the file
names: a name stays a pair of strings, and "calling" it looks it up in `BUILDERS`, a table of a dozen functions of
ours that make tensors, arrays and plain containers. A name that is not in the table, or an instruction that has no
place in a checkpoint, ends the reading.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from mmap import mmap
from typing import Any

LITERALS = frozenset((
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"))
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY: dict[str, type] = {"EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_SET": set}


def pairs(items: list[Any]) -> dict[Any, Any]:
    """A dict of what lies on a stack: key, value, key, value, …"""
    return dict(zip(items[::2], items[1::2], strict=True))


MAKE: dict[str, Callable[[list[Any]], Any]] = {"TUPLE": tuple, "LIST": list, "DICT": pairs, "FROZENSET": frozenset}


class PickleError(ValueError):
    """A pickle that is cut short, malformed, or asks for something that no checkpoint needs."""


@dataclass(frozen=True)
class Name:
    """What a pickle calls a global: words, not the thing itself."""

    path: str


class Machine:
    """Runs one pickle from a file, building plain things only.

    Args:
        file: binary; the pickle starts at its position, and it is left after the pickle's end.
        builders: what a name may be called for: its path, such as "collections.OrderedDict", to a function.
        values: paths that may appear but not be called.
        stored: makes the thing that a persistent id stands for.

    Raises:
        PickleError: (run) as the class says; a name that is not admitted is in the message.
    """

    def __init__(self, file: BytesIO | mmap, builders: dict[str, Callable[..., Any]],
                 values: frozenset[str] = frozenset(), stored: Callable[[Any], Any] | None = None):
        self.file, self.builders, self.values, self.stored = file, builders, values, stored
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        try:
            for opcode, argument, _ in pickletools.genops(self.file):  # type: ignore[arg-type]
                if opcode.name == "STOP":
                    return self.stack.pop()
                if not (self.push_plain(opcode.name, argument) or self.fill(opcode.name)):
                    self.call(opcode.name, argument)
        except PickleError:
            raise
        except (ValueError, TypeError, LookupError, OverflowError, AttributeError, RuntimeError, MemoryError) as error:
            raise PickleError(f"not a pickle, or cut short ({type(error).__name__}: {str(error)[:200]})") from error
        raise PickleError("not a pickle: it has no end")

    def push_plain(self, name: str, argument: Any) -> bool:
        """Literals, empty containers, tuples, and the memo."""
        if name in LITERALS:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in EMPTY:
            self.stack.append(EMPTY[name]())
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            self.stack.append(tuple(reversed([self.stack.pop() for _ in range(int(name[-1]))])))
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.stack[-1]
        elif name == "MARK":
            self.marks.append(len(self.stack))
        else:
            return name in ("PROTO", "FRAME")  # no more than announcements
        return True

    def fill(self, name: str) -> bool:
        """Containers that take what lies above the mark, or the last item or pair."""
        if name in MAKE:
            items = self.above_mark()
            self.stack.append(MAKE[name](items))
        elif name in ("APPEND", "APPENDS"):
            items = [self.stack.pop()] if name == "APPEND" else self.above_mark()
            self.top(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [self.stack.pop(), self.stack.pop()][::-1] if name == "SETITEM" else self.above_mark()
            self.top(dict).update(pairs(items))
        elif name == "ADDITEMS":
            items = self.above_mark()
            self.top(set).update(items)
        else:
            return False
        return True

    def call(self, name: str, argument: Any) -> None:
        """Names, and what real pickles do with them; here they only choose one of the builders."""
        if name == "GLOBAL":
            self.stack.append(self.admitted(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = self.stack.pop(), self.stack.pop()
            self.stack.append(self.admitted(module, attribute))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, called = self.stack.pop(), self.stack.pop()
            if not (isinstance(called, Name) and called.path in self.builders and type(arguments) is tuple):
                raise PickleError(f"it calls {called.path if isinstance(called, Name) else type(called).__name__}, "
                                  "which is not a function that a checkpoint needs")
            self.stack.append(self.builders[called.path](*arguments))
        elif name == "BUILD":
            state, target = self.stack.pop(), self.stack[-1]
            if not isinstance(target, Unfinished):
                raise PickleError(f"it sets the state of a {type(target).__name__}, which has none here")
            target.finish(state)
        elif name == "BINPERSID" and self.stored:
            self.stack.append(self.stored(self.stack.pop()))
        else:
            raise PickleError(f"it holds the instruction {name}, which no checkpoint needs")

    def admitted(self, module: str, attribute: str) -> Name:
        path = f"{module}.{attribute}"
        if path not in self.builders and path not in self.values:
            hint = " (a TensorFlow checkpoint?)" if path.startswith("dnnlib.tflib") else ""
            raise PickleError(f"it asks for {path[:200]}{hint}. Only tensors, arrays, plain containers and the "
                              "published networks are read, and nothing of the file is executed")
        return Name(path)

    def above_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise PickleError(f"it fills a {type(self.stack[-1]).__name__} as if it were a {kind.__name__}")
        return self.stack[-1]


class Unfinished:
    """Something that a pickle makes first and gives its state afterwards."""

    def finish(self, state: Any) -> None:
        raise NotImplementedError
