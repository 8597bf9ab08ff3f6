"""JetStream's streams, their messages and their clock. Configurations are those of nats-py."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from math import inf
from typing import Any, Final, NamedTuple

import msgspec
from nats.js import api

from taskcore.connections.nats.link import ApiCall, NatsLink, decode_answer
from taskcore.connections.nats.protocol import Message
from taskcore.errors import BrokerUnavailable

__all__ = [
    "EXISTS_ALREADY", "BrokerClock", "StoredMessage", "broker_time", "check_settings", "delete_messages",
    "ensure_stream", "find_message", "message_call", "messages_from", "next_message",
    "settings_of", "stored_in", "stream_config", "tell", "wall_clock",
]  # fmt: skip

EXISTS_ALREADY: Final = (10058, 10148, 10105, 10013)
#: Refusals of a stream that another client may be creating at this moment: NATS 2.9 says that its subjects overlap.
BEING_CREATED: Final = (*EXISTS_ALREADY, 10065)
CREATE_TRIES, CREATE_PAUSE = 10, 0.05  #: how often, and at which distance in seconds, its end is waited for
DUPLICATE_WINDOW: Final = 120.0  #: seconds from its publishing for which a server remembers an id
CLOCK_KEPT: Final = 60.0  #: seconds after which the server's time is asked for again …
CLOCK_KEPT_INEXACT: Final = 1.0  #: … or sooner, if it is known worse than …
CLOCK_EXACT: Final = 0.02  #: … within so many seconds …
CLOCK_ASKED: Final = 3  #: … after so many requests
LEAST_WIDTH, MOST_WIDTH = 8, 256  #: messages that are asked for at once, without knowing whether they are there


async def tell(link: NatsLink, told: Iterable[tuple[object, bytes, bytes]], what: str) -> None:
    """Tell the server about deliveries; it confirms the last message about each queue.

    What one lost connection left unconfirmed is sent once more: a server may get the same message twice.

    :param told: for each the queue, where to say it, and the word.
    :param what: what they say, for the text of an error.
    :raises BrokerUnavailable: not all of it is confirmed.
    """
    last: dict[object, tuple[bytes, bytes]] = {}
    ahead: list[bytes] = []
    for queue, reply, word in told:
        before = last.get(queue)
        if before is not None:
            ahead.append(b"PUB %b  %d\r\n%b\r\n" % (before[0], len(before[1]), before[1]))
        last[queue] = reply, word
    for _ in range(2 if last else 0):
        connection = await link.ready()
        answers = await link.request_all([Message(*one) for one in last.values()], ahead=b"".join(ahead))
        if all(answer is not None and answer.status != b"503" for answer in answers):
            return
        if connection.alive:
            raise link.unavailable(f"no server confirmed {what}: its queue has no leader, or was deleted")
    if last:
        raise link.unavailable(f"no server confirmed {what}: the connection was lost")


# ── messages ──


class StoredMessage(NamedTuple):
    """A message in a stream; its time is in seconds since the epoch."""

    number: int
    subject: str
    headers: bytes
    body: bytes
    time: float


def message_call(stream: str, **which: Any) -> ApiCall:
    """Return the question for one message: ``seq=…``, ``last_by_subj=…``."""
    return f"STREAM.MSG.GET.{stream}", which


def stored_in(answer: Mapping[str, Any]) -> StoredMessage | None:
    """Return the message in the answer to such a question; None if there is none."""
    found = answer.get("message")
    if found is None:
        return None
    headers, body = base64.b64decode(found.get("hdrs") or ""), base64.b64decode(found.get("data") or "")
    return StoredMessage(int(found["seq"]), found["subject"], headers, body, broker_time(found["time"]))


async def find_message(link: NatsLink, stream: str, **which: Any) -> StoredMessage | None:
    """Return one message; None if it, or its stream, does not exist.

    :raises BrokerUnavailable: no server can tell.
    """
    return stored_in(await link.api(*message_call(stream, **which)))


async def next_message(link: NatsLink, stream: str, subjects: str) -> StoredMessage | None:
    """Return the first message of these subjects; None if there is none.

    :raises BrokerUnavailable: no server can tell.
    """
    return await find_message(link, stream, seq=1, next_by_subj=subjects)


async def messages_from(link: NatsLink, stream: str, subjects: str, *, start: int, limit: int) -> list[StoredMessage]:
    """Return up to ``limit`` messages of these subjects, from a number on; few round trips where they lie close.

    :raises BrokerUnavailable: no server can tell.
    """
    found: list[StoredMessage] = []
    width, prefix = LEAST_WIDTH, subjects.partition("*")[0]
    while len(found) < limit:
        first = await find_message(link, stream, seq=start, next_by_subj=subjects)
        if first is None:
            break
        start = first.number + min(width, limit - len(found))
        numbers = range(first.number + 1, start)
        answers = await link.api_all([message_call(stream, seq=number) for number in numbers]) if numbers else []
        near = [one for one in map(stored_in, answers) if one is not None and one.subject.startswith(prefix)]
        found += [first, *near]
        width = min(2 * width, MOST_WIDTH) if 2 * len(near) >= len(numbers) else max(width // 2, LEAST_WIDTH)
    return found


async def delete_messages(link: NatsLink, stream: str, numbers: Iterable[int]) -> int:
    """Delete messages; return how many of them were there.

    :raises BrokerUnavailable: some may be deleted, others not.
    """
    calls = [(f"STREAM.MSG.DELETE.{stream}", {"seq": number, "no_erase": True}) for number in numbers]
    return sum(bool(answer.get("success")) for answer in await link.api_all(calls))


# ── streams ──


def settings_of(config: api.StreamConfig | api.ConsumerConfig) -> dict[str, Any]:
    """Return a configuration of nats-py as JetStream's API takes it."""
    settings: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(config.as_dict()))
    return settings


