"""Jobs that are too large: refused with the way out, buried when they grow; the others of a batch are not held up."""

from __future__ import annotations

import pytest

from taskcore.adapters import open_backend
from taskcore.backend import Outgoing, Refused, Stored, VerdictRefused
from taskcore.backends.sql import messages
from taskcore.lifecycle import Bury, Reschedule

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

LIMIT = 10_000  #: bytes, instead of 256 MiB


@pytest.fixture(autouse=True)
def _small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "LARGEST_JOB", LIMIT)
    monkeypatch.setattr(messages, "BATCH_BYTES", LIMIT // 2)


async def test_a_job_that_is_too_large(url: str):
    """It is refused with its size, the limit and what to do; what is published with it is stored, in its order."""
    sizes = (100, LIMIT + 1, 200, LIMIT, 300)
    batch = [Outgoing("q", str(number), b"x" * size) for number, size in enumerate(sizes)]
    async with open_backend(url) as backend, backend.consume(["q"], lease=60) as source:
        answers = await backend.publish(batch)
        assert [type(answer) for answer in answers] == [Stored, Refused, Stored, Stored, Stored]
        assert isinstance(answers[1], Refused)
        assert "10,001 bytes" in answers[1].why
        assert "10,000" in answers[1].why
        assert "reference" in answers[1].fix
        found = []
        while len(found) < 4:
            found += [len(delivery.envelope) for delivery in await source.receive(10)]
        assert sorted(found) == [100, 200, 300, LIMIT]


async def test_a_job_that_grows_too_large(url: str):
    """A retry that would be too large with its errors is refused, and changes nothing; the job can be buried."""
    async with open_backend(url) as backend, backend.consume(["q"], lease=60) as source:
        await backend.publish([Outgoing("q", "1", b"x" * (LIMIT - 10)), Outgoing("q", "2", b"small")])
        found = [*await source.receive(2)]
        found += await source.receive(1) if len(found) < 2 else []
        large, small = sorted(found, key=lambda delivery: -len(delivery.envelope))
        with pytest.raises(VerdictRefused, match=r"10,090 bytes, and this broker takes 10,000"):
            await source.settle([(small, Reschedule(0.0, b"")), (large, Reschedule(0.0, b"e" * 100))])
        [stats] = await backend.admin.stats(["q"])
        assert (stats.ready, stats.leased) == (0, 2)
        assert not await source.settle([(large, Bury("too large", b"e" * 100)), (small, Reschedule(0.0, b"e"))])
        [letter] = await backend.admin.letters("q", limit=10)
        assert (len(letter.envelope), letter.trail) == (LIMIT - 10, b"e" * 100)


async def test_a_reason_that_no_database_takes(url: str):
    """The reason of a death may be any text: what the database cannot hold is written otherwise, and the job buried."""
    async with open_backend(url) as backend, backend.consume(["q"], lease=60) as source:
        await backend.publish([Outgoing("q", "1", b"x")])
        [one] = await source.receive(1)
        assert not await source.settle([(one, Bury("a\0b\ud800c", b""))])
        [letter] = await backend.admin.letters("q", limit=10)
        assert letter.reason == "a\\0b?c"
