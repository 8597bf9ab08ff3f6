"""NatsLink: one supervised connection to a NATS server or cluster, with requests and JetStream's API.

async with NatsLink(address, name="worker") as link:
answers = await link.request_all([Message(…), …])    each with its answer, or None
info = await link.api("STREAM.INFO.x")               JetStream's API, as a dict
link.subscribe(subject, handler)                     lives through reconnects
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from taskcore.connections.nats.address import NatsAddress
from taskcore.connections.nats.connection import SupervisedConnection
from taskcore.connections.nats.protocol import Answer, Message
from taskcore.connections.nats.requests import Requests
from taskcore.errors import BrokerUnavailable

__all__ = ["TIMEOUT", "NatsLink", "decode_answer"]

TIMEOUT: Final = 5.0  #: seconds for which an answer is waited for

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def decode_answer(body: bytes) -> dict[str, Any]:
    """Return the object in these bytes; empty if there is none."""
    try:
        found = _decode(body)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


class NatsLink(SupervisedConnection):
    """One supervised connection, with answers. Use it with ``async with``.

    :param name: what the server's monitoring shows.
    """

    def __init__(self, address: NatsAddress, *, name: str = "taskcore") -> None:
        super().__init__(address, name=name)
        self.level = 0  #: of the JetStream API: 1 from NATS 2.11, 2 from 2.12
        self._requests = Requests(self._inbox)
        self.subscribe(self._inbox + b".*.*", self._requests.take)
        self.on_lost.append(self._requests.wake_all)

    async def request_all(
        self, messages: Sequence[Message], *, ahead: bytes = b"", timeout: float = TIMEOUT
    ) -> list[Answer | None]:
        """Send all, in order, and collect each one's answer; None for one that did not come in time.

        :param ahead: frames to be written before them, without answers.
        :raises BrokerUnavailable: nothing was sent.
        """
        return await self._requests.send(await self.ready(), messages, ahead=ahead, timeout=timeout)

    # ── JetStream's API ──

    async def api(self, name: str, body: Any = None, *, timeout: float = TIMEOUT) -> dict[str, Any]:
        """Send one request to JetStream's API; return its answer, which may have an ``error``.

        :raises BrokerUnavailable: no answer came.
        """
        [answer] = await self.request_all([self.api_request(name, body)], timeout=timeout)
        return self.read_answer(answer, name)

    def api_request(self, name: str, body: Any = None) -> Message:
        """Return a request to JetStream's API, to be sent with others."""
        return Message((self.address.api + name).encode(), b"" if body is None else _encode(body))

    def read_answer(self, answer: Answer | None, name: str = "") -> dict[str, Any]:
        """Return the answer to such a request.

        :raises BrokerUnavailable: there is none.
        """
        if answer is None:
            raise self.unavailable(f"JetStream did not answer in time{f' to {name}' if name else ''}")
        if answer.status == b"503":
            return {"error": {"code": 503, "err_code": 503, "description": "no server answers for JetStream"}}
        return decode_answer(answer.body)

    async def _greet(self) -> None:
        """Ask for the level of JetStream's API; servers before 2.11 do not say one."""
        answer = await self.api("INFO")
        if "error" in answer:
            raise BrokerUnavailable(
                "NATS answers, JetStream does not",
                facts=[str(answer["error"].get("description"))],
                fix="start it with JetStream: nats-server -js   (jetstream {} in its configuration)",
            )
        level = answer.get("api", {}).get("level", 0)
        self.level = int(level) if isinstance(level, int) else 0
