"""Tasks with dependencies that another process can import; each line of their log is a line of a file."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from taskcore import Depends, Router, current

router = Router()


def write(text: str) -> None:
    """Write a line into the log that the environment names."""
    with Path(os.environ["DEPENDENCIES_LOG"]).open("a") as file:
        file.write(f"{text} {os.getpid()}\n")


def load_model() -> str:
    """Load a model, once in each process."""
    write("load")
    return "model"


async def get_pool() -> AsyncIterator[str]:
    """Open a pool in the process's own event loop."""
    write("+pool")
    yield "pool"
    write("-pool")


async def get_db(pool: str = Depends(get_pool, scope="app")) -> AsyncIterator[str]:
    """Open a connection for a job."""
    write("+db")
    try:
        yield f"{pool}/db"
    finally:
        write("-db")


def get_temp() -> Iterator[str]:
    """Make something plain for a job."""
    write("+temp")
    try:
        yield current().job_id
    except ValueError:
        write("temp sees ValueError")
        raise
    finally:
        write("-temp")


@router.task(runs_in="process")
def predict(
    number: int,
    model: str = Depends(load_model, scope="app"),
    db: str = Depends(get_db),
    temp: str = Depends(get_temp),
) -> list[str]:
    """Use all of them."""
    if number < 0:
        raise ValueError("negative")
    return [str(number), model, db, temp, str(os.getpid())]


@router.task(runs_in="process")
def sleep(seconds: float, model: str = Depends(load_model, scope="app")) -> int:
    """Take a while; return the process's id."""
    time.sleep(seconds)
    return os.getpid()
