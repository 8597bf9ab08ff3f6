"""``taskcore conformance``: play the whole suite on a broker, and say clause by clause what it keeps."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import anyio
import click

from taskcore.cli.root import DEBUG, Exit, paint

if TYPE_CHECKING:
    from taskcore.conformance import Certificate, CheckResult

__all__ = ["command"]

COLOURS = {"kept": "green", "emulated": "green", "refused": "yellow", "broken": "red"}


@click.command("conformance", short_help="What a broker keeps of the delivery contract")
@click.argument("url")
@click.option("--store", metavar="URL", help="Keep records here, for a broker that has no store of its own.")
@click.option("--only", multiple=True, metavar="C7,…", help="Play these clauses, or checks of these names, only.")
@click.option("--json", "as_json", is_flag=True, help="The certificate as one JSON object.")
@DEBUG
def command(url: str, store: str | None, only: tuple[str, ...], as_json: bool) -> int:
    """Play the conformance suite on the broker at URL, and print what it keeps.

    It makes queues and records with names of its own and deletes them at the end; others are not touched. It takes a
    minute or less. The exit code is 0 if nothing is broken, else 1.
    """
    from taskcore.conformance import certify

    logging.getLogger("taskcore").addHandler(logging.NullHandler())  # dying workers have much to tell; here it is noise
    names = [name.strip() for part in only for name in part.split(",") if name.strip()]
    progress = _overwrite if sys.stderr.isatty() else _tell
    run: Callable[[], object] = partial(certify, url, store=store, only=names or None, on_progress=progress)
    certificate: Certificate = anyio.run(run)  # type: ignore[arg-type]
    if sys.stderr.isatty():
        click.echo("\r\033[K", err=True, nl=False)
    click.echo(certificate.json() if as_json else certificate.report(), nl=as_json)
    return Exit.DONE if certificate.is_kept else Exit.FAILED


def _overwrite(result: CheckResult, left: int) -> None:
    """One line that changes, and one that stays for each broken promise."""
    if result.standing == "broken":
        click.echo(f"\r\033[K{_line(result)}", err=True)
    click.echo(f"\r\033[K{left} checks to go; {result.check.replace('_', ' ')}", err=True, nl=False)


def _tell(result: CheckResult, left: int) -> None:
    """One line for each check, for logs."""
    click.echo(f"{_line(result)} ({left} to go)", err=True)


def _line(result: CheckResult) -> str:
    word = paint(result.standing, COLOURS[result.standing], sys.stderr)
    return f"{word} {result.check} in {result.seconds:.1f} s{result.why and f': {result.why}'}"
