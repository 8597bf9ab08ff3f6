"""Read dead letters, fix the cause, replay them.

$ python examples/dead_letters.py
parcel 1: exhausted after 2 attempts, ConnectionError: no carrier
parcel 2: exhausted after 2 attempts, ConnectionError: no carrier
shipped 1
shipped 2
0 dead letters
"""

import anyio

from taskcore import App, Retry

app = App("memory://")
carrier = {"answers": False}


@app.task(queue="parcels", retry=Retry(attempts=2, base=0.01))
async def ship(parcel: int) -> None:
    if not carrier["answers"]:
        raise ConnectionError("no carrier")
    print("shipped", parcel)


async def main() -> None:
    async with app.running():
        for parcel in (1, 2):
            job = await ship.enqueue(parcel)
            await job.outcome(timeout=5)
        carrier["answers"] = True
        letters = [letter async for letter in app.dead_letters.read("parcels")]
        for letter in letters:
            error = letter.trail.errors[-1]
            text = f"{letter.reason} after {letter.trail.attempts} attempts, {error.type}: {error.message}"
            print(f"parcel {letter.args['parcel']}: {text}")
        for letter in letters:
            await app.dead_letters.replay(letter.id)
            await app.drain("parcels", timeout=5)
        print(await app.dead_letters.count("parcels"), "dead letters")


if __name__ == "__main__":
    anyio.run(main)
