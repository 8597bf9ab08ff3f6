"""Dead letters by the hundred, written as workers write them: publish, receive, bury."""

from __future__ import annotations

import msgspec

from taskcore.backend import Backend, Outgoing
from taskcore.envelope import Envelope, ErrorRecord, Trail, encode_envelope, encode_trail, new_id
from taskcore.lifecycle import Bury

__all__ = ["bury"]

AT_ONCE = 500  #: letters that are written at a time


def job_of(queue: str, number: int) -> Outgoing:
    """Make a job of the task ``ship`` with a number as its argument."""
    envelope = Envelope(
        v=1, id=new_id(), task="ship", queue=queue, args=msgspec.Raw(b'{"number":%d}' % number), enqueued_at=0.0
    )
    return Outgoing(queue, envelope.id, encode_envelope(envelope))


def trail_of(number: int, functions: int) -> bytes:
    """Make the trail of a job that died of an error in one of so many functions."""
    error = ErrorRecord(
        type="OSError", message=f"order {number}", when=0.0, worker="w", attempt=1,
        where=f"shop/ship.py:{number} in ship{number % functions}",
    )  # fmt: skip
    return encode_trail(Trail(attempts=1, errors=(error,)))


async def bury(backend: Backend, queue: str, count: int, *, functions: int = 3) -> None:
    """Write so many dead letters, in order, with the numbers from 0 as arguments."""
    async with backend.consume([queue], lease=600.0) as source:
        for start in range(0, count, AT_ONCE):
            number, end = start, min(count, start + AT_ONCE)
            await backend.publish([job_of(queue, number) for number in range(start, end)])
            while number < end:
                found = await source.receive(AT_ONCE)
                trails = [trail_of(number + at, functions) for at in range(len(found))]
                buried = [(one, Bury("exhausted", trail)) for one, trail in zip(found, trails, strict=True)]
                assert not await source.settle(buried)
                number += len(found)
