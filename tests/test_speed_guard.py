"""The hot paths do not get slower unnoticed: the work of one job is counted, so a busy machine cannot matter.

When a change is meant to cost more, ``scripts/speed-guard --write`` records the new numbers with each Python that is
installed here; the commit says what they buy.
"""

from __future__ import annotations

import json
import sys

import pytest

from tests.support import counting

SLOWER = 1.15  #: what is seen

pytestmark = [
    pytest.mark.skipif(sys.gettrace() is not None, reason="another tool traces this process"),
    pytest.mark.skipif(sys.implementation.name != "cpython", reason="the numbers are CPython's"),
    pytest.mark.timeout(120),
]


@pytest.mark.parametrize("path", counting.PATHS)
def test_a_job_takes_no_more_work(path: str) -> None:
    """Bytecodes of ours and calls of any code are within 15% of what is recorded for this Python."""
    known = counting.written().get(counting.version())
    if known is None:
        pytest.skip(f"nothing is written down for Python {counting.version()}")
    now, before = counting.count(path), known[path]
    for what in ("bytecodes", "calls"):
        more = getattr(now, what) / getattr(before, what)
        assert more < SLOWER, f"{path}: {getattr(now, what):.1f} {what} a job, {more - 1:+.0%} of what is written down"


def test_more_work_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """One function of the path that is run three times is above the bound: the guard can fail."""
    from taskcore.client import client  # noqa: PLC0415 - to be made slower

    before = counting.count("enqueue_many", rounds=1)
    prepare = client.Client._prepare

    def slower(self, call, job_id):
        prepare(self, call, job_id)  # twice more than needed
        prepare(self, call, job_id)
        return prepare(self, call, job_id)

    monkeypatch.setattr(client.Client, "_prepare", slower)
    after = counting.count("enqueue_many", rounds=1)
    assert after.bytecodes / before.bytecodes > SLOWER
    assert after.calls / before.calls > SLOWER


def test_numbers_are_complete() -> None:
    """Each Python that is written down has every path."""
    content = json.loads(counting.WRITTEN.read_text())
    assert {"3.11", "3.12", "3.13"} <= content.keys()
    assert all(set(paths) == set(counting.PATHS) for paths in content.values())
