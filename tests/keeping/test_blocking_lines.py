"""The place at which a task blocks the event loop."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import anyio
import pytest

from taskcore.keeping.blocking_lines import blocking_place

pytestmark = pytest.mark.anyio


def look_soon(found: list[str]) -> threading.Thread:
    """Look from another thread, a moment later, where this one is."""
    here = threading.get_ident()

    def look() -> None:
        time.sleep(0.2)
        found.append(blocking_place(here))

    thread = threading.Thread(target=look)
    thread.start()
    return thread


async def test_the_line_of_the_program_is_named():
    """The place is the program's own line, also if the time passes in a library that it calls."""
    found: list[str] = []
    thread = look_soon(found)

    class Slow:
        def __iter__(self):
            while thread.is_alive():
                sum(range(1000))
            return iter(())

    json.dumps([1], default=list)
    list(Slow())
    assert found[0].startswith(f"{Path(__file__).name}:")


async def test_a_loop_that_waits_is_nowhere():
    """A loop that waits for events is at no line of the program."""
    found: list[str] = []
    look_soon(found)
    await anyio.sleep(0.5)
    assert found == [""]
