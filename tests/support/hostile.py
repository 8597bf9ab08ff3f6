"""Errors of hostile shapes, made from a recipe: a base class and traits; and tasks that raise them in each place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from taskcore import LeaseLost, Reject, RetryLater, Router, Snooze, TaskcoreError

__all__ = ["BASES", "TRAITS", "Declared", "fail_in_loop", "fail_in_process", "fail_in_thread", "made", "router"]


class EvilText(str):
    """A text whose methods fail."""

    __slots__ = ()

    def encode(self, *_: object, **__: object) -> bytes:
        raise RuntimeError("no bytes")

    def __format__(self, _: str) -> str:
        raise RuntimeError("no format")

    def __len__(self) -> int:
        raise SystemExit

    def __getitem__(self, _: object) -> str:
        raise RuntimeError("no part")

    partition = __getitem__  # type: ignore[assignment]


class Declared(Exception):
    """An error that the tasks declare."""


def no(*_: object, **__: object) -> Any:
    """Fail, whatever is asked."""
    raise RuntimeError("no answer")


def leave(*_: object, **__: object) -> Any:
    """End the program, whatever is asked."""
    raise SystemExit(7)


BASES: Mapping[str, tuple[type[BaseException], tuple[Any, ...]]] = {
    "Exception": (Exception, ("no",)),
    "BaseException": (BaseException, ("no",)),
    "SystemExit": (SystemExit, (3,)),
    "KeyboardInterrupt": (KeyboardInterrupt, ()),
    "GeneratorExit": (GeneratorExit, ()),
    "CancelledError": (asyncio.CancelledError, ("mine",)),
    "StopIteration": (StopIteration, (1,)),
    "StopAsyncIteration": (StopAsyncIteration, ()),
    "Reject": (Reject, ("never",)),
    "RetryLater": (RetryLater, (0.0,)),
    "Snooze": (Snooze, (0.0,)),
    "LeaseLost": (LeaseLost, ("lost",)),
    "TaskcoreError": (TaskcoreError, ("ours",)),
    "Declared": (Declared, (1,)),
    "ExceptionGroup": (ExceptionGroup, ("two", [ValueError("a"), Reject("b")])),
    "BaseExceptionGroup": (BaseExceptionGroup, ("two", [SystemExit(1), asyncio.CancelledError()])),
    "UnicodeDecodeError": (UnicodeDecodeError, ("utf-8", b"\xff", 0, 1, "\ud800")),
}

#: Each changes the namespace of the class before it is made.
CLASS_TRAITS: Mapping[str, dict[str, Any]] = {
    "no module": {"__module__": None},
    "a number for a module": {"__module__": 5},
    "an evil module": {"__module__": EvilText("shop")},
    "an evil name": {"__qualname__": EvilText("Closed")},
    "a surrogate in the name": {"__qualname__": "Clo\ud800sed"},
    "no text": {"__str__": no},
    "a text that leaves": {"__str__": leave, "__repr__": leave},
    "a text that is none": {"__str__": lambda _: 5},
    "an evil text": {"__str__": lambda _: EvilText("evil")},
    "a long text": {"__str__": lambda _: "x" * 3_000_000},
    "surrogates in the text": {"__str__": lambda _: "\ud800 \udfff\0"},
    "no repr": {"__repr__": no},
    "a traceback that is none": {"__traceback__": 5},
    "a traceback that fails": {"__traceback__": property(no)},
    "a cause that fails": {"__cause__": property(no), "__context__": property(leave)},
    "a lie about its class": {"__class__": property(lambda _: Reject)},
    "no class": {"__class__": property(no)},
    "notes that are none": {"__notes__": 5},
    "notes that fail": {"__notes__": property(leave)},
    "no equality": {"__eq__": no, "__hash__": None},
    "a time that fails": {"after": property(leave)},
    "a time that is none": {"after": "soon"},
    "an endless time": {"after": float("inf")},
    "a reason that fails": {"reason": property(no), "what": property(no), "facts": property(leave)},
    "members that fail": {"exceptions": property(no)},
    "no attributes": {"__getattribute__": no},
    "no pickle": {"__reduce_ex__": no, "__reduce__": leave},
}


def _meta(**methods: Any) -> type:
    return type("Meta", (type,), methods)


def _hiding(*names: str) -> Callable[[Any, str], Any]:
    return lambda cls, name: leave() if name in names else type.__getattribute__(cls, name)


#: Each is the metaclass of the class.
META_TRAITS: Mapping[str, type] = {
    "a class without a name": _meta(__getattribute__=_hiding("__qualname__", "__name__")),
    "a class without a module": _meta(__getattribute__=_hiding("__module__")),
    "a class without bases": _meta(__getattribute__=_hiding("__mro__", "__bases__")),
    "a class without equality": _meta(__eq__=no, __hash__=type.__hash__),
    "a class that cannot be hashed": _meta(__eq__=type.__eq__, __hash__=None),
    "a class without a text": _meta(__repr__=leave, __str__=leave),
}

#: Each changes the error before it is raised.
ERROR_TRAITS: Mapping[str, Callable[[BaseException], None]] = {
    "a circle of causes": lambda error: _link(error, error),
    "many causes": lambda error: _link(error, _chain(700)),
    "notes of all kinds": lambda error: setattr(error, "__notes__", ["a", 5, None, EvilText("n"), "\ud800"]),
    "args that cannot be encoded": lambda error: setattr(error, "args", (object(), {1: {2}}, no, "\ud800")),
}

TRAITS = (*CLASS_TRAITS, *META_TRAITS, *ERROR_TRAITS)


def _link(error: BaseException, cause: BaseException) -> None:
    between = ValueError("between")
    BaseException.__dict__["__cause__"].__set__(error, between)
    BaseException.__dict__["__cause__"].__set__(between, cause)


def _chain(length: int) -> BaseException:
    error: BaseException = ValueError("first")
    for _ in range(length):
        following = ValueError("later")
        following.__cause__ = error
        error = following
    return error


def _many_times(depth: int) -> BaseException:
    """Make a group in which one error is found 2^depth times."""
    error: Exception = ValueError("one")
    for _ in range(depth):
        error = ExceptionGroup("both", [error, error])
    return error


def made(base: str, traits: list[str], nested: int) -> BaseException:
    """Make an error from its recipe, in so many groups; what cannot be made so is made without its traits."""
    cls, args = BASES[base]
    namespace: dict[str, Any] = {}
    for trait in traits:
        namespace |= CLASS_TRAITS.get(trait, {})
    meta = next((META_TRAITS[trait] for trait in traits if trait in META_TRAITS), type)
    error: BaseException
    try:
        error = (meta("Hostile", (cls,), namespace) if namespace or meta is not type else cls)(*args)
    except BaseException:  # its own traits forbid it to be made
        error = cls(*args)
    for trait in traits:
        try:
            ERROR_TRAITS.get(trait, lambda _: None)(error)
        except BaseException:
            continue
    if nested > 10:
        return BaseExceptionGroup("many", [_many_times(40), error])
    for _ in range(nested):
        error = BaseExceptionGroup("group", [error])
    return error


router = Router()


@router.task(raises=(Declared,))
async def fail_in_loop(base: str, traits: list[str], nested: int) -> None:
    """Raise a hostile error in the event loop."""
    raise made(base, traits, nested)


@router.task(raises=(Declared,))
def fail_in_thread(base: str, traits: list[str], nested: int) -> None:
    """Raise a hostile error in a thread."""
    raise made(base, traits, nested)


@router.task(runs_in="process", raises=(Declared,))
def fail_in_process(base: str, traits: list[str], nested: int) -> None:
    """Raise a hostile error in a process."""
    raise made(base, traits, nested)
