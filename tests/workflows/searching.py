"""An exhaustive search through all orders in which workers can do the steps of a protocol, die, and lose their leases.

A protocol is a function from what a worker sees to the moves that it can make. The search plays every order of moves of
all workers; a worker may die at any move, and a lease may be lost, after which its old holder goes on, unaware, while
another worker has the job. What the broker notices of a message that is published twice is a parameter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

__all__ = ["Move", "Protocol", "Search", "Sight", "search"]


class Message(NamedTuple):
    """A message at the broker.

    :param serial: tells copies of one job apart.
    :param token: how often it was leased.
    :param holder: the worker that has the lease; -1: none.
    """

    job: str
    serial: int = 0
    token: int = 0
    holder: int = -1


class InHand(NamedTuple):
    """A job that a worker believes to have."""

    job: str
    serial: int
    token: int
    at: str = "look"
    note: Any = None


class World(NamedTuple):
    """Everything, at one moment."""

    messages: tuple[Message, ...]
    workers: tuple[InHand | None, ...]
    records: Any
    holds: tuple[tuple[str, int, int], ...]
    crashes: int
    losses: int


class Sight(NamedTuple):
    """What a worker sees before a move.

    :param at: the point that its job has reached; every job begins at ``"look"``.
    :param note: what it remembered at its last move.
    :param live: whether it still has the lease; a protocol may use that only where the broker tells it.
    :param again: whether the message was handed out before.
    """

    job: str
    at: str
    note: Any
    records: Any
    live: bool
    again: bool


class Move(NamedTuple):
    """What a worker does: one write, some messages, or the end of its job.

    :param at: the next point; None: it is done with the job.
    :param settle: the verdict; ``back``: the message is ready again; ``later``: as if it never was taken.
    """

    what: str
    records: Any
    at: str | None = None
    note: Any = None
    publish: tuple[str, ...] = ()
    settle: Literal["ack", "back", "later", ""] = ""


class Protocol(NamedTuple):
    """A protocol.

    :param first: the jobs that are there at the beginning.
    :param moves: the moves that a worker can make.
    :param judge: what is wrong with the records, now, and when nothing can happen any more.
    :param mortal: jobs that do not come back when their worker dies: they stand for senders.
    :param held: jobs that one worker at a time may run, by a key of their own.
    """

    first: tuple[str, ...]
    records: Hashable
    moves: Callable[[Sight], Iterable[Move]]
    judge: Callable[[Any, bool], Iterable[str]]
    mortal: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()


class Search(NamedTuple):
    """What a search found: how many states there are, and for each thing that goes wrong the shortest way there."""

    states: int
    wrong: Mapping[str, tuple[str, ...]]


def search(
    protocol: Protocol,
    *,
    workers: int = 2,
    crashes: int = 1,
    losses: int = 1,
    dedup: bool = True,
    until: str = "",
    limit: int = 400_000,
) -> Search:
    """Search the whole space.

    :param dedup: the broker notices a job that is published while it still has it.
    :param until: search on only until this has gone wrong.
    :raises AssertionError: the space is larger than ``limit``: nothing is known then.
    """
    start = World(
        tuple(Message(job) for job in sorted(protocol.first)), (None,) * workers, protocol.records, (), crashes, losses
    )
    came: dict[World, tuple[World, str] | None] = {start: None}
    todo, wrong = deque([start]), dict[str, tuple[str, ...]]()
    while todo and until not in wrong:
        world = todo.popleft()
        following = list(_following(protocol, world, dedup=dedup))
        for kind in protocol.judge(world.records, not following):
            if kind not in wrong:
                wrong[kind] = _way(came, world)
        for what, after in ((what, _in_order(one)) for what, one in following):
            if after not in came:
                came[after] = world, what
                todo.append(after)
        assert len(came) <= limit, f"more than {limit:,} states"
    return Search(len(came), wrong)


def _way(came: Mapping[World, tuple[World, str] | None], world: World) -> tuple[str, ...]:
    way: list[str] = []
    while (before := came[world]) is not None:
        world, what = before
        way.append(what)
    return tuple(reversed(way))


def _following(protocol: Protocol, world: World, *, dedup: bool) -> Iterator[tuple[str, World]]:
    idle = True
    for worker, hand in enumerate(world.workers):
        if hand is None:
            if idle:  # workers without a job are alike
                idle = False
                for message in {one for one in world.messages if one.holder < 0}:
                    taken = message._replace(token=message.token + 1, holder=worker)
                    yield f"w{worker} takes {message.job}", _with(world, message, taken, worker, _hand(taken))
            continue
        mine = Message(hand.job, hand.serial, hand.token, worker)
        live = mine in world.messages
        free = mine._replace(holder=-1)
        if world.crashes:
            after = _with(world, mine, None if hand.job in protocol.mortal else free, worker, None)
            yield f"w{worker} dies at {hand.at} of {hand.job}", after._replace(crashes=world.crashes - 1)
        if world.losses and live and hand.job not in protocol.mortal:
            after = _with(world, mine, free, worker, hand)
            yield f"w{worker} loses {hand.job} at {hand.at}", after._replace(losses=world.losses - 1)
        now = world
        if hand.at == "look" and hand.job in protocol.held:
            holder = next((one for one in world.holds if one[0] == hand.job), None)
            if holder is not None and holder[1:] != (worker, hand.serial):
                untaken = free._replace(token=hand.token - 1)  # its start does not count
                yield f"w{worker} finds {hand.job} held", _with(world, mine, untaken, worker, None)
                continue
            if live and holder is None:
                now = world._replace(holds=tuple(sorted((*world.holds, (hand.job, worker, hand.serial)))))
        sight = Sight(hand.job, hand.at, hand.note, world.records, live, hand.token > 1)
        for move in protocol.moves(sight):
            yield f"w{worker} {hand.job}: {move.what}", _after(now, move, mine, worker, hand, dedup=dedup)


def _in_order(world: World) -> World:
    """Make two worlds equal that differ only in which of two workers is which."""
    if len(world.workers) != 2 or repr(world.workers[0]) <= repr(world.workers[1]):
        return world
    messages = (one if one.holder < 0 else one._replace(holder=1 - one.holder) for one in world.messages)
    holds = tuple(sorted((job, 1 - worker, serial) for job, worker, serial in world.holds))
    return world._replace(messages=tuple(sorted(messages)), workers=world.workers[::-1], holds=holds)


def _hand(message: Message) -> InHand:
    return InHand(message.job, message.serial, message.token)


def _with(world: World, message: Message, then: Message | None, worker: int, hand: InHand | None) -> World:
    """Put another message in the place of one, if it is there, and another job into a worker's hand."""
    messages = world.messages
    if message in messages:
        at = messages.index(message)
        messages = tuple(sorted((*messages[:at], *messages[at + 1 :], *([then] if then else ()))))
        if then is None or then.holder != worker:
            world = world._replace(holds=tuple(one for one in world.holds if one[:2] != (message.job, worker)))
    workers = (*world.workers[:worker], hand, *world.workers[worker + 1 :])
    return world._replace(messages=messages, workers=workers)


def _after(world: World, move: Move, mine: Message, worker: int, hand: InHand, *, dedup: bool) -> World:
    world = world._replace(records=move.records)
    for job in move.publish:
        copies = [one for one in world.messages if one.job == job]
        if not copies or (not dedup and len(copies) < 2):  # two copies are as bad as many
            serial = 1 + max((one.serial for one in copies), default=-1)
            world = world._replace(messages=tuple(sorted((*world.messages, Message(job, serial)))))
    then: Message | None = mine if not move.settle else None
    if move.settle in ("back", "later"):
        then = mine._replace(holder=-1, token=mine.token - (move.settle == "later"))
    return _with(world, mine, then, worker, None if move.at is None else hand._replace(at=move.at, note=move.note))
