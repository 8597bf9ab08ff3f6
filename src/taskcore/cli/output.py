"""Output of commands: results on stdout as lines, tables or JSON; everything else on stderr."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TextIO

import click
import msgspec

__all__ = [
    "JSON",
    "is_terminal",
    "paint",
    "print_json",
    "print_line",
    "print_table",
    "say",
    "survive_encodings",
]

#: for every reading command: one JSON object a line
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


def print_line(line: str | bytes) -> None:
    """Print one line of a result."""
    click.echo(line)


def print_json(value: Any) -> None:
    """Print one result as JSON, on one line."""
    click.echo(msgspec.json.encode(value))


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under coloured titles, each column as wide as its widest text, but the last."""
    widths = [max(len(row[column]) for row in (titles, *rows)) for column in range(len(titles) - 1)]
    for number, row in enumerate((titles, *rows)):
        line = "  ".join([*(f"{text:{width}}" for text, width in zip(row, widths, strict=False)), row[-1]])
        click.echo(line if number else paint(line, "cyan", sys.stdout))


def say(line: str, *, end: str = "\n") -> None:
    """Print to stderr, in order with the log; a full disk or a reader that has gone ends no worker."""
    with suppress(OSError):
        click.echo(line + end, err=True, nl=False)


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether a person reads the stream; there may be none, as in a service of Windows."""
    try:
        return stream is not None and stream.isatty()
    except (OSError, ValueError):  # it is closed
        return False


def survive_encodings() -> None:
    """Escape what the locale's encoding does not have, instead of failing: the banner has signs beyond ASCII."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def paint(text: str, colour: str, stream: TextIO | None) -> str:
    """Colour a text, if the stream is a terminal and NO_COLOR is not set."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not is_terminal(stream):
        return text
    return click.style(text, fg=colour, bold=True)
