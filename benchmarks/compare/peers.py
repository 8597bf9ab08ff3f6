"""The peers that take part in a run: their environments are made before anything is measured."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import anyio.to_thread

from taskcore.bench import BenchRecord, Contestant, ProgressDisplay, Skipped

sys.path.insert(0, str(Path(__file__).parents[1] / "peers"))
from environment import Home, PeerFailed, names, prepare, read
from measuring import PARTS, Effort, Measured
from ruler import Peer

__all__ = ["PARTS", "Effort", "Home", "Installed", "Measured", "Peer", "PeerFailed", "install", "wanted"]


class Installed:
    """The peers that take part, each with its environment."""

    def __init__(self) -> None:
        self.homes: list[tuple[Peer, Home]] = []

    def on(self, broker: str) -> list[tuple[Peer, Home]]:
        """Return the peers that know this broker."""
        return [(peer, home) for peer, home in self.homes if broker in peer.brokers]


def wanted(text: str) -> list[str]:
    """Return the peers that a text names: all, none, or some, however their names are written.

    :raises LookupError: one that is not here; the text names those that are.
    """
    chosen = {name.strip().lower() for name in text.split(",")} - {"none", ""}
    if "all" in chosen:
        return names()
    if unknown := chosen - set(names()):
        raise LookupError(f"no peer is called {', '.join(sorted(unknown))}; there are: {', '.join(names())}")
    return [name for name in names() if name in chosen]


async def install(chosen: list[str], progress: ProgressDisplay, on_record: Callable[[BenchRecord], None]) -> Installed:
    """Make the environments that are not there yet. One that cannot be made is recorded, with the reason."""
    installed = Installed()
    for number, name in enumerate(chosen):
        peer = read(name)
        progress.begins("peers", f"install {peer.name}", number, len(chosen))
        start = time.monotonic()
        try:
            home = await anyio.to_thread.run_sync(prepare, peer)
        except PeerFailed as error:
            progress.ends("peers", f"install {peer.name}", time.monotonic() - start, f"skipped: {error}")
            for broker in peer.brokers:
                on_record(Skipped(broker=broker, who=peer.name, scenario="all", why=f"cannot be installed: {error}"))
            continue
        progress.ends("peers", f"install {peer.name}", time.monotonic() - start, home.version)
        installed.homes.append((peer, home))
        on_record(
            Contestant(
                who=peer.name, version=home.version, settings=f"{peer.settings} {peer.guarantee}.", source=peer.source
            )
        )
    return installed
