"""Process an order: goods and payment side by side, then shipping and messages; or all of it is undone.

$ python examples/order.py
order 7: parcel 7 is reserved
order 7: 19.99 charged
order 7: parcel 7 is shipped
order 7: mail sent
order 7: sms sent
order 7: Succeeded(value='parcel 7')
order 8: parcel 8 is reserved
order 8: 19.99 refunded
order 8: parcel 8 is released
order 8: step order.charge: exhausted; undone: order.charge, order.reserve
"""

import anyio

from taskcore import App, Dead

app = App("memory://", retry=1)


@app.task
async def reserve(order: int) -> str:
    print(f"order {order}: parcel {order} is reserved")
    return f"parcel {order}"


@app.task
async def charge(order: int, card: str) -> int:
    if card == "stolen":
        raise ValueError("the card is stolen")
    print(f"order {order}: 19.99 charged")
    return 1999


@app.task
async def say(order: int, what: str) -> None:
    print(f"order {order}: {what}")


async def process(order: int, card: str) -> None:
    flow = app.workflow("order", id=f"order-{order}")
    parcel = flow.step(reserve, order).compensate(say, order, f"parcel {order} is released")
    paid = flow.step(charge, order, card).compensate(say, order, "19.99 refunded")
    shipped = flow.step(say, order, f"parcel {order} is shipped").after(parcel, paid).pivot()
    for message in ("mail", "sms"):
        flow.step(say, order, f"{message} sent").after(shipped)
    outcome = await (await flow.submit(parcel)).outcome(timeout=5)
    print(f"order {order}:", outcome.reason if isinstance(outcome, Dead) else outcome)


async def main() -> None:
    async with app.running(concurrency=1):
        await process(7, "good")
        await process(8, "stolen")


if __name__ == "__main__":
    anyio.run(main)
