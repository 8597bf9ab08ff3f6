"""Compute in processes: a function that needs a core, and a time limit that really ends it.

$ python examples/process_task.py
another process: True
78498 primes
stopped: TimeoutError
"""

import os

import anyio

from taskcore import App, Dead

app = App("memory://", processes=2)


@app.task(runs_in="process", retry=None)
def primes(below: int) -> tuple[int, int]:
    sieve = bytearray([1]) * below
    sieve[0:2] = b"\0\0"
    for number in range(2, int(below**0.5) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, below, number)))
    return os.getpid(), sum(sieve)


@app.task(runs_in="process", timeout=0.5, retry=None)
def loop_for_ever() -> None:
    while True:
        pass


async def main() -> None:
    async with app.running():
        pid, count = await (await primes.enqueue(1_000_000)).result(timeout=30)
        print("another process:", pid != os.getpid())
        print(count, "primes")
        outcome = await (await loop_for_ever.enqueue()).outcome(timeout=30)
        if isinstance(outcome, Dead) and outcome.record:
            print("stopped:", outcome.record.type)


if __name__ == "__main__":
    anyio.run(main)
