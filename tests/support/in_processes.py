"""Tasks that another process can import."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskcore import Retry, Router, current

router = Router()


@dataclass
class Point:
    """A typed value."""

    x: int
    y: int


class Declared(Exception):
    """An error that is part of the contract."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Declared) and self.args == other.args

    __hash__ = Exception.__hash__


class Stubborn(Exception):
    """An error that cannot be rebuilt from its args."""

    def __init__(self, *, number: int) -> None:
        super().__init__(f"number {number}")
        self.number = number


class Silent(Exception):
    """An error that cannot be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no text today")


@router.task(runs_in="process")
def where(point: Point) -> tuple[int, Point]:
    """Tell the process's id and twice the point."""
    return os.getpid(), Point(point.x * 2, point.y * 2)


@router.task(runs_in="process")
def look() -> tuple[str, int, Mapping[str, str]]:
    """Tell what current() says."""
    context = current()
    return context.job_id, context.attempt, context.headers


@router.task(runs_in="process", raises=(Declared,))
def fail(kind: str) -> None:
    """Fail in many ways."""

    class Local(Exception):
        pass

    match kind:
        case "exit":
            sys.exit(3)
        case "die":
            os._exit(3)
        case "keyboard":
            raise KeyboardInterrupt
        case "local":
            raise Local("only here")
        case "lock":
            raise ValueError(threading.Lock())
        case "stubborn":
            raise Stubborn(number=7)
        case "silent":
            raise Silent
        case "declared":
            raise Declared(7)
        case _:
            raise ValueError("no")


@router.task(runs_in="process", retry=Retry(attempts=5, on=(ConnectionError,)))
def unlucky() -> None:
    """Fail with what the policy does not try again."""
    raise KeyError("x")


@router.task(runs_in="process", timeout=0.5)
def beat(path: str) -> None:
    """Write until killed."""
    while True:
        with Path(path).open("a") as file:
            file.write(".")
        time.sleep(0.005)


@router.task(runs_in="process")
def lie() -> int:
    """Return what was not promised."""
    text: Any = "not a number"
    return text
