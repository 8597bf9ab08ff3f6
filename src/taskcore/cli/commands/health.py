"""``taskcore health``: asks a worker of this machine how it is; for probes. It imports no app."""

from __future__ import annotations

import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import click

from taskcore.cli.group import APP_DIR, DEBUG, Exit
from taskcore.cli.output import JSON, print_json, print_line
from taskcore.config import load
from taskcore.toolkit.units import duration

__all__ = ["command"]

PATIENCE = 5.0  #: seconds for an answer


@click.command("health", short_help="Whether a worker lives; for probes")
@click.argument("place", required=False, metavar="[FILE | HOST:PORT]")
@click.option("--ready", is_flag=True, help="Whether it is connected and receives, too.")
@click.option("--within", default="10s", show_default=True, metavar="TIME", help="How old a sign of life may be.")
@JSON
@APP_DIR
@DEBUG
def command(place: str | None, ready: bool, within: str, as_json: bool, app_dir: str) -> int:
    """Ask a worker how it is: by the file of its --health-file, or at the address of its --health.

    Without either: what the settings `health_file` or `health` name. The exit code is 0 or 1.
    """
    limit = duration(within)
    if place is None:
        settings = load(directory=app_dir).settings
        place = settings.health_file or settings.health
        if place is None:
            raise click.UsageError("name the worker's health file, or the address of its --health")
    host, colon, port = place.rpartition(":")
    is_address = bool(colon) and port.isdigit()
    good, why = _ask(host, int(port), ready=ready, within=limit) if is_address else _read(Path(place), ready, limit)
    if as_json:
        print_json({"ok": good, "why": why})
    else:
        print_line("ok" if good else why)
    return Exit.DONE if good else Exit.FAILED


def _read(path: Path, ready: bool, within: float) -> tuple[bool, str]:
    """Read a health file: its age says live, its first word ready."""
    try:
        age, text = time.time() - path.stat().st_mtime, path.read_text("utf-8").strip()
    except OSError as error:
        return False, f"{path}: {error.strerror or error}"
    if age > within:
        return False, f"the worker last gave a sign of life {age:.0f} s ago"
    word, _, why = text.partition(" ")
    return (True, "") if not ready or word == "ready" else (False, why or "the worker does not receive jobs")


def _ask(host: str, port: int, *, ready: bool, within: float) -> tuple[bool, str]:
    connection = HTTPConnection(host.strip("[]") or "127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", f"/{'ready' if ready else 'live'}?within={within:g}s")
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace").strip()
    except (OSError, HTTPException) as error:
        return False, f"{host}:{port}: {error}"
    finally:
        connection.close()
    return answer.status == 200, text  # noqa: PLR2004 - HTTP's OK
