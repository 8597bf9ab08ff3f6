"""Call an API that fails sometimes: retry outages, wait when it asks to, give up on wrong requests.

$ python examples/flaky_api.py
attempt 1: connection refused
attempt 2: too many requests
attempt 3: 21 °C
21
rejected: no city is called Atlantis
"""

import anyio

from taskcore import App, Dead, Reject, Retry, RetryLater, current

app = App("memory://")


@app.task(retry=Retry(attempts=5, base=0.01, on=(ConnectionError,)), timeout=10.0)
async def temperature(city: str) -> int:
    attempt = current().attempt
    if city == "Atlantis":
        raise Reject("no city is called Atlantis")  # trying again cannot help
    if attempt == 1:
        print("attempt 1: connection refused")
        raise ConnectionError("connection refused")  # retried with growing waits
    if attempt == 2:
        print("attempt 2: too many requests")
        raise RetryLater(after=0.05, why="Retry-After: 0.05")  # retried when the API allows it
    print(f"attempt {attempt}: 21 °C")
    return 21


async def main() -> None:
    async with app.running():
        job = await temperature.enqueue("Paris")
        print(await job.result(timeout=5))
        job = await temperature.enqueue("Atlantis")
        if isinstance(outcome := await job.outcome(timeout=5), Dead):
            print(outcome.reason)


if __name__ == "__main__":
    anyio.run(main)
