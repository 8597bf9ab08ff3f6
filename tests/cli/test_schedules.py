"""``taskcore schedules`` as a person or a script meets it: its words, its JSON, its exit codes."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import anyio
import pytest

from taskcore import App
from tests.support.shell import printed, run

pytestmark = pytest.mark.timeout(90)

SHOP = """
from taskcore import App

app = App("memory://", store="sqlite:///{folder}/store.db")


@app.task(name="report")
async def report(day: str = "") -> None: ...
"""


DECLARING = SHOP.replace("@app.task", '@app.schedule("nightly", cron="30 2 * * *")\n@app.task')


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Make a project whose store has two schedules, one of them paused."""
    text = SHOP.format(folder=tmp_path)
    (tmp_path / "shop.py").write_text(text)

    async def put() -> None:
        app = App("memory://", store=f"sqlite:///{tmp_path}/store.db")

        @app.task(name="report")
        async def report(day: str = "") -> None: ...

        async with app:
            await app.schedules.put("nightly", report.call(), cron="30 2 * * *", tz="Europe/Berlin", missed="all")
            paused = await app.schedules.put("ping", report.call("x"), every="10m")
            await paused.pause("invoice open")

    anyio.run(put)
    return tmp_path


def schedules(folder: Path, *arguments: str, code: int = 0) -> str:
    """Run the command; return what it printed, on stdout or as its error."""
    return printed(folder, "schedules", *arguments, "-A", "shop:app", code=code)


def test_listing(shop: Path) -> None:
    """The list has a line for each schedule; with --json an object."""
    lines = schedules(shop).splitlines()
    assert lines[0].split() == ["schedule", "state", "task", "next", "when"]
    assert "At 02:30 every day, Europe/Berlin" in lines[1]
    assert lines[2].split()[:3] == ["ping", "paused", "report"]
    objects = [json.loads(line) for line in schedules(shop, "list", "--json").splitlines()]
    assert [(one["id"], one["state"]) for one in objects] == [("nightly", "active"), ("ping", "paused")]
    assert datetime.fromisoformat(objects[0]["next"])
    assert objects[1]["next"] is None


def test_before_a_worker_ran(tmp_path: Path) -> None:
    """What the app's code declares is listed, shown and previewed at once, and fired by hand; `show` names a change."""
    text = DECLARING.format(folder=tmp_path)
    (tmp_path / "shop.py").write_text(text)
    assert schedules(tmp_path).splitlines()[1].split()[:3] == ["nightly", "declared", "report"]
    assert "state      declared (no worker has seen it yet)" in schedules(tmp_path, "show", "nightly")
    assert json.loads(schedules(tmp_path, "show", "nightly", "--json"))["state"] == "declared"
    assert schedules(tmp_path, "preview", "nightly", "-n", "1").endswith("02:30:00+00:00\n")
    assert "only declared in code" in schedules(tmp_path, "remove", "nightly", code=1)
    assert len(schedules(tmp_path, "fire", "nightly").strip()) == 36
    schedules(tmp_path, "pause", "nightly", "--note", "holiday")
    assert "paused (holiday)" in schedules(tmp_path, "show", "nightly")
    (tmp_path / "shop.py").write_text(text.replace("30 2", "45 3"))
    assert "its next worker writes: At 03:45 every day, UTC, report" in schedules(tmp_path, "show", "nightly")


def test_no_schedules(tmp_path: Path) -> None:
    """An app without schedules says so."""
    (tmp_path / "shop.py").write_text(SHOP.format(folder=tmp_path))
    assert schedules(tmp_path).startswith("no schedules: ")
    assert schedules(tmp_path, "--json") == ""


def test_options_before_the_command(shop: Path) -> None:
    """The app and --json may be named before the command as well as behind it."""
    answer = run(shop, "schedules", "-A", "shop:app", "--json", "show", "nightly")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["id"] == "nightly"


def test_showing(shop: Path) -> None:
    """A schedule is explained: in English, with its policies, its arguments, and why it is paused."""
    nightly, ping = schedules(shop, "show", "nightly"), schedules(shop, "show", "ping")
    assert "At 02:30 every day, Europe/Berlin (30 2 * * *)" in nightly
    assert "all: at most 100, none older than 7d" in nightly
    assert "paused (invoice open)" in ping
    assert '{"day":"x"}' in ping
    assert json.loads(schedules(shop, "show", "ping", "--json"))["note"] == "invoice open"


def test_previewing(shop: Path) -> None:
    """A preview is in the zone of the schedule, through a change of clocks too."""
    after = ("--after", "2027-03-27T12:00")
    printed = schedules(shop, "preview", "nightly", "-n", "2", *after).splitlines()
    assert printed == ["2027-03-28 03:00:00+02:00", "2027-03-29 02:30:00+02:00"]
    [line] = schedules(shop, "preview", "nightly", "-n", "1", "--json", *after).splitlines()
    assert json.loads(line) == {"at": "2027-03-28T01:00:00Z"}


def test_changing(shop: Path) -> None:
    """Pause, resume, fire, backfill and remove do it, and say it."""
    assert schedules(shop, "pause", "nightly", "--note", "holiday") == "nightly is paused\n"
    assert "paused (holiday)" in schedules(shop, "show", "nightly")
    assert schedules(shop, "resume", "nightly").startswith("nightly fires again, next at ")
    assert len(schedules(shop, "fire", "nightly").strip()) == 36
    backfill = ("backfill", "nightly", "--since", "2026-01-01", "--until", "2026-01-10", "--label", "x")
    assert schedules(shop, *backfill) == "9 jobs, one for each instant\n"
    assert schedules(shop, "remove", "nightly") == "nightly is removed\n"
    assert "there is no schedule nightly" in schedules(shop, "remove", "nightly", code=1)


def test_mistakes(shop: Path) -> None:
    """What is not there, and what is no time, is said with its fix, and the exit code tells scripts."""
    assert "error[TC410]: there is no schedule 'weekly'" in schedules(shop, "show", "weekly", code=1)
    assert "is not a date and time" in schedules(shop, "preview", "ping", "--after", "tomorrow", code=2)
    assert "the limit is 2" in schedules(
        shop,
        "backfill",
        "ping",
        "--since",
        "2026-01-01",
        "--until",
        "2026-01-02",
        "--label",
        "x",
        "--limit",
        "2",
        code=2,
    )
