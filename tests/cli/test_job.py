"""``taskcore job`` as a person or a script meets it: outcome, parents and children."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from taskcore import App, Retry, current
from taskcore.workflows import spawn
from tests.support.shell import printed

pytestmark = pytest.mark.timeout(90)

SHOP = """
from taskcore import App

app = App("memory://", store="sqlite:///{folder}/store.db")
"""


@pytest.fixture
def shop(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """Make a project whose store has a parent with a child that failed; the ids are beside it."""
    (tmp_path / "shop.py").write_text(SHOP.format(folder=tmp_path))
    ids: dict[str, str] = {}

    async def send() -> None:
        app = App("memory://", store=f"sqlite:///{tmp_path}/store.db", retry=Retry(attempts=1), keep_result="1h")

        @app.task(name="rebuild")
        async def rebuild(n: int) -> str:
            ids[f"rebuild-{n}"] = current().job_id
            if n == 1:
                raise ValueError("one")
            return "x" * 100

        @app.task(name="nightly")
        async def nightly() -> str:
            for n in range(3):
                spawn(rebuild.call(n), tolerate=True)
            return "day"

        async with app.running():
            job = await nightly.enqueue()
            assert await job.result(timeout=20) == "day"
            ids["nightly"] = job.id

    anyio.run(send)
    return tmp_path, ids


def test_a_parent(shop: tuple[Path, dict[str, str]]) -> None:
    """The parent has a line, its result, and a line for each child; --number says how many."""
    folder, ids = shop
    assert printed(folder, "job", ids["nightly"], "-A", "shop:app").splitlines() == [
        f"{ids['nightly']}  succeeded",
        "result: 'day'",
        "children, as nightly: 3/3, 1 failed",
        f"  + rebuild[0]  succeeded  {ids['rebuild-0']}",
        f"  x rebuild[1]  dead       {ids['rebuild-1']}",
        f"  + rebuild[2]  succeeded  {ids['rebuild-2']}",
    ]
    few = printed(folder, "job", ids["nightly"], "-n", "1", "-A", "shop:app").splitlines()
    assert few[3:] == [f"  + rebuild[0]  succeeded  {ids['rebuild-0']}", "  and 2 more (--number)"]


def test_a_child(shop: tuple[Path, dict[str, str]]) -> None:
    """A child has its outcome and its parent, with the step and the place there; a long result is cut."""
    folder, ids = shop
    failed = printed(folder, "job", ids["rebuild-1"], "-A", "shop:app").splitlines()
    assert failed[0] == f"{ids['rebuild-1']}  dead"
    assert failed[1].startswith("reason: ")
    assert "ValueError: one" in failed[1]
    assert failed[2:] == ["parents:", f"  nightly  succeeded  {ids['nightly']}  its step rebuild[1]"]
    good = printed(folder, "job", ids["rebuild-0"], "-A", "shop:app").splitlines()
    assert good[1].startswith("result: 'xxx")
    assert len(good[1]) < 100


def test_objects(shop: tuple[Path, dict[str, str]]) -> None:
    """With --json it is one object."""
    folder, ids = shop
    parent = json.loads(printed(folder, "job", ids["nightly"], "--json", "-A", "shop:app"))
    assert (parent["status"], parent["result"], parent["progress"]["failed"]) == ("succeeded", "day", 1)
    assert [one["status"] for one in parent["children"]] == ["succeeded", "dead", "succeeded"]
    child = json.loads(printed(folder, "job", ids["rebuild-2"], "--json", "-A", "shop:app"))
    assert child["children"] == []
    [above] = child["parents"]
    assert (above["id"], above["step"], above["index"]) == (ids["nightly"], "rebuild", 2)


def test_no_such_job(shop: tuple[Path, dict[str, str]]) -> None:
    """An id of which nothing is known is said, with an exit code; what cannot be an id is refused."""
    folder, _ = shop
    assert printed(folder, "job", "0191f3c2", "-A", "shop:app", code=1) == "0191f3c2  unknown\n"
