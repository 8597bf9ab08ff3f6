"""A worker stops at signals, also where the loop cannot take handlers."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import anyio
import pytest

from taskcore import App


class WindowsLoop(asyncio.SelectorEventLoop):
    """A loop that refuses handlers of signals, as those of Windows do."""

    def add_signal_handler(self, *_: Any) -> None:
        """Refuse."""
        raise NotImplementedError

    def remove_signal_handler(self, _: int) -> bool:
        """Refuse."""
        raise NotImplementedError


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_stops_where_the_loop_has_no_handlers(number: signal.Signals) -> None:
    """The handlers of Python stand in, and are given back at the end."""
    app = App("memory://")

    @app.task(name="work")
    async def work(n: int) -> int:
        return n

    async def main() -> int:
        async with app, anyio.create_task_group() as group:
            await group.start(app.run_worker)
            result = await (await work.enqueue(7)).result(timeout=5)
            os.kill(os.getpid(), number)
            return result

    before = signal.getsignal(number)
    with_limit: Any = {"loop_factory": WindowsLoop}

    async def limited() -> int:
        with anyio.fail_after(10):
            return await main()

    assert anyio.run(limited, backend_options=with_limit) == 7
    assert signal.getsignal(number) is before
