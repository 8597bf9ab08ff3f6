"""NatsStore: keyed records in a JetStream stream.

One subject a key; its last message is the record. A write that expects something names the number of the
write before it, and the server compares. From NATS 2.11 the server also removes records when their time is over; before
that the writer does. No verb relies on that alone: each record carries its end.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Final, Self

from taskcore.connections.jetstream_limits import way_out
from taskcore.connections.nats import Message, NatsLink, Reply, jetstream, read_address
from taskcore.connections.nats.link import decode_answer, error_of
from taskcore.errors import BrokerUnavailable, StoreRefused
from taskcore.store import ABSENT, ANY, Conflict, Expect, Record, Version, Write
from taskcore.stores.limits import check_names, check_writes, refusal
from taskcore.stores.nats.batches import Removal, Removals
from taskcore.stores.nats.diagnose import diagnose
from taskcore.stores.nats.layout import (
    FoundRecord,
    ends_at,
    key_token,
    make_stream,
    read_answer,
    read_stored,
    tombstone,
    version_of,
    wanted_of,
    write_message,
)
from taskcore.stores.nats.watches import RecordFeed
from taskcore.toolkit.diagnostics import Diagnosis
from taskcore.toolkit.logging import logger
from taskcore.toolkit.tasks import TaskSet

__all__ = ["NatsStore"]

log = logger("taskcore.stores.nats")

IS_ANOTHER: Final = 10071  #: the server's "wrong last sequence"
WRITE_TRIES: Final = 20  #: times that a write is tried against others
SWEEP_EVERY: Final = 5.0  #: seconds between two times that expired records are removed, where the server does not
UNKNOWN_VERSION: Final = -1  #: what has to be expected is not known before a look

REFUSAL_CODES: Final = (10054, 10097, 10165)  #: message or headers too large, impossible time to live
BESIDE_THE_VALUE = 4_096  #: bytes of a message that are left for headers, and in a key's record for its other fields
HEADERS_SIZE: Final = 512  #: bytes of a write's headers, at most


class NatsStore:
    """Records in NATS JetStream; the same URL as for the backend.

    :raises InvalidURL: it names an unknown option, or an impossible value (TC103).
    """

    def __init__(self, url: str = "nats://localhost:4222") -> None:
        self.url = url  #: see :class:`taskcore.keeping.seam.MadeOfURL`
        address = read_address(url)
        self.link = NatsLink(address, name="taskcore-store")
        self._stream = f"{address.prefix}-store"
        self._subjects = f"{address.prefix}.r."
        self._native = False
        self._direct = False
        self._message_limit = -1  # of the stream, in bytes; -1: none
        probe = Message(self.subject("clock"), b"", b"Tc-Gone: 1\r\n")
        self._clock = jetstream.BrokerClock(self.link, self._stream, probe)
        self._ends: list[tuple[int, int]] = []
        self._removals = Removals(self.link, self._stream)
        self._feed = self._new_feed()
        self._tasks = TaskSet("NATS store")

    async def __aenter__(self) -> Self:
        """Connect, and create the stream if it does not exist.

        :raises BrokerUnavailable: it cannot be reached, or the stream is there with other settings.
        """
        self._removals = Removals(self.link, self._stream)
        await self.link.__aenter__()
        try:
            await self._open()
        except BaseException:
            await self.link.__aexit__()
            raise
        self._feed = self._new_feed()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Disconnect; watches that are still open end with an error."""
        await self._feed.close()
        await self._tasks.cancel()
        await self._removals.finish()
        await self.link.__aexit__()

    async def _open(self) -> None:
        config = await make_stream(self.link, self._stream, f"{self._subjects}*")
        self._native = bool(config.get("allow_msg_ttl"))
        self._message_limit = int(config.get("max_msg_size", -1))
        self._direct = bool(config.get("allow_direct")) and int(config.get("num_replicas", 1)) == 1
        await self.now()
        if not self._tasks:
            self._tasks.start(self._removals.run(), name="taskcore-nats-store-removals")
            if not self._native:
                self._tasks.start(self._sweep(), name="taskcore-nats-store")

    def _new_feed(self) -> RecordFeed:
        return RecordFeed(self.link, self.subject, self.get)

    @property
    def max_value(self) -> int | None:
        """See :class:`taskcore.store.LimitsValues`. A message has headers, and a record has more than its result."""
        return max(self._largest_message() - BESIDE_THE_VALUE, 1)

    def _largest_message(self) -> int:
        payload = self.link.max_payload
        return payload if self._message_limit < 0 else min(payload, self._message_limit)

    # ── reading ──

    async def get(self, key: str) -> Record | None:
        """Return the record, unless its time is over."""
        [record] = await self.get_many([key])
        return record

    async def get_many(self, keys: Sequence[str]) -> Sequence[Record | None]:
        """Return some records, unless their time is over, in one exchange."""
        if not keys:
            return []
        check_names(keys)
        answers, now = await self._read(keys), await self.now()
        return [found.record if found is not None and found.alive(now) else None for found in answers]

    async def _read(self, keys: Sequence[str]) -> list[FoundRecord | None]:
        """Return what is stored under the keys. With replicas the leader is asked: the others may be behind."""
        subjects = [self.subject(key) for key in keys]
        if self._direct:
            question = f"{self.link.address.api}DIRECT.GET.{self._stream}.".encode()
            return [
                read_answer(answer) for answer in await self._send([Message(question + one, b"") for one in subjects])
            ]
        calls = [jetstream.message_call(self._stream, last_by_subj=subject.decode()) for subject in subjects]
        return [read_stored(answer) for answer in await self.link.api_all(calls)]

    async def _send(self, messages: list[Message]) -> list[Reply]:
        """Return the answers to requests; those that no server took are sent again, with the stream created anew."""
        answers = await self.link.request_again(messages, self._stream_is_gone)
        sure = [answer for answer in answers if answer is not None and answer.status != b"503"]
        if len(sure) < len(answers):
            raise self.link.unavailable("the store did not answer in time")
        return sure

    async def _stream_is_gone(self) -> None:
        """Create the stream anew, if it was deleted."""
        info = await self.link.api(f"STREAM.INFO.{self._stream}")
        if "error" in info:
            log.error("stream %s was deleted while it was used; its records are lost. Creating it again.", self._stream)
        await self._open()

    def subject(self, key: str) -> bytes:
        """Return the subject of a key's record."""
        return f"{self._subjects}{key_token(key)}".encode()

    # ── writing ──

    async def put(self, key: str, value: bytes, *, expect: Expect, keep: float | None) -> Version | Conflict:
        """Write one record if what is there is as expected."""
        [answer] = await self.put_many([Write(key=key, value=value, expect=expect, keep=keep)])
        return answer

    async def delete(self, key: str, *, expect: Expect) -> bool:
        """Delete one record if it is as expected."""
        [answer] = await self.put_many([Write(key=key, value=None, expect=expect)])
        return not isinstance(answer, Conflict) and answer != ""

    async def put_many(self, writes: Sequence[Write]) -> Sequence[Version | Conflict]:
        """Write all in one round trip, with one answer each; a key that comes twice waits for its first write.

        After ``StoreRefused`` by the server the other writes were carried out; nothing was, if a value was known to be
        too large before.
        """
        await self.link.ready()  # only a server knows how large a message may be
        check_writes(writes, self._largest_message() - HEADERS_SIZE)
        answers: list[Version | Conflict] = [""] * len(writes)
        left = list(range(len(writes)))
        while left:
            first: dict[str, int] = {}
            for index in left:
                first.setdefault(writes[index].key, index)
            places = list(first.values())
            for index, answer in zip(places, await self._write([writes[index] for index in places]), strict=True):
                answers[index] = answer
            left = [index for index in left if first[writes[index].key] != index]
        return answers

    async def _write(self, writes: Sequence[Write]) -> list[Version | Conflict]:
        """Write records of different keys."""
        now = await self.now()
        answers: list[Version | Conflict | None] = [None] * len(writes)
        expected = [_expected_at_first(write, now) for write in writes]
        ends: dict[int, int] = {}  # of the records that are to be deleted
        looking = [index for index, number in enumerate(expected) if number == UNKNOWN_VERSION]
        for _ in range(WRITE_TRIES):
            if looking:
                await self._look(writes, looking, expected, answers, ends)
            trying = [index for index, answer in enumerate(answers) if answer is None]
            if not trying:
                break
            looking = await self._try(writes, trying, expected, answers, ends)
        if None in answers:
            raise self.link.unavailable("other writers of this record were faster every time")
        return [answer for answer in answers if answer is not None]

    async def _try(
        self,
        writes: Sequence[Write],
        trying: list[int],
        expected: list[int | None],
        answers: list[Version | Conflict | None],
        before: dict[int, int],
    ) -> list[int]:
        """Write; return those where something else than expected was there."""
        removing = [index for index in trying if _whatever_it_is(writes[index])]
        await self._removals.remove([Removal(self.subject(writes[one].key), expected[one] or 0) for one in removing])
        for index in removing:
            answers[index] = version_of(expected[index] or 0, before[index])
        trying = [index for index in trying if answers[index] is None]
        now, latest = await self.now(), await self._clock.latest()
        ends = {index: ends_at(latest, writes[index].keep) for index in trying}
        messages = [
            self._message(writes[index], expected[index], before.get(index, ends[index]), now) for index in trying
        ]
        met: list[int] = []
        old: list[int] = []
        marked: list[Removal] = []
        refused: StoreRefused | None = None
        for index, message, answer in zip(trying, messages, await self._send(messages), strict=True):
            said, write = decode_answer(answer.body), writes[index]
            code, number = error_of(said), int(said.get("seq", 0))
            if code == IS_ANOTHER:
                met.append(index)
            elif code in REFUSAL_CODES:
                refused = refusal(write.key, str(said["error"].get("description")))
            elif code:
                raise self.link.unavailable(f"the server refuses a record: {answer.body[:200]!r}; {way_out(code)}")
            elif write.value is None:
                answers[index] = version_of(expected[index] or 0, before[index])
                marked.append(Removal(message.subject, expected[index] or 0, number))
            else:
                answers[index] = version_of(number, ends[index])
                old += [before_it] if (before_it := expected[index]) else []
                if ends[index] and not self._native:
                    heapq.heappush(self._ends, (ends[index], number))
        self._removals.add(old, marked)
        if refused is not None:
            raise refused
        return met

    async def _look(
        self,
        writes: Sequence[Write],
        looking: list[int],
        expected: list[int | None],
        answers: list[Version | Conflict | None],
        before: dict[int, int],
    ) -> None:
        """Read what is there: a write that cannot be done gets its answer, the others what to expect."""
        now = await self.now()
        for index, found in zip(looking, await self._read([writes[index].key for index in looking]), strict=True):
            write, record = writes[index], found if found is not None and found.alive(now) else None
            if write.expect is ABSENT or write.expect is ANY:
                wrong = write.expect is ABSENT and record is not None
            else:
                wrong = record is None or record.record.version != write.expect
            if wrong:
                answers[index] = Conflict(record.record if record is not None else None)
            elif write.value is None and record is None:
                answers[index] = ""
            else:
                expected[index] = found.number if found is not None else 0
                if write.value is None and record is not None:
                    before[index] = record.ends

    def _message(self, write: Write, expected: int | None, ends: int, now: float) -> Message:
        """Return a write.

        :param ends: the end of the new record, or of the one that is deleted.
        """
        subject = self.subject(write.key)
        if write.value is None:
            left = ends / 1000 - now if ends else None
            return tombstone(subject, expected=expected or 0, keep=left, native=self._native)
        return write_message(subject, write.value, ends=ends, keep=write.keep, expected=expected, native=self._native)

    def watch(self, key: str) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        """Return a watch: the record as it is, then each new one, announced by its writer."""
        return self._feed.watches.watch(key)

    async def diagnose(self) -> Diagnosis:
        """Ask the server how it is set up.

        :raises BrokerUnavailable: it cannot be reached.
        """
        return await diagnose(self.link, self._stream, native=self._native)

    # ── time ──

    async def now(self) -> float:
        """Return seconds since the epoch that the server's clock shows at least: what has ended by then has ended."""
        return await self._clock.earliest()

    async def _sweep(self) -> None:
        """Remove the expired records that this process wrote, where the server does not."""
        while True:
            await asyncio.sleep(SWEEP_EVERY)
            with suppress(BrokerUnavailable):  # the next time, then
                now, over = await self.now() * 1000, []
                while self._ends and self._ends[0][0] <= now:
                    over.append(heapq.heappop(self._ends))
                if over:
                    await jetstream.delete_messages(self.link, self._stream, [number for _, number in over])


def _whatever_it_is(write: Write) -> bool:
    return write.value is None and write.expect is ANY


def _expected_at_first(write: Write, now: float) -> int | None:
    """Return the number that the last write of this key has to have; None: any; 0: there is none."""
    if write.expect is ANY:
        return None if write.value is not None else UNKNOWN_VERSION
    if write.expect is ABSENT:
        return 0 if write.value is not None else UNKNOWN_VERSION
    number, ends = wanted_of(write.expect)
    return UNKNOWN_VERSION if number < 0 or write.value is None or (ends and now * 1000 >= ends) else number
