"""Publishing: a batch of jobs, and the meaning of each answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from taskcore.backend import DUPLICATE, STORED, Outgoing, Published, Refused, Uncertain
from taskcore.backends.nats.layout import FAMILY, QueueStream, QueueStreams
from taskcore.backends.nats.messages import at, job_token
from taskcore.connections.nats import Answer, Message, NatsLink
from taskcore.connections.nats.link import decode_answer
from taskcore.errors import BrokerUnavailable

__all__ = [
    "HEADER_ROOM", "IS_ANOTHER", "TRAIL_ROOM", "error_code_of", "found_by", "job_message", "publish", "scheduling",
]  # fmt: skip

TRAIL_ROOM = 64 * 1024  #: bytes kept free for what a job's trail may grow to …
HEADER_ROOM = 1024  #: … and for our headers
IS_ANOTHER = 10071  #: the server's "wrong last sequence": something else is there than was expected
IN_PROCESS = (10158, 10164)  #: in a cluster: another write of this id, or to this subject, has not ended yet
LEADER_PAUSES = (0.05, 0.1, 0.2)  #: seconds after a try that no server took: a new stream elects its leader
NO_LEADER = "no server takes jobs for this queue at the moment: its stream has no leader"
_FOUND = re.compile(rb"wrong last sequence: (\d{1,19})\b")


async def publish(link: NatsLink, streams: QueueStreams, batch: Sequence[Outgoing]) -> list[Published]:
    """Store the jobs; return one answer for each.

    :raises BrokerUnavailable: surely none of them was stored.
    """
    answers: list[Published | None] = [None] * len(batch)
    fitting: list[int] = []
    room = link.max_payload - HEADER_ROOM
    for index, job in enumerate(batch):
        size = len(job.envelope) + len(job.trail)
        if size + min(TRAIL_ROOM, link.max_payload // 4) > room:
            answers[index] = Refused(f"it has {size:,} bytes; with room for its trail the server takes {room:,}")
        else:
            fitting.append(index)
    await _store(link, streams, batch, answers, fitting)
    untaken = [index for index in fitting if answers[index] is None]
    if untaken:
        await _store_again(link, streams, batch, answers, untaken)
    return [answer or Refused(NO_LEADER) for answer in answers]


async def _store(
    link: NatsLink, streams: QueueStreams, batch: Sequence[Outgoing], answers: list[Published | None], places: list[int]
) -> None:
    messages = []
    for index in places:
        job = batch[index]
        stream = streams.known(job.queue) or await streams.open(job.queue)
        offset = await streams.clock(stream) if job.delay > 0 and stream.native else 0.0
        messages.append(job_message(stream, job, family=link.level >= FAMILY, offset=offset))
    if messages:
        for index, answer in zip(places, await link.request_all(messages), strict=True):
            answers[index] = _meaning(answer)


async def _store_again(
    link: NatsLink, streams: QueueStreams, batch: Sequence[Outgoing], answers: list[Published | None], places: list[int]
) -> None:
    """Try again what no server took: its streams were deleted, and are created anew, or have no leader yet."""
    for queue in {batch[index].queue for index in places}:
        streams.discard(queue)
    missing = places
    try:
        for pause in LEADER_PAUSES:
            await _store(link, streams, batch, answers, missing)
            missing = [index for index in missing if answers[index] is None]
            if not missing:
                return
            await asyncio.sleep(pause)
    except BrokerUnavailable as error:
        if len(missing) == len(batch):
            raise
        for index in missing:
            answers[index] = Refused(str(error).partition("\n")[0])
    if all(answer is None for answer in answers):
        raise link.unavailable(NO_LEADER)


def job_message(stream: QueueStream, job: Outgoing, *, family: bool, offset: float) -> Message:
    """Return the message of a new job, which is stored only if there is none of this id."""
    token, names = job_token(job.id), stream.names
    word = token.encode()
    headers = b"Nats-Msg-Id: %b\r\nNats-Expected-Last-Subject-Sequence: 0\r\n" % word
    if family:
        headers += b"Nats-Expected-Last-Subject-Sequence-Subject: %b%b\r\n" % (names.either_bytes, word)
    body = job.envelope
    if job.trail:
        headers += b"Tc-Trail: %d\r\n" % len(job.trail)
        body += job.trail
    if job.delay <= 0:
        return Message(names.ready_bytes + word, body, headers)
    headers += scheduling(stream, token, job.delay, offset).encode()
    return Message(names.scheduled.encode() + word, body, headers)


def scheduling(stream: QueueStream, token: str, delay: float, offset: float) -> str:
    """Return the headers that make a job wait."""
    if not stream.native:
        return f"Tc-Delay: {delay:.6f}\r\n"
    now = datetime.now(UTC) + timedelta(seconds=offset)
    return f"Nats-Schedule: {at(now, delay)}\r\nNats-Schedule-Target: {stream.names.ready}{token}\r\n"


def error_code_of(answer: Answer) -> int:
    """Return 0 if it was stored, -1 if it is a duplicate, else the code of the error; 503 if no server listens.

    A duplicate of number 0 is one of a write that has not ended, and may yet fail: old clusters answer so.
    """
    body = answer.body
    if b'"error"' not in body:
        if not body:
            return 503
        return 0 if b'"duplicate"' not in body else -1 if decode_answer(body).get("seq") else IN_PROCESS[0]
    error = decode_answer(body).get("error") or {}
    return int(error.get("err_code") or error.get("code") or 1)


def found_by(answer: Answer) -> int | None:
    """Return the number of the message that a refusal found in place of the expected one; 0: none; None: not told.

    A server refuses, too, when it cannot read what is there, for one while it stops. Then it names what was expected.
    """
    told = _FOUND.search(answer.body)
    return int(told[1]) if told is not None and error_code_of(answer) == IS_ANOTHER else None


def _meaning(answer: Answer | None) -> Published | None:
    """Say what became of a job; None if no server listened, so it is surely not stored."""
    if answer is None:
        return Uncertain("the server did not answer in time, or the connection was lost before it did")
    code = error_code_of(answer)
    if code == 0:
        return STORED
    if code == -1 or (code == IS_ANOTHER and found_by(answer) != 0):
        return DUPLICATE
    if code == IS_ANOTHER or code in IN_PROCESS:
        return Uncertain("the server could not tell whether it has a job of this id")
    if code == 503:  # noqa: PLR2004 - NATS's own "no responders"
        return None
    error = decode_answer(answer.body)["error"]
    return Refused(f"the server refuses it: {error.get('description')} ({code})")
