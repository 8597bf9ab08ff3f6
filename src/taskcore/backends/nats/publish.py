"""Publishing: a batch of jobs, and the meaning of each answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from taskcore.backend import DUPLICATE, STORED, Outgoing, Published, Refused, Uncertain
from taskcore.backends.limits import too_large
from taskcore.backends.nats.layout import FAMILY_LEVEL, QueueStream, QueueStreams
from taskcore.backends.nats.messages import at, job_token
from taskcore.connections.jetstream_limits import LimitReached, way_out
from taskcore.connections.nats import Message, NatsLink, Reply
from taskcore.connections.nats.link import decode_answer, error_of
from taskcore.errors import BrokerUnavailable

__all__ = [
    "HEADER_ROOM", "IS_ANOTHER", "TRAIL_ROOM", "error_code_of", "expecting", "found_by", "publish", "waiting",
]  # fmt: skip

TRAIL_ROOM = 64 * 1024  #: bytes kept free for what a job's trail may grow to …
HEADER_ROOM = 1024  #: … and for our headers
IS_ANOTHER = 10071  #: the server's "wrong last sequence": something else is there than was expected
IN_PROCESS = (10158, 10164)  #: in a cluster: another write of this id, or to this subject, has not ended yet
LEADER_PAUSES = (0.0, 0.05, 0.1, 0.2)  #: seconds before each new try: a new stream elects its leader
NO_LEADER = "no server takes jobs for this queue at the moment: its stream has no leader"
_FOUND = re.compile(rb"wrong last sequence: (\d{1,19})\b")

JobAnswers = list[Published | None]


async def publish(link: NatsLink, streams: QueueStreams, batch: Sequence[Outgoing]) -> list[Published]:
    """Store the jobs; return one answer for each.

    :raises BrokerUnavailable: surely none of them was stored.
    """
    answers: JobAnswers = [None] * len(batch)
    room = link.max_payload - HEADER_ROOM
    trail_room = min(TRAIL_ROOM, link.max_payload // 4)
    for index, job in enumerate(batch):
        size = len(job.envelope) + len(job.trail)
        if size + trail_room > room:
            answers[index] = too_large(size, room - trail_room, "max_payload")
    await _store(link, streams, batch, answers)
    if None in answers:
        await _store_again(link, streams, batch, answers)
    return [answer for answer in answers if answer is not None]


async def _store(link: NatsLink, streams: QueueStreams, batch: Sequence[Outgoing], answers: JobAnswers) -> None:
    """Store the jobs that have no answer yet."""
    messages, places, family = [], list[int](), link.level >= FAMILY_LEVEL
    unmade: dict[str, Refused] = {}
    for index, job in enumerate(batch):
        answers[index] = answers[index] or unmade.get(job.queue)
        if answers[index] is not None:
            continue
        try:
            stream = streams.known(job.queue) or await streams.open(job.queue)
        except LimitReached as error:  # other queues have their streams
            answers[index] = unmade[job.queue] = Refused(error.what, error.fix or "")
            continue
        places.append(index)
        token = job_token(job.id).encode()
        delayed = await waiting(stream, token, job.delay) if job.delay > 0 else b""
        messages.append(_job_message(stream, job, token, delayed, family=family))
    if messages:
        for index, answer in zip(places, await link.request_all(messages), strict=True):
            answers[index] = _meaning(answer)


async def _store_again(link: NatsLink, streams: QueueStreams, batch: Sequence[Outgoing], answers: JobAnswers) -> None:
    """Try again what no server took: its streams were deleted, and are created anew, or have no leader yet."""
    for queue in {job.queue for job, answer in zip(batch, answers, strict=True) if answer is None}:
        streams.discard(queue)
    why = link.unavailable(NO_LEADER)
    try:
        for pause in LEADER_PAUSES:
            await asyncio.sleep(pause)
            await _store(link, streams, batch, answers)
            if None not in answers:
                return
    except BrokerUnavailable as error:
        why = error
    if not any(answers):
        raise why
    answers[:] = [answer or Refused(str(why).partition("\n")[0]) for answer in answers]


def _job_message(stream: QueueStream, job: Outgoing, token: bytes, delayed: bytes, *, family: bool) -> Message:
    """Return the message of a new job, which is stored only if there is none of this id."""
    headers = b"Nats-Msg-Id: %b\r\n%b" % (token, expecting(0, stream.either_bytes + token if family else b"")) + delayed
    body = job.envelope
    if job.trail:
        headers += b"Tc-Trail: %d\r\n" % len(job.trail)
        body += job.trail
    return Message((stream.scheduled_bytes if delayed else stream.ready_bytes) + token, body, headers)


async def waiting(stream: QueueStream, token: bytes, delay: float) -> bytes:
    """Return the headers that make a job wait."""
    if not stream.native:
        return b"Tc-Delay: %.6f\r\n" % delay
    moment = at(await stream.clock.latest() + delay).encode()
    return b"Nats-Schedule: %b\r\nNats-Schedule-Target: %b%b\r\n" % (moment, stream.ready_bytes, token)


def expecting(number: int, family: bytes = b"") -> bytes:
    """Return the headers by which a message is stored only if this one is the last of its subject; 0: if there is none.

    :param family: the subjects of which it has to be the last.
    """
    headers = b"Nats-Expected-Last-Subject-Sequence: %d\r\n" % number
    return headers + b"Nats-Expected-Last-Subject-Sequence-Subject: %b\r\n" % family if family else headers


def error_code_of(answer: Reply) -> int:
    """Return 0 if it was stored, -1 if it is a duplicate, else the code of the error; 503 if no server listens.

    A duplicate of number 0 is one of a write that has not ended, and may yet fail: old clusters answer so.
    """
    body = answer.body
    if b'"error"' not in body:
        if not body:
            return 503
        return 0 if b'"duplicate"' not in body else -1 if decode_answer(body).get("seq") else IN_PROCESS[0]
    return error_of(decode_answer(body)) or 1


def found_by(answer: Reply) -> int | None:
    """Return the number of the message that a refusal found in place of the expected one; 0: none; None: not told.

    A server refuses, too, when it cannot read what is there, for one while it stops. Then it names what was expected.
    """
    told = _FOUND.search(answer.body)
    return int(told[1]) if told is not None and error_code_of(answer) == IS_ANOTHER else None


def _meaning(answer: Reply | None) -> Published | None:
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
    return Refused(f"the server refuses it: {error.get('description')} ({code})", way_out(code))
