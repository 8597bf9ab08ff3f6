"""Run a job periodically: each run enqueues the next one, under a key, so there is one run per period.

$ python examples/every_minute.py
run 0
run 1
run 2
3 runs, 0 jobs left
"""

import anyio

from taskcore import App

app = App("memory://")
PERIOD = 0.1  # seconds; 60.0 in a real program
RUNS = 3


@app.task(key="number", retry=None)
async def report(number: int) -> None:
    if number + 1 < RUNS:  # a real program goes on for ever
        await report.using(delay=PERIOD).enqueue(number + 1)
    print(f"run {number}")


async def main() -> None:
    async with app.running():
        for _ in range(2):  # two servers start at the same time: the key makes it one chain of runs
            await report.enqueue(0)
        await app.drain(timeout=5)
        stats = await app.stats()
        print(f"{app.counters['job.succeeded']} runs, {stats.ready + stats.scheduled} jobs left")


if __name__ == "__main__":
    anyio.run(main)