def stream_config(link: NatsLink, name: str, subjects: Sequence[str], **others: Any) -> dict[str, Any]:
    """Return the configuration of a stream; what is not said: it keeps all messages, and refuses what is too much."""
    config: dict[str, Any] = {
        "storage": api.StorageType(link.address.storage or "file"),
        "num_replicas": link.address.replicas or 1,
        "retention": api.RetentionPolicy.LIMITS,
        "discard": api.DiscardPolicy.NEW,
        "max_msgs": -1,
        "max_bytes": link.address.max_bytes or -1,
        "max_age": 0,
        "duplicate_window": DUPLICATE_WINDOW,
    }
    return settings_of(api.StreamConfig(name=name, subjects=list(subjects), **config | others))


async def ensure_stream(link: NatsLink, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a stream, which is created if it does not exist. Check them: they may be others.

    :raises BrokerUnavailable: it cannot be created.
    """
    name, tries = config["name"], CREATE_TRIES
    while "error" in (info := await link.api(f"STREAM.INFO.{name}")):
        tries -= 1
        info = await link.api(f"STREAM.CREATE.{name}", config, allowed=BEING_CREATED if tries else ())
        if "error" not in info:
            break
        await asyncio.sleep(CREATE_PAUSE)
    found: dict[str, Any] = info["config"]
    return found


def check_settings(
    link: NatsLink, name: str, wanted: Mapping[str, Any], found: Mapping[str, Any], keys: Iterable[str]
) -> None:
    """Compare settings. Replicas and storage are free unless the URL says them; old servers leave out what is new.

    :raises BrokerUnavailable: something differs.
    """
    free = {"num_replicas": link.address.replicas is None, "storage": link.address.storage is None}
    different = [
        f"{key}: {'nothing' if found.get(key) is None else found[key]}, wanted {wanted[key]}"
        for key in keys
        if not free.get(key) and key in wanted and _comparable(found.get(key)) != _comparable(wanted[key])
    ]
    if different:
        raise BrokerUnavailable(
            f"{name} exists with other settings than ours",
            facts=different,
            fix="change it with the nats command line, or use another ?prefix= for this app",
        )


def _comparable(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value or 0


# ── time ──


def wall_clock() -> float:
    """Return seconds since the epoch by our own clock."""
    return datetime.now(UTC).timestamp()


def broker_time(text: str) -> float:
    """Return a server's time stamp as seconds since the epoch; it has more digits than Python reads."""
    whole, _, rest = text.rstrip("Z").partition(".")
    seconds = datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp()
    return seconds + (float(f"0.{rest}") if rest.isdigit() else 0.0)


class BrokerClock:
    """A server's clock, asked for the time anew once in a while.

    The server reads its clock somewhere between a request and its answer, so it is known within that time only. A
    request that takes long is made again, and what is found is not kept for long.

    :param probe: a message that the stream takes, for servers before 2.10: only what they store has a time stamp.
    """

    def __init__(self, link: NatsLink, stream: str, probe: Message) -> None:
        self._link = link
        self._stream = stream
        self._probe = probe
        self._ahead = (0.0, 0.0)  # seconds that it is ahead of ours: at least, and at most
        self._ask_again = float("-inf")

    async def earliest(self) -> float:
        """Return seconds since the epoch that its clock shows at least; what was due by then is due.

        :raises BrokerUnavailable: the server does not answer.
        """
        await self._ask()
        return wall_clock() + self._ahead[0]

    async def latest(self) -> float:
        """Return seconds since the epoch that its clock shows at most; what waits from then on is not early.

        :raises BrokerUnavailable: the server does not answer.
        """
        await self._ask()
        return wall_clock() + self._ahead[1]

    async def _ask(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._ask_again:
            return
        low, high = -inf, inf
        for _ in range(CLOCK_ASKED):
            if high - low > CLOCK_EXACT:
                low, high = min((low, high), await self._difference(), key=lambda bounds: bounds[1] - bounds[0])
        self._ahead = low, high
        self._ask_again = loop.time() + (CLOCK_KEPT if high - low <= CLOCK_EXACT else CLOCK_KEPT_INEXACT)

    async def _difference(self) -> tuple[float, float]:
        """Return the seconds that it is ahead of ours: at least, and at most."""
        before = wall_clock()
        info = await self._link.api(f"STREAM.INFO.{self._stream}")
        if "ts" not in info:
            return await self._probed()
        shown = broker_time(info["ts"])
        return shown - wall_clock(), shown - before

    async def _probed(self) -> tuple[float, float]:
        before = wall_clock()
        [answer] = await self._link.request_all([self._probe])
        after = wall_clock()
        stored = decode_answer(answer.body) if answer is not None else {}
        if "seq" not in stored:
            raise self._link.unavailable("the server did not take a message that asks for the time")
        found = await find_message(self._link, self._stream, seq=stored["seq"])
        await delete_messages(self._link, self._stream, [stored["seq"]])
        return (found.time - after, found.time - before) if found is not None else (0.0, 0.0)
