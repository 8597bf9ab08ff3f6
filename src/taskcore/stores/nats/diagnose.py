"""What a NATS server says about the stream of a store."""

from __future__ import annotations

from typing import Any

from taskcore.connections.nats import NatsLink
from taskcore.toolkit.diagnostics import Diagnosis, passed, warned
from taskcore.toolkit.units import show_rounded

__all__ = ["diagnose"]


async def diagnose(link: NatsLink, stream: str, *, native: bool) -> Diagnosis:
    """Ask the server.

    :param native: whether it removes expired records.
    :raises BrokerUnavailable: it cannot be reached.
    """
    info = await link.api(f"STREAM.INFO.{stream}")
    state: dict[str, Any] = info.get("state") or {}
    expiry = (
        passed("expiry", "the server removes records when their time is over")
        if native
        else warned(
            "expiry",
            "this server has no times to live: the process that wrote a record removes it",
            "upgrade the server to 2.11 or newer",
        )
    )
    return Diagnosis(
        server=f"NATS {link.version}",
        durability="records survive a killed server; a power cut may take the last 2 min",
        checks=(passed("records", f"{state.get('messages', 0):,}, {show_rounded(state.get('bytes', 0))}"), expiry),
    )
