"""``taskcore conformance``: run the suite on a broker; report guarantee by guarantee which it keeps."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import anyio
import click

from taskcore.cli.group import DEBUG, Exit
from taskcore.cli.output import is_terminal, paint, print_line, say

if TYPE_CHECKING:
    from taskcore.conformance import Certificate, CheckResult

__all__ = ["command"]

COLOURS = {"kept": "green", "emulated": "green", "refused": "yellow", "broken": "red"}


@click.command("conformance", short_help="Which guarantees a broker keeps")
@click.argument("url")
@click.option("--store", metavar="URL", help="Keep records here, for a broker that has no store of its own.")
@click.option("--only", multiple=True, metavar="C7,…", help="Run only these clauses, or checks of these names.")
@click.option("--json", "as_json", is_flag=True, help="The certificate as one JSON object.")
@DEBUG
def command(url: str, store: str | None, only: tuple[str, ...], as_json: bool) -> int:
    """Run the conformance suite on the broker at URL, and print which guarantees it keeps.

    It makes queues and records with names of its own and deletes them at the end; it touches no others. It takes a
    minute or less. The exit code is 0 if nothing is broken, else 1.
    """
    from taskcore.conformance import certify

    logging.getLogger("taskcore").addHandler(logging.NullHandler())  # the log of dying workers is noise here
    names = [name.strip() for part in only for name in part.split(",") if name.strip()]
    progress = _overwrite if is_terminal(sys.stderr) else _print_result
    run: Callable[[], object] = partial(certify, url, store=store, only=names or None, on_progress=progress)
    certificate: Certificate = anyio.run(run)  # type: ignore[arg-type]
    if is_terminal(sys.stderr):
        say("\r\033[K", end="")
    print_line(certificate.json() if as_json else certificate.report().removesuffix("\n"))
    return Exit.DONE if certificate.is_kept else Exit.FAILED


def _overwrite(result: CheckResult, left: int) -> None:
    """Show progress on one line, and a line that stays for each broken guarantee."""
    if result.standing == "broken":
        say(f"\r\033[K{_line(result)}")
    say(f"\r\033[K{left} checks to go; {result.check.replace('_', ' ')}", end="")


def _print_result(result: CheckResult, left: int) -> None:
    """Show one line for each check, for logs."""
    say(f"{_line(result)} ({left} to go)")


def _line(result: CheckResult) -> str:
    word = paint(result.standing, COLOURS[result.standing], sys.stderr)
    return f"{word} {result.check} in {result.seconds:.1f} s{result.why and f': {result.why}'}"
