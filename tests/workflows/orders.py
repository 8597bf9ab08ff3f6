"""The orders of a shop as workflows with compensations, and one worker for them as a process of its own.

python -m tests.workflows.orders URL STORE LEDGER
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import anyio

from taskcore import App, Retry
from taskcore.workflows import Run

__all__ = ["CHANNELS", "declare", "make_app", "send"]

QUEUE = "orders"
CHANNELS = ("mail", "sms", "push")
Note = Callable[..., None]


def declare(app: App, note: Note, *, seconds: float = 0.05) -> None:
    """Give an app the tasks of the shop.

    :param note: notes an effect: what, and of which order.
    :param seconds: that each step takes.
    """

    def task(function: Any) -> Any:
        return app.task(name=function.__name__, queue=QUEUE, crashes=50, retry=None)(function)

    @task
    async def validate(order: int) -> int:
        """Check an order; one in seven is none."""
        if order % 7 == 3:
            raise ValueError("an empty order")
        return order

    @task
    async def reserve(order: int) -> str:
        """Reserve the goods."""
        await anyio.sleep(seconds)
        note("reserve", order)
        return f"parcel-{order}"

    @task
    async def release(order: int) -> None:
        """Put them back; there may be none, if a worker died."""
        note("release", order)

    @task
    async def charge(order: int) -> int:
        """Charge the customer; one card in five is refused after the bank has taken note."""
        await anyio.sleep(seconds)
        note("charge", order)
        if order % 5 == 4:
            raise PermissionError("the card is refused")
        return order * 100

    @task
    async def refund(order: int) -> None:
        """Give the money back."""
        note("refund", order)

    @task
    async def ship(parcel: str, cents: int) -> str:
        """Ship the parcel."""
        await anyio.sleep(seconds)
        note("ship", parcel.removeprefix("parcel-"))
        return f"{parcel} for {cents}"

    @task
    async def tell(channel: str, shipped: str) -> str:
        """Tell the customer."""
        await anyio.sleep(seconds)
        note(channel, shipped.split(maxsplit=1)[0].removeprefix("parcel-"))
        return channel

    @task
    async def report(shipped: str, mail: str, sms: str, push: str) -> str:
        """Sum up."""
        return f"{shipped}, {mail}, {sms}, {push}"


async def send(app: App, order: int) -> Run[str]:
    """Send the workflow of one order."""
    tasks: Any = app.tasks
    flow = app.workflow("order", id=f"order-{order}", deadline="30m")
    valid = flow.step(tasks["validate"], order)
    parcel = flow.step(tasks["reserve"], valid.out).compensate(tasks["release"], order)
    paid = flow.step(tasks["charge"], valid.out).compensate(tasks["refund"], order)
    shipped = flow.step(tasks["ship"], parcel.out, paid.out).pivot()
    told = [flow.step(tasks["tell"], channel, shipped.out).named(channel) for channel in CHANNELS]
    run: Run[str] = await flow.submit(flow.step(tasks["report"], shipped.out, *(one.out for one in told)))
    return run


def make_app(url: str, store: str, ledger: str) -> App:
    """Make the app of a worker, and of the sender."""
    app = App(url, store=store or None, lease=3.0, concurrency=10, retry=Retry(attempts=1), keep_result="1h")

    def note(*what: object) -> None:
        """Write a line into the ledger, in one write."""
        file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{' '.join(map(str, what))}\n".encode())
        os.close(file)

    declare(app, note)
    return app


async def main() -> None:
    """Run until killed."""
    async with make_app(*sys.argv[1:]).running():
        print("ready", flush=True)  # noqa: T201
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main)
