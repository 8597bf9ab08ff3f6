"""Many reads and many writes in few round trips: from a batch to commands, and from replies to answers.

On one server a batch is one exchange. In a cluster it is one for each group of records, all at the same time. An error
that concerns one record is that record's answer, and does not harm the others of its batch: they are written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from importlib.resources import files
from typing import Any, Final, TypeAlias, TypeVar

import anyio
from redis.exceptions import ResponseError

from taskcore.connections.redis import CommandRefused, RedisLink, ReplyLost, Script
from taskcore.connections.redis.large_replies import SENT_ALWAYS, UNSENT, UNSENT_FIX, in_parts
from taskcore.connections.redis.refusals import DEMOTED, SlotMoving, refused
from taskcore.errors import BrokerUnavailable, UnreadableRecord
from taskcore.store import ABSENT, ANY, Conflict, Expect, Record, Version, Write
from taskcore.stores.limits import Failure, refusal
from taskcore.stores.redis.layout import RecordNames, decode, foreign, group_of, milliseconds, version_in

__all__ = ["PutAnswer", "ReadAnswer", "read", "write"]

ReadAnswer: TypeAlias = Record | Failure | None
PutAnswer: TypeAlias = Version | Conflict | Failure

T = TypeVar("T")
R = TypeVar("R")

WRITING = "write records"  #: the purpose of the connection
SCRIPT_WRITES = 250  #: writes in one script, which holds the server up for about half a millisecond
SCRIPT_BYTES = 4_000_000  #: bytes in one script
READ_SEPARATELY: Final = 2  #: the script's answer in the place of a record that has to be read
UNREAD: Final = "Protocol error"  #: the server's answer to a command that it does not read to its end
NOT_ALLOWED: Final = (
    "unknown command",
    "not allowed from script",
)  #: no record is at fault if a command does not exist
LUA: Final = files("taskcore.stores.redis")
SCRIPT: Final = Script("local room\n" + LUA.joinpath("write.lua").read_text())
RESERVE: Final = Script(LUA.joinpath("reserve.lua").read_text() + LUA.joinpath("write.lua").read_text())


# ── reading ──────────────────────────────────────────────────────────────────────────────────────


async def read(link: RedisLink, purpose: str, names: RecordNames, keys: Sequence[str]) -> list[ReadAnswer]:
    """Return the records of these keys; an error in the place of one that cannot be read."""
    together = partial(_read_together, link, purpose, names)
    if link.is_cluster:
        return await _by_group(keys, keys, together)
    return await together(keys)


async def _read_together(link: RedisLink, purpose: str, names: RecordNames, keys: Sequence[str]) -> list[ReadAnswer]:
    """Read records by one exchange; all of them on one node."""
    called = [names(key) for key in keys]
    try:
        replies = await in_parts(partial(_get, link, purpose), called)
    except CommandRefused as answer:
        if answer.kind != "WRONGTYPE" and not link.is_cluster:
            raise
    except SlotMoving:
        pass  # some of the keys are on one node, some on another
    else:
        return [_record(data, name) for data, name in zip(replies, called, strict=True)]
    return await _read_each(link, purpose, names, keys)


async def _get(link: RedisLink, purpose: str, called: Sequence[str]) -> list[bytes | UnreadableRecord | None]:
    """Read strings by one exchange; of one alone that the server does not send, return the error."""
    try:
        return await link.call(purpose, called[0], *[("GET", name) for name in called])
    except ReplyLost as lost:
        if not lost.cut or len(called) > 1:
            raise
        [size] = await link.call(purpose, called[0], ("STRLEN", called[0]))
        if size <= SENT_ALWAYS:
            raise
        what = f"the record {RecordNames.key_of(called[0])!r} has {size:,} bytes, {UNSENT}"
        return [UnreadableRecord(what, fix=UNSENT_FIX)]


async def _read_each(link: RedisLink, purpose: str, names: RecordNames, keys: Sequence[str]) -> list[ReadAnswer]:
    found: list[ReadAnswer] = []
    for key in keys:
        name = names(key)
        try:
            [data] = await _get(link, purpose, [name])
        except CommandRefused as answer:
            if answer.kind != "WRONGTYPE":
                raise
            found.append(foreign(name, answer.says))
        else:
            found.append(_record(data, name))
    return found


def _record(data: bytes | UnreadableRecord | None, name: str) -> Record | UnreadableRecord | None:
    try:
        return decode(data, name) if isinstance(data, bytes) else data
    except UnreadableRecord as error:
        return error


# ── writing ──────────────────────────────────────────────────────────────────────────────────────


async def write(
    link: RedisLink, names: RecordNames, versions: Iterator[str], writes: Sequence[Write]
) -> list[PutAnswer]:
    """Carry out the writes; return the answers, an error in the place of one that could not be carried out."""
    if link.is_cluster:
        keys = [one.key for one in writes]
        return await _by_group(keys, writes, partial(_write_group, link, names, versions))
    answers: list[PutAnswer] = []
    for chunk in _chunks(writes):
        answers += await _run_apart(link, names, versions, chunk)
    if any(isinstance(answer, CommandRefused) and answer.kind in DEMOTED for answer in answers):
        await link.hang_up(WRITING)  # the answer came from inside the script, where the connection does not see it
    return answers


async def _write_group(
    link: RedisLink, names: RecordNames, versions: Iterator[str], writes: Sequence[Write]
) -> list[PutAnswer]:
    """Write records of one slot of a cluster."""
    answers: list[PutAnswer] = []
    for chunk in _chunks(writes):
        try:
            answers += await _run_apart(link, names, versions, chunk)
        except CommandRefused as answer:
            if answer.kind != "TRYAGAIN":
                raise
            for one in chunk:  # the slot is on the move: a script cannot see both nodes, but one key is on one
                answers += await _run_apart(link, names, versions, [one])
    return answers


async def _run_apart(
    link: RedisLink, names: RecordNames, versions: Iterator[str], writes: Sequence[Write]
) -> list[PutAnswer]:
    """Carry out the writes; each alone if the server refuses to read the command, which one of them makes too large."""
    try:
        return await _run(link, names, versions, writes)
    except CommandRefused as answer:
        if UNREAD not in answer.says:
            raise
        if len(writes) == 1:
            return [refusal(writes[0].key, answer.says)]
    return [answer for one in writes for answer in await _run_apart(link, names, versions, [one])]


async def _run(
    link: RedisLink, names: RecordNames, versions: Iterator[str], writes: Sequence[Write]
) -> list[PutAnswer]:
    """Carry out the writes; when memory is full, use the reserve for those by which jobs end."""
    answers = await _carry_out(SCRIPT, link, names, versions, writes)
    refused = [
        index
        for index, (one, answer) in enumerate(zip(writes, answers, strict=True))
        if one.reserve and isinstance(answer, CommandRefused) and answer.kind == "OOM"
    ]
    if refused:
        again = await _carry_out(RESERVE, link, names, versions, [writes[index] for index in refused])
        for index, answer in zip(refused, again, strict=True):
            answers[index] = answer
    return answers


async def _carry_out(
    script: Script, link: RedisLink, names: RecordNames, versions: Iterator[str], writes: Sequence[Write]
) -> list[PutAnswer]:
    keys, new = [names(one.key) for one in writes], [next(versions) for _ in writes]
    arguments: list[bytes | str | int] = []
    for one, version in zip(writes, new, strict=True):
        if one.value is None:
            arguments += (_expect(one.expect), "delete", b"")
        else:
            keep = "" if one.keep is None else milliseconds(one.keep)
            arguments += (_expect(one.expect), keep, b"%b %b" % (version.encode(), one.value))
    [replies] = await link.run(WRITING, script, keys, arguments)
    shown = link.options.shown
    answers = [_answer(reply, version, name, shown) for reply, version, name in zip(replies, new, keys, strict=True)]
    if READ_SEPARATELY in replies:
        untold = [index for index, reply in enumerate(replies) if reply == READ_SEPARATELY]
        found = await read(link, WRITING, names, [writes[index].key for index in untold])
        for index, record in zip(untold, found, strict=True):
            answers[index] = record if isinstance(record, Failure) else Conflict(record)
    return answers


def _expect(expect: Expect) -> str:
    if expect is ANY:
        return "*"
    return "-" if expect is ABSENT else f"={expect}"


def _answer(reply: Any, version: str, name: str, shown: str) -> PutAnswer:
    """Read the script's answer about one write; see there."""
    if reply == 1:
        return version
    if reply is None or reply == READ_SEPARATELY:
        return Conflict(None)
    if reply == 0:
        return ""
    if isinstance(reply, list):
        return (
            (version_in(reply[0]) or "")
            if len(reply) == 1
            else _failure(reply[1].decode(errors="replace"), name, shown)
        )
    record = _record(reply, name)
    return record if isinstance(record, UnreadableRecord) else Conflict(record)


