"""What a worker logs about its connection: nothing about a blip, one line when the server is lost and one when back."""

from __future__ import annotations

import logging

import anyio
import pytest

from taskcore import App
from taskcore.backends.nats import source
from taskcore.faults import ChaosProxy, NatsServer
from taskcore.faults.sockets import HOST

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


async def until(holds, within: float = 20.0) -> None:
    """Wait until it holds."""
    with anyio.fail_after(within):
        while not holds():  # noqa: ASYNC110 - the log sends no event
            await anyio.sleep(0.05)


@pytest.mark.parametrize("store", ["memory", "nats"])
async def test_an_outage_is_two_lines_and_a_blip_none(
    nats: NatsServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    """Ten cuts that heal at once write no line; an outage writes one with its cause, and one at its end."""
    monkeypatch.setattr(source, "SILENT_OUTAGE", 3.0)  # a busy machine may need that to connect again
    async with ChaosProxy(HOST, nats.port) as proxy:
        url = f"nats://{HOST}:{proxy.port}"
        app = App(url, store=url if store == "nats" else "memory://")

        @app.task(queue="lines")
        async def work(number: int) -> int:
            return number

        with caplog.at_level(logging.INFO, "taskcore"):
            async with app.running():
                await (await work.enqueue(1)).result()
                caplog.clear()
                for _ in range(10):
                    before = proxy.accepted
                    proxy.cut()
                    await until(lambda before=before: proxy.accepted > before + (store == "nats"), within=2.5)
                    await anyio.sleep(0.1)
                await anyio.sleep(3.5)
                assert [record.getMessage() for record in caplog.records] == []

                await proxy.refuse()
                proxy.cut()
                await until(lambda: caplog.records)
                await anyio.sleep(1.0)
                await proxy.heal()
                await until(lambda: " back " in caplog.text)
                await anyio.sleep(1.0)
                lost, back = [record.getMessage() for record in caplog.records]
        assert lost.startswith("broker lost: [TC201] NATS: there is no connection (")
        assert "ConnectionRefusedError" in lost or "reset" in lost
        assert back.startswith("broker back after ")
