"""NatsLink: one supervised connection to a NATS server or cluster.

    async with NatsLink(address, name="worker") as link:
        answers = await link.exchange([Parcel(…), …])        each with its answer, or None
        info = await link.api("STREAM.INFO.x")               JetStream's API, as a dict
        link.listen(subject, handler)                        lives through reconnects

The connection is the line's business, batches of answers are the exchange's; here they meet, and speak to JetStream.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from taskcore.connections.nats.address import Address
from taskcore.connections.nats.connection import Line
from taskcore.connections.nats.requests import Exchange
from taskcore.connections.nats.wire import Answer, Parcel
from taskcore.errors import BrokerUnavailable

__all__ = ["TIMEOUT", "NatsLink", "decode_answer"]

TIMEOUT = 5.0  #: seconds for which an answer is waited for

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def decode_answer(body: bytes) -> dict[str, Any]:
    """The object in these bytes; empty if there is none."""
    try:
        found = _decode(body)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


class NatsLink(Line):
    """One supervised connection, with answers. Use it with ``async with``.

    :param name: what the server's monitoring shows.
    """

    def __init__(self, address: Address, *, name: str = "taskcore") -> None:
        super().__init__(address, name=name)
        self.level = 0  #: of the JetStream API: 1 from NATS 2.11, 2 from 2.12
        self._exchange = Exchange(self._inbox)
        self.listen(self._inbox + b".*.*", self._exchange.take)
        self.on_lost.append(self._exchange.lost)

    async def exchange(
        self, parcels: Sequence[Parcel], *, ahead: bytes = b"", timeout: float = TIMEOUT
    ) -> list[Answer | None]:
        """Send all, in order, and collect each one's answer; None for one that did not come in time.

        :param ahead: frames to be written before them, without answers.
        :raises BrokerUnavailable: nothing was sent.
        """
        return await self._exchange.answers(await self.ready(), parcels, ahead=ahead, timeout=timeout)

    async def round_trip(self, *, timeout: float = TIMEOUT) -> bool:
        """To the server and back: what it sent before has arrived then. False if nothing came back."""
        wire = self._wire
        return wire is not None and wire.alive and await self._exchange.round_trip(wire, timeout=timeout)

    # ── JetStream's API ──

    async def api(self, name: str, body: Any = None, *, timeout: float = TIMEOUT) -> dict[str, Any]:
        """One request to JetStream's API; its answer, which may have an ``error``.

        :raises BrokerUnavailable: no answer came.
        """
        [answer] = await self.exchange([self.request(name, body)], timeout=timeout)
        return self.read(answer, name)

    def request(self, name: str, body: Any = None) -> Parcel:
        """A request to JetStream's API, to be sent with others."""
        return Parcel((self.address.api + name).encode(), b"" if body is None else _encode(body))

    def read(self, answer: Answer | None, name: str = "") -> dict[str, Any]:
        """The answer to such a request.

        :raises BrokerUnavailable: there is none.
        """
        if answer is None:
            raise self.unavailable(f"JetStream did not answer in time{f' to {name}' if name else ''}")
        if answer.status == b"503":
            return {"error": {"code": 503, "err_code": 503, "description": "nobody answers for JetStream"}}
        return decode_answer(answer.body)

    async def _greet(self) -> None:
        self.level = await self._ask_level()

    async def _ask_level(self) -> int:
        """Of JetStream's API; servers before 2.11 do not say one."""
        answer = await self.api("INFO")
        if "error" in answer:
            raise BrokerUnavailable(
                "NATS answers, JetStream does not",
                facts=[str(answer["error"].get("description"))],
                fix="start it with JetStream: nats-server -js   (jetstream {} in its configuration)",
            )
        level = answer.get("api", {}).get("level", 0)
        return int(level) if isinstance(level, int) else 0
