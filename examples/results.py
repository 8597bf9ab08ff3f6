"""Get results and typed errors back, also from a handle that is made from an id.

$ python examples/results.py
Receipt(number=7, cents=1999)
declined: 300 cents are missing
failed
"""

from dataclasses import dataclass

import anyio

from taskcore import App, Failed, Succeeded

app = App("memory://")


@dataclass(frozen=True)
class Receipt:
    number: int
    cents: int


class Declined(Exception):
    def __init__(self, missing: int) -> None:
        super().__init__(missing)
        self.missing = missing


@app.task(raises=(Declined,), retry=None)
async def charge(number: int, cents: int) -> Receipt:
    if cents > 2000:
        raise Declined(missing=cents - 2000)
    return Receipt(number, cents)


async def main() -> None:
    async with app.running():
        ids = [(await charge.enqueue(7, cents)).id for cents in (1999, 2300)]
        for job in map(charge.job, ids):  # any program with the id can do this
            match await job.outcome(timeout=5):
                case Succeeded(receipt):
                    print(receipt)
                case Failed(Declined() as error):
                    print(f"declined: {error.missing} cents are missing")
        print(await charge.job(ids[1]).status())


if __name__ == "__main__":
    anyio.run(main)
