"""Run a job periodically: a schedule, which every worker looks after and of which each instant is one job.

$ python examples/every_minute.py
run 1
run 2
run 3
3 runs, next: none
"""

import anyio

from taskcore import App

app = App("memory://")
PERIOD = "1s"  # "1m", or cron="30 2 * * *" with tz="Europe/Berlin", in a real program
runs = []


@app.schedule("report", every=PERIOD, times=3)  # a real program goes on for ever
@app.task
async def report() -> None:
    runs.append(1)
    print(f"run {len(runs)}")


async def main() -> None:
    async with app.running():
        await anyio.sleep(3.9)
        schedule = await app.schedules.get("report")
        print(f"{schedule.record.fired} runs, next: {schedule.preview(1) or 'none'}")


if __name__ == "__main__":
    anyio.run(main)
