"""Import many rows: send them in a few batches, then gather what failed.

$ python examples/batch_import.py
sent 1000 rows
imported 998
row 300: ValueError: price is missing
row 700: ValueError: price is missing
"""

import anyio

from taskcore import App, Dead

app = App("memory://", concurrency=50)
catalogue: dict[int, float] = {}


@app.task(retry=None)
async def import_row(number: int, price: float | None) -> None:
    if price is None:
        raise ValueError("price is missing")
    catalogue[number] = price


async def main() -> None:
    rows = [(number, None if number in {300, 700} else number / 100) for number in range(1000)]
    async with app.running():
        jobs = await app.enqueue_many(import_row.call(number, price) for number, price in rows)
        print(f"sent {len(jobs)} rows")
        outcomes = [await job.outcome(timeout=10) for job in jobs]
    print(f"imported {len(catalogue)}")
    for (number, _), outcome in zip(rows, outcomes, strict=True):
        if isinstance(outcome, Dead) and outcome.record:
            print(f"row {number}: {outcome.record.type}: {outcome.record.message}")


if __name__ == "__main__":
    anyio.run(main)
