"""Health: is the process alive, is it receiving, and how probes learn it.

live      the event loop turns; a supervisor is live if the loops of all its worker processes turn
ready     connected and receiving; a supervisor is ready if at least one of its worker processes is

An HTTP responder answers in a thread, so that it can say that the loop does not turn.
"""

from __future__ import annotations

import errno
import http.server
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

import anyio
import msgspec

from taskcore.errors import InvalidSetting
from taskcore.supervisor.notify import Notifier
from taskcore.toolkit.units import duration

__all__ = ["LIVE_WITHIN", "Health", "Judge", "announce", "answering"]

LIVE_WITHIN = 10.0  #: seconds without a turn of the loop after which it counts as blocked
CHECK_EVERY = 1.0  #: seconds between two looks, for the file and for systemd
REQUEST_TIMEOUT = 5.0  #: seconds for a client to send its request


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How it is.

    :param why: what is missing, for people; empty if nothing is.
    """

    live: bool
    ready: bool
    why: str = ""


#: Tells how it is; a loop counts as blocked after so many seconds.
Judge: TypeAlias = Callable[[float], Health]


@contextmanager
def answering(place: str | None, judge: Judge) -> Iterator[None]:
    """Answer ``GET /live`` and ``GET /ready`` at ``host:port`` with 200 or 503, beside the body; None: nowhere.

    :raises InvalidSetting: the port is taken, or the host is not of this machine (TC104).
    """
    if place is None:
        yield
        return
    server = _bind(place, judge)
    thread = threading.Thread(target=server.serve_forever, name="taskcore-health", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _bind(place: str, judge: Judge) -> http.server.ThreadingHTTPServer:
    host, _, port = place.rpartition(":")
    host = host.strip("[]")

    class HealthServer(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        allow_reuse_address = os.name == "posix"  # elsewhere it would let two programs share the port
        allow_reuse_port = False
        daemon_threads = True

    class HealthAnswer(_HealthRequest):
        report = staticmethod(judge)

    try:
        return HealthServer((host, int(port)), HealthAnswer)
    except OSError as error:
        fix = "name an address of this machine, such as 0.0.0.0:8080, and a port that this user may open"
        if error.errno == errno.EADDRINUSE:
            fix = "give each `taskcore worker` a port of its own; its processes (--processes) share one"
        what = f"--health {place}: cannot listen there: {error.strerror or error}"
        raise InvalidSetting(what, fix=fix) from error


class _HealthRequest(http.server.BaseHTTPRequestHandler):
    """Answers one request."""

    report: Judge
    timeout = REQUEST_TIMEOUT
    server_version, sys_version = "taskcore", ""

    def do_GET(self) -> None:
        """Answer."""
        url = urlsplit(self.path)
        if url.path not in {"/live", "/ready"}:
            self._answer(HTTPStatus.NOT_FOUND, {"error": "ask for /live or /ready"})
            return
        try:
            within = duration(parse_qs(url.query).get("within", [str(LIVE_WITHIN)])[0])
        except InvalidSetting:
            self._answer(HTTPStatus.BAD_REQUEST, {"error": "within is not a time, such as 30s"})
            return
        health = self.report(within)
        good = health.live if url.path == "/live" else health.live and health.ready
        self._answer(HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE, health)

    do_HEAD = do_GET  # noqa: N815 - as above

    def _answer(self, status: HTTPStatus, body: Any) -> None:
        data = msgspec.json.encode(body) + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *_: Any) -> None:
        """Log nothing: probes come every few seconds."""


async def announce(judge: Judge, file: str | None, notifier: Notifier) -> None:
    """Renew the health file and tell systemd, until cancelled."""
    every = min(CHECK_EVERY, notifier.pause or CHECK_EVERY)
    path = Path(file) if file is not None else None
    if path is not None:
        _create(path)
    try:
        while True:
            health = judge(LIVE_WITHIN)
            notifier.tell_health(live=health.live, ready=health.ready)
            if path is not None and health.live:
                with suppress(OSError):  # a full disk makes the file old, and the probe fails
                    _renew(path, health)
            await anyio.sleep(every)
    finally:
        notifier.tell("STOPPING=1")
        if path is not None:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _create(path: Path) -> None:
    """Write the file for the first time.

    :raises InvalidSetting: it cannot be written (TC104).
    """
    try:
        _renew(path, Health(live=True, ready=False, why="starting"))
    except OSError as error:
        why = error.strerror or str(error)
        raise InvalidSetting(f"--health-file {path}: {why}", fix="name a file that this user can write") from error


def _renew(path: Path, health: Health) -> None:
    """Write what a probe looks for: the age of the file says live, its first word says ready."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_text(f"{'ready' if health.ready else 'waiting'} {health.why}".strip() + "\n", "utf-8")
    beside.replace(path)
