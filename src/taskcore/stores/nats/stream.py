"""The stream behind a store: made when it is not there, checked when it is, and asked for the time."""

from __future__ import annotations

from typing import Any

from taskcore.connections.nats import Message, NatsLink
from taskcore.connections.nats.answers import broker_time, wall_clock
from taskcore.connections.nats.link import decode_answer
from taskcore.errors import BrokerUnavailable

__all__ = ["clock_of", "make_stream"]

TTL_LEVEL = 1  #: the level of the API from which servers take records away by themselves
OLDEST = 30 * 86_400 * 10**9  #: nanoseconds after which every record goes, where they do not
EXISTS_ALREADY = (10058, 10105)
CHECKED = ("subjects", "retention", "discard", "max_msgs_per_subject", "max_msgs", "max_bytes")


async def make_stream(link: NatsLink, name: str, subjects: str) -> dict[str, Any]:
    """Its configuration.

    :raises BrokerUnavailable: it cannot be made, or is there with other settings.
    """
    address = link.address
    info = await link.api(f"STREAM.INFO.{name}")
    wanted: dict[str, Any] = {
        "name": name,
        "subjects": [subjects],
        "retention": "limits",
        "storage": address.storage or "file",
        "num_replicas": address.replicas or 1,
        "max_msgs_per_subject": 1,
        "discard": "new",
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0 if link.level >= TTL_LEVEL else OLDEST,
        "allow_direct": True,
        "duplicate_window": 100_000_000,  # no write of ours has an id; the least that servers take
    } | ({"allow_msg_ttl": True} if link.level >= TTL_LEVEL else {})
    if "error" in info:
        info = await link.api(f"STREAM.CREATE.{name}", wanted)
        if "error" in info and info["error"].get("err_code") in EXISTS_ALREADY:
            info = await link.api(f"STREAM.INFO.{name}")
    if "error" in info:
        raise BrokerUnavailable(
            f"NATS refused to make stream {name}",
            facts=[str(info["error"].get("description"))],
            fix="see what its log says, and what the account may do",
        )
    found: dict[str, Any] = info["config"]
    checked = [
        *CHECKED,
        *["num_replicas"] * (address.replicas is not None),
        *["storage"] * (address.storage is not None),
    ]
    different = [
        f"{key}: {found.get(key)}, wanted {wanted[key]}" for key in checked if (found.get(key) or 0) != wanted[key]
    ]
    if different:
        raise BrokerUnavailable(
            f"{name} exists with other settings than ours",
            facts=different,
            fix="change it with the nats command line, or use another ?prefix= for this app; we do not change it",
        )
    return found


async def clock_of(link: NatsLink, stream: str, subject: bytes) -> float:
    """Seconds that the server's clock is ahead of ours.

    :raises BrokerUnavailable: it does not answer.
    """
    before = wall_clock()
    info = await link.api(f"STREAM.INFO.{stream}")
    after = wall_clock()
    if "ts" in info:
        return broker_time(info["ts"]) - (before + after) / 2
    before = wall_clock()  # servers before 2.10 tell the time only by the time stamp of something stored
    [answer] = await link.request_all([Message(subject, b"", b"Tc-Gone: 1\r\n")])
    after = wall_clock()
    number = decode_answer(answer.body).get("seq") if answer is not None else None
    found = await link.api(f"STREAM.MSG.GET.{stream}", {"seq": number})
    if "message" not in found:
        return 0.0
    await link.api(f"STREAM.MSG.DELETE.{stream}", {"seq": number, "no_erase": True})
    return broker_time(found["message"]["time"]) - (before + after) / 2
