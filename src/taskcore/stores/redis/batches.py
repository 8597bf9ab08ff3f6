"""Many reads and many writes in few round trips: how a batch becomes commands, and replies become answers.

On one server a batch is one exchange. In a cluster it is one for each group of records, side by side. An error that
concerns one record is that record's answer, so that the others of its batch are not harmed by it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from importlib.resources import files
from typing import Any, Final, TypeAlias, TypeVar

import anyio
from redis.exceptions import ResponseError

from taskcore.connections.redis import CommandRefused, RedisLink, Script
from taskcore.connections.redis.refusals import DEMOTED, refused
from taskcore.errors import BrokerUnavailable
from taskcore.store import ABSENT, ANY, Conflict, Expect, Record, Version, Write
from taskcore.stores.redis.records import Names, decode, foreign, group_of, milliseconds, version_in

__all__ = ["Answer", "Found", "read", "write"]

Found: TypeAlias = Record | BrokerUnavailable | None
Answer: TypeAlias = Version | Conflict | BrokerUnavailable

T = TypeVar("T")
R = TypeVar("R")

WRITING = "write records"  #: the purpose of the line
WRITES = 250  #: that one script call carries out: it holds the server up for about half a millisecond
BYTES = 4_000_000  #: that one script call brings
LUA: Final = files("taskcore.stores.redis")
SCRIPT: Final = Script("local room\n" + LUA.joinpath("write.lua").read_text())
RESERVE: Final = Script(LUA.joinpath("reserve.lua").read_text() + LUA.joinpath("write.lua").read_text())


# ── reading ──────────────────────────────────────────────────────────────────────────────────────


async def read(link: RedisLink, purpose: str, names: Names, keys: Sequence[str]) -> list[Found]:
    """The records of these keys; an error in the place of one that cannot be read."""
    each = partial(_read_each, link, purpose, names)
    if link.is_cluster:  # a redirection concerns one key, so each is asked for by itself
        return await _side_by_side(keys, keys, each)
    called = [names(key) for key in keys]
    try:
        replies = await link.call(purpose, called[0], *[("GET", name) for name in called])
    except CommandRefused as answer:
        if answer.kind != "WRONGTYPE":
            raise
        return await each(keys)
    return [_record(data, name) for data, name in zip(replies, called, strict=True)]


async def _read_each(link: RedisLink, purpose: str, names: Names, keys: Sequence[str]) -> list[Found]:
    found: list[Found] = []
    for key in keys:
        name = names(key)
        try:
            [data] = await link.call(purpose, name, ("GET", name))
        except CommandRefused as answer:
            if answer.kind != "WRONGTYPE":
                raise
            found.append(foreign(name, answer.says))
        else:
            found.append(_record(data, name))
    return found


def _record(data: bytes | None, name: str) -> Found:
    try:
        return None if data is None else decode(data, name)
    except BrokerUnavailable as error:
        return error


# ── writing ──────────────────────────────────────────────────────────────────────────────────────


async def write(link: RedisLink, names: Names, versions: Iterator[str], writes: Sequence[Write]) -> list[Answer]:
    """The answers to these writes; an error in the place of one that could not be carried out."""
    if link.is_cluster:
        keys = [one.key for one in writes]
        return await _side_by_side(keys, writes, partial(_write_group, link, names, versions))
    answers: list[Answer] = []
    for chunk in _chunks(writes):
        answers += await _run(link, names, versions, chunk)
    if any(isinstance(answer, CommandRefused) and answer.kind in DEMOTED for answer in answers):
        await link.hang_up(WRITING)  # it said so inside of the script, where the link does not hear it
    return answers


async def _write_group(link: RedisLink, names: Names, versions: Iterator[str], writes: Sequence[Write]) -> list[Answer]:
    """Writes to records of one slot of a cluster."""
    answers: list[Answer] = []
    for chunk in _chunks(writes):
        try:
            answers += await _run(link, names, versions, chunk)
        except CommandRefused as answer:
            if answer.kind != "TRYAGAIN":
                raise
            for one in chunk:  # the slot is on the move: no script may see keys on both sides, but one key is on one
                answers += await _run(link, names, versions, [one])
    return answers


async def _run(link: RedisLink, names: Names, versions: Iterator[str], writes: Sequence[Write]) -> list[Answer]:
    """Carry them out; when memory is full, those by which jobs end from the reserve."""
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
    script: Script, link: RedisLink, names: Names, versions: Iterator[str], writes: Sequence[Write]
) -> list[Answer]:
    keys, new = [names(one.key) for one in writes], [next(versions) for _ in writes]
    arguments: list[bytes | str | int] = []
    for one, version in zip(writes, new, strict=True):
        if one.value is None:
            arguments += (_expect(one.expect), "x", b"")
        else:
            keep = "" if one.keep is None else milliseconds(one.keep)
            arguments += (_expect(one.expect), keep, b"%b %b" % (version.encode(), one.value))
    [replies] = await link.run(WRITING, script, keys, arguments)
    shown = link.options.shown
    return [_answer(reply, version, name, shown) for reply, version, name in zip(replies, new, keys, strict=True)]


def _expect(expect: Expect) -> str:
    if expect is ANY:
        return "*"
    return "-" if expect is ABSENT else f"={expect}"


def _answer(reply: Any, version: str, name: str, shown: str) -> Answer:
    """What the script says about one write; see there."""
    if reply == 1:
        return version
    if reply is None:
        return Conflict(None)
    if reply == 0:
        return ""
    if isinstance(reply, list):
        if len(reply) == 1:
            return version_in(reply[0]) or ""
        says = reply[1].decode(errors="replace")
        error = refused(ResponseError(says), shown)
        return foreign(name, says) if error.kind == "WRONGTYPE" else error
    record = _record(reply, name)
    return record if isinstance(record, BrokerUnavailable) else Conflict(record)


def _chunks(writes: Sequence[Write]) -> Iterator[Sequence[Write]]:
    start = size = 0
    for index, one in enumerate(writes):
        more = len(one.value or b"")
        if index - start == WRITES or (size + more > BYTES and index > start):
            yield writes[start:index]
            start, size = index, 0
        size += more
    if start < len(writes):
        yield writes[start:]


# ── clusters ─────────────────────────────────────────────────────────────────────────────────────


async def _side_by_side(
    keys: Sequence[str], items: Sequence[T], do: Callable[[Sequence[T]], Awaitable[list[R]]]
) -> list[R | BrokerUnavailable]:
    """Do something with items group by group, at the same time; answers in the order of the items.

    A group that fails has its error in the place of each of its answers.
    """
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        groups[group_of(key)].append(index)
    answers: dict[int, R | BrokerUnavailable] = {}

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
