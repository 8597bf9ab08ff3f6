"""systemd's notifications: READY=1, STOPPING=1, and WATCHDOG=1 where a watchdog is set."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

__all__ = ["Notifier"]


class Notifier:
    """Tells systemd how this process is; does nothing where systemd does not listen."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        is_meant = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        limit = environ.get("WATCHDOG_USEC", "") if self._address and is_meant else ""
        #: Seconds between two signs of life, less than half of the watchdog's limit; None without a watchdog.
        self.pause = int(limit) / 3e6 if limit.isdigit() and int(limit) else None
        self._is_ready = False

    def tell(self, state: str) -> None:
        """Send one notification."""
        if self._address and hasattr(socket, "AF_UNIX"):
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
                connection.sendto(state.encode(), self._address)

    def tell_health(self, *, live: bool, ready: bool) -> None:
        """Send what follows from the health: READY=1 once, WATCHDOG=1 each time."""
        if ready and not self._is_ready:
            self._is_ready = True
            self.tell("READY=1")
        if live and self.pause is not None:
            self.tell("WATCHDOG=1")
