"""JetStream's API: answers, streams and the server's clock. Configurations are those of nats-py.

An answer says what is stored, what is not, or that no server can tell at the moment. The difference matters: a stream
without a leader answers with an error too, and a caller that took it for "not there" would forget jobs that exist.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from nats.js.api import ConsumerConfig, StreamConfig

from taskcore.connections.nats.link import NatsLink
from taskcore.connections.nats.protocol import Message
from taskcore.errors import BrokerUnavailable

__all__ = [
    "EXISTS_ALREADY",
    "NO_CONSUMER",
    "NO_STREAM",
    "broker_time",
    "check_settings",
    "clock_offset",
    "ensure_stream",
    "error_of",
    "settings_of",
    "stored_in",
    "wall_clock",
    "without_error",
]

NO_STREAM: Final = 10059
NO_CONSUMER: Final = 10014
NO_MESSAGE: Final = 10037
EXISTS_ALREADY: Final = (10058, 10148, 10105, 10013)
#: Refusals of a stream that another client may be creating at this moment: NATS 2.9 says that its subjects overlap.
BEING_CREATED: Final = (*EXISTS_ALREADY, 10065)
CREATE_TRIES, CREATE_PAUSE = 10, 0.05  #: how often, and at which distance in seconds, its end is waited for


# ── answers ──


def error_of(answer: Mapping[str, Any]) -> int:
    """Return the code of an answer's error; 0 if there is none."""
    error = answer.get("error")
    return int(error.get("err_code") or error.get("code") or 1) if isinstance(error, Mapping) else 0


def without_error(answer: Mapping[str, Any], *allowed: int, what: str = "to say what is stored") -> Mapping[str, Any]:
    """Return the answer, if it has no error but one of these.

    :raises BrokerUnavailable: it has another one.
    """
    code = error_of(answer)
    if code and code not in allowed:
        raise BrokerUnavailable(
            f"NATS refused {what}",
            facts=[f"{answer['error'].get('description')} ({code})"],
            fix="try again; if it goes on, read the server's log, and see what the account may do",
        )
    return answer


def stored_in(answer: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the message that a stream has stored; None if it surely has none.

    :raises BrokerUnavailable: the stream cannot say.
    """
    found: Mapping[str, Any] | None = without_error(answer, NO_MESSAGE, NO_STREAM).get("message")
    return found


# ── streams ──


def settings_of(config: StreamConfig | ConsumerConfig) -> dict[str, Any]:
    """Return a configuration of nats-py as JetStream's API takes it."""
    settings: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(config.as_dict()))
    return settings


async def ensure_stream(link: NatsLink, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a stream, which is created if it does not exist. Compare them: they may be others.

    :raises BrokerUnavailable: it cannot be created.
    """
    name = config["name"]
    created: dict[str, Any] = {}
    info = await link.api(f"STREAM.INFO.{name}")
    for _ in range(CREATE_TRIES):
        if error_of(info) != NO_STREAM:
            break
        created = await link.api(f"STREAM.CREATE.{name}", config)
        if error_of(created) not in BEING_CREATED:
            info = created
            break
        info = await link.api(f"STREAM.INFO.{name}")
        if error_of(info) == NO_STREAM:
            await asyncio.sleep(CREATE_PAUSE)
    else:
        info = created
    found: dict[str, Any] = without_error(info, what=f"to create stream {name}")["config"]
    return found


def check_settings(name: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Compare what was wanted with what is there; old servers leave out what they do not know.

    :raises BrokerUnavailable: something differs.
    """
    different = [
        f"{key}: {'nothing' if found.get(key) is None else found[key]}, wanted {value}"
        for key, value in wanted.items()
        if _comparable(found.get(key)) != _comparable(value)
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


async def clock_offset(link: NatsLink, stream: str, probe: Message) -> float:
    """Return the seconds that the server's clock is ahead of ours.

    :param probe: a message that the stream takes, for servers before 2.10: only what they store has a time stamp.
    :raises BrokerUnavailable: the server does not answer.
    """
    before = wall_clock()
    info = await link.api(f"STREAM.INFO.{stream}")
    after = wall_clock()
    if "ts" in info:
        return broker_time(info["ts"]) - (before + after) / 2
    before = wall_clock()
    [answer] = await link.request_all([probe])
    after = wall_clock()
    stored = without_error(link.read_answer(answer), what="a message that asks for the time")
    found = await link.api(f"STREAM.MSG.GET.{stream}", {"seq": stored["seq"]})
    await link.api(f"STREAM.MSG.DELETE.{stream}", {"seq": stored["seq"], "no_erase": True})
    return broker_time(found["message"]["time"]) - (before + after) / 2 if "message" in found else 0.0