def _failure(says: str, name: str, shown: str) -> Failure:
    """Read an error about one write: it concerns this record, or the state of the server."""
    error = refused(ResponseError(says), shown)
    if error.kind == "WRONGTYPE":
        return foreign(name, says)
    if error.kind == "ERR" and not any(words in says for words in NOT_ALLOWED):
        return refusal(RecordNames.key_of(name), says)
    return error


def _chunks(writes: Sequence[Write]) -> Iterator[Sequence[Write]]:
    start = size = 0
    for index, one in enumerate(writes):
        more = len(one.value or b"")
        if index - start == SCRIPT_WRITES or (size + more > SCRIPT_BYTES and index > start):
            yield writes[start:index]
            start, size = index, 0
        size += more
    if start < len(writes):
        yield writes[start:]


# ── clusters ─────────────────────────────────────────────────────────────────────────────────────


async def _by_group(
    keys: Sequence[str], items: Sequence[T], do: Callable[[Sequence[T]], Awaitable[list[R]]]
) -> list[R | Failure]:
    """Process items group by group, all groups at the same time; return the answers in the order of the items.

    A group that fails has its error in the place of each of its answers.
    """
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        groups[group_of(key)].append(index)
    answers: dict[int, R | Failure] = {}

    async def one(indices: list[int]) -> None:
        try:
            done = await do([items[index] for index in indices])
        except BrokerUnavailable as error:
            answers.update(dict.fromkeys(indices, error))
        else:
            answers.update(zip(indices, done, strict=True))

    async with anyio.create_task_group() as group:
        for indices in groups.values():
            group.start_soon(one, indices)
    return [answers[index] for index in range(len(items))]
