"""Charge a customer once, however often the request is repeated.

$ python examples/payment.py
charging order 7: 19.99
receipt-7
receipt-7
refused: order 7 was sent before with another amount
"""

import anyio

from taskcore import App, KeyConflict, current

app = App("memory://")


@app.task(key="order_id")
async def charge(order_id: int, cents: int) -> str:
    print(f"charging order {order_id}: {cents / 100}")
    # A worker may die right here, so pass the key on: the payment service refuses a second charge.
    assert current().key == str(order_id)
    return f"receipt-{order_id}"


async def main() -> None:
    async with app.running():
        for _ in range(2):  # a double click
            job = await charge.enqueue(7, cents=1999)
            print(await job.result(timeout=5))
        try:
            await charge.enqueue(7, cents=2999)
        except KeyConflict:
            print("refused: order 7 was sent before with another amount")


if __name__ == "__main__":
    anyio.run(main)
