"""``taskcore workflows`` as a person or a script meets it: its words, its JSON, its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from taskcore import App, Retry
from tests.support.shell import printed

pytestmark = pytest.mark.timeout(90)

SHOP = """
from taskcore import App

app = App("memory://", store="sqlite:///{folder}/store.db")


@app.task(name="count")
async def count(n: int) -> int: ...
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Make a project whose store has a workflow that failed, and one that waits."""
    (tmp_path / "shop.py").write_text(SHOP.format(folder=tmp_path))

    async def send() -> None:
        app = App("memory://", store=f"sqlite:///{tmp_path}/store.db", retry=Retry(attempts=1))

        @app.task(name="count")
        async def count(n: int) -> int:
            if n == 7:
                raise ValueError("seven")
            return n

        @app.task(name="total")
        async def total(counts: list[int]) -> int:
            return sum(counts)

        async with app:
            for name in ("waits", "fails"):
                workflow = app.workflow(name, id=name)
                first = workflow.step(count, 5 if name == "waits" else 7)
                many = workflow.map(count, [1, 2, 3]).after(first)
                last = workflow.step(total, many.out)
                sent = await workflow.submit(last)
                if name == "fails":
                    async with app.running():
                        await sent.outcome(timeout=20)
                else:
                    await app.purge("default")

    anyio.run(send)
    return tmp_path


def workflows(folder: Path, *arguments: str, code: int = 0) -> str:
    """Run the command; return what it printed, on stdout or as its error."""
    return printed(folder, "workflows", *arguments, "-A", "shop:app", code=code)


def test_listing(shop: Path) -> None:
    """The newest workflows have a line each; with --json an object."""
    lines = workflows(shop).splitlines()
    assert lines[0].split() == ["workflow", "name", "state", "jobs", "reason"]
    assert lines[1].split()[:4] == ["fails", "fails", "dead", "1/5,"]
    assert lines[2].split()[:4] == ["waits", "waits", "running", "0/5"]
    objects = [json.loads(line) for line in workflows(shop, "list", "-n", "1", "--json").splitlines()]
    assert [(one["id"], one["status"], one["progress"]["failed"]) for one in objects] == [("fails", "dead", 1)]


def test_drawing(shop: Path) -> None:
    """A workflow is drawn with the state of each step, what it waits for, and why it failed."""
    assert workflows(shop, "show", "waits").splitlines() == [
        "waits  running  jobs: 0/5  waits",
        "> count      ready",
        "  . count-2  waiting    0/3  <- count",
        "    . total  waiting    <- count-2",
    ]
    drawn = workflows(shop, "show", "fails").splitlines()
    assert drawn[0] == "fails  dead  jobs: 1/5, 1 failed  fails"
    assert drawn[1].startswith("reason: step count: ")
    assert drawn[2].startswith("x count      dead")
    assert "ValueError: seven" in drawn[2]
    assert drawn[4] == "    - total  stopped    <- count-2"
    shown = json.loads(workflows(shop, "show", "waits", "--json"))
    assert [step["status"] for step in shown["steps"]] == ["ready", "waiting", "waiting"]


def test_changing(shop: Path) -> None:
    """Cancelling is said, and fails for one that has ended; a replay prints the id of the new workflow."""
    assert workflows(shop, "cancel", "waits") == "waits is cancelled\n"
    assert workflows(shop, "cancel", "fails", code=1) == "fails had ended already\n"
    new = workflows(shop, "replay", "fails", "--deadline", "1h").strip()
    assert len(new) == 36
    assert workflows(shop, "show", new).startswith("fails  running")


def test_mistakes(shop: Path) -> None:
    """What there is none of is said with its code."""
    assert "error[TC411]: there is no workflow 'nothing'" in workflows(shop, "show", "nothing", code=1)


def test_no_workflows(tmp_path: Path) -> None:
    """An app without workflows says so."""
    (tmp_path / "shop.py").write_text(SHOP.format(folder=tmp_path))
    assert workflows(tmp_path).startswith("no workflows: ")
    assert workflows(tmp_path, "--json") == ""
