"""Options and secrets in URLs, read the same way by every adapter.

    redis://user:secret@host  →  redis://user:****@host

An adapter lists the options that it knows with a reader for each. An option that is unknown, given twice or impossible
is a problem: a typo without an effect would go unnoticed. All problems of a URL are reported at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias
from urllib.parse import parse_qsl

from taskcore.errors import InvalidSetting, InvalidURL
from taskcore.toolkit.units import duration, size

__all__ = [
    "Reader",
    "choice",
    "mask_url",
    "matching",
    "positive_size",
    "read_options",
    "readable_file",
    "refuse_url",
    "seconds",
    "text",
    "whole",
    "yes_or_no",
]

#: Turns the text of an option into its value; raises ValueError, OSError or InvalidSetting if it cannot.
Reader: TypeAlias = Callable[[str], Any]


# ── options ──────────────────────────────────────────────────────────────────────────────────────


def read_options(query: str, readers: Mapping[str, Reader], problems: list[str]) -> dict[str, Any]:
    """Read the options behind the question mark of a URL; values by name, of those that are given and possible.

    :param readers: the options that the adapter knows.
    :param problems: gets a line for each option that cannot be used; secrets do not appear in it.
    """
    found: dict[str, Any] = {}
    seen: set[str] = set()
    for name, given in parse_qsl(query, keep_blank_values=True):
        reader = readers.get(name)
        if reader is None:
            problems.append(f"unknown option {name!r}; known are {', '.join(readers)}")
        elif name in seen:
            problems.append(f"{name} is given twice")
        else:
            try:
                found[name] = reader(given)
            except (InvalidSetting, ValueError, OSError) as error:
                secret = re.search(_HIDDEN_NAME, name) is not None
                why = error.what if isinstance(error, InvalidSetting) else str(error)
                problems.append(f"{name}: {'not usable' if secret else why}")
        seen.add(name)
    return found


def refuse_url(url: str, problems: Sequence[str], *, example: str) -> NoReturn:
    """Raise the error for a URL with these problems.

    :raises InvalidURL: always (TC103).
    """
    raise InvalidURL(f"cannot use the URL {mask_url(url)!r}", facts=problems, fix=f"for example {example}")


# ── readers ──────────────────────────────────────────────────────────────────────────────────────


def whole(least: int = 0, most: int = 2**53) -> Reader:
    """Return a reader of whole numbers within these bounds."""

    def read(given: str) -> int:
        if not (given.isascii() and given.isdigit()):
            raise ValueError(f"expected a whole number, got {given!r}")
        if not least <= int(given) <= most:
            bounds = f"of at least {least}" if most == 2**53 else f"from {least} to {most}"
            raise ValueError(f"expected a whole number {bounds}, got {given!r}")
        return int(given)

    return read


def seconds(least: float = 0.0, most: float = math.inf, *, above_zero: bool = True) -> Reader:
    """Return a reader of times within these bounds: ``10``, ``250ms``, ``1h30m``."""

    def read(given: str) -> float:
        value = duration(given)
        if above_zero and value <= 0:
            raise ValueError("expected a time above 0")
        if not least <= value <= most:
            bounds = f"of at least {least:g} s" if most == math.inf else f"from {least:g} s to {most:g} s"
            raise ValueError(f"expected a time {bounds}, got {given!r}")
        return value

    return read


def positive_size(given: str) -> int:
    """Read a size above 0: ``1048576``, ``256KiB``, ``1GB``."""
    if (number := size(given)) <= 0:
        raise ValueError("expected a size above 0")
    return number


def yes_or_no(given: str) -> bool:
    """Read ``yes`` or ``no``."""
    if given not in {"yes", "no"}:
        raise ValueError(f'expected "yes" or "no", got {given!r}')
    return given == "yes"


def choice(*known: str) -> Reader:
    """Return a reader of one of these words."""

    def read(given: str) -> str:
        if given not in known:
            raise ValueError(f"expected {' or '.join(known)}, got {given!r}")
        return given

    return read


def matching(pattern: str, expected: str) -> Reader:
    """Return a reader of text that matches the pattern; ``expected`` describes it."""

    def read(given: str) -> str:
        if not re.fullmatch(pattern, given):
            raise ValueError(f"expected {expected}, got {given!r}")
        return given

    return read


def text(given: str) -> str:
    """Read any text that is not empty."""
    if not given:
        raise ValueError("it is empty")
    return given


def readable_file(given: str) -> str:
    """Read the path of a file that this process may read."""
    with open(given, "rb"):  # noqa: PTH123 - only whether it can be opened matters
        return given


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────

# Patterns as text: `re` compiles them when they are used, which a program that only declares tasks never does.
_HIDDEN_NAME = r"(?i)password|passwd|pwd|token|secret"
_START = r"((?:^|,)[\w+.-]+://)"  # a URL may be a list of URLs
_USER = _START + r"([^/?#]*)@"  # greedy: a password may hold an "@" of its own,
_SLOPPY = _START + r"([^/?#:]*:(?!\d+(?:/[^@?]*)?(?:[?,]|$)).*)@"  # and, against the rules, "/", "?", "#"
_HIDDEN = r"(?i)(?<=[?&])([\w-]*(?:password|passwd|pwd|token|secret)[\w-]*)=[^&#]*"


def mask_url(url: str) -> str:
    """Return the URL without its secrets: ``redis://user:****@host``. On NATS a user alone is a token: hide it too."""

    def mask(found: re.Match[str]) -> str:
        user, colon, _ = found[2].partition(":")
        if colon:
            return f"{found[1]}{user}:****@"
        return f"{found[1]}{'****' if user and url.startswith(('nats', 'tls')) else user}@"

    return re.sub(_HIDDEN, r"\1=****", re.sub(_USER if re.match(_USER, url) else _SLOPPY, mask, url))
