"""The peers' part of a run: each is installed, measured in a thread of ours, and told about."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
import msgspec

from taskcore.testing.bench import Contestant, Figure, Progress, Record, Size, Skipped, show

sys.path.insert(0, str(Path(__file__).parents[1] / "peers"))
from environment import Home, PeerFailed, names, prepare, read
from measuring import PARTS, Effort, Measured
from ruler import Peer

__all__ = ["PARTS", "Installed", "install", "measure_peer"]


class Installed:
    """The peers that take part, each with its environment."""

    def __init__(self) -> None:
        self.homes: list[tuple[Peer, Home]] = []
        self.missing: list[tuple[Peer, str]] = []

    def on(self, broker: str) -> list[tuple[Peer, Home]]:
        """Those that know this broker."""
        return [(peer, home) for peer, home in self.homes if broker in peer.brokers]


async def install(wanted: list[str], progress: Progress, tell: Callable[[Record], None]) -> Installed:
    """Make the environments that are not there yet. One that cannot be made is told about, with the reason."""
    installed = Installed()
    chosen = [name for name in names() if "all" in wanted or name in wanted]
    for number, name in enumerate(chosen):
        peer = read(name)
        progress.begins("peers", f"install {peer.name}", number, len(chosen))
        start = time.monotonic()
        try:
            home = await anyio.to_thread.run_sync(prepare, peer)
        except PeerFailed as error:
            progress.ends("peers", f"install {peer.name}", time.monotonic() - start, f"skipped: {error}")
            installed.missing.append((peer, str(error)))
            for broker in peer.brokers:
                tell(Skipped(broker=broker, who=peer.name, scenario="all", why=f"cannot be installed: {error}"))
            continue
        progress.ends("peers", f"install {peer.name}", time.monotonic() - start, home.version)
        installed.homes.append((peer, home))
        tell(
            Contestant(
                who=peer.name, version=home.version, settings=f"{peer.settings} {peer.guarantee}.", source=peer.source
            )
        )
    return installed


async def measure_peer(
    peer: Peer,
    home: Home,
    *,
    broker: str,
    url: str,
    results_url: str,
    size: Size,
    parts: list[str],
    broker_cpu: Callable[[], float | None],
    progress: Progress,
    tell: Callable[[Record], None],
) -> None:
    """One peer on one broker."""
    effort = Effort(
        rounds=size.rounds,
        seconds=size.seconds,
        rate=size.arrivals[0][0],
        latency=min(size.arrivals[0][1], 4.0),
        lease=size.lease,
    )
    measured = Measured(peer, home, broker, url, results_url=results_url, effort=effort, broker_cpu=broker_cpu)
    for number, part in enumerate(parts):
        progress.begins(f"{broker}, {peer.name}", part, number, len(parts))
        start = time.monotonic()
        try:
            found: list[dict[str, Any]] = await anyio.to_thread.run_sync(measured.part, part)
        except PeerFailed as error:
            tell(Skipped(broker=broker, who=peer.name, scenario=part, why=f"failed: {error}"))
            progress.ends(f"{broker}, {peer.name}", part, time.monotonic() - start, f"failed: {error}")
            continue
        figures = [msgspec.convert(each, Figure) for each in found]
        if not figures:
            tell(Skipped(broker=broker, who=peer.name, scenario=part, why="it has no such feature"))
        for figure in figures:
            tell(figure)
        outcome = "; ".join(f"{one.name} {show(one.median)} {one.unit}" for one in figures[:2]) or "no such feature"
        progress.ends(f"{broker}, {peer.name}", part, time.monotonic() - start, outcome)
