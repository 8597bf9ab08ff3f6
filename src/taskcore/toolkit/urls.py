"""Options and secrets in URLs, read the same way by every adapter.

    redis://user:secret@host  →  redis://****@host

An adapter splits a URL with :func:`split_url` and lists the options that it knows with a reader for each. An option
that is unknown, given twice or impossible is a problem: a typo without an effect would go unnoticed. All problems of a
URL are reported at once, and no text about a URL shows a part that may be a secret.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NoReturn, TypeAlias
from urllib.parse import SplitResult, unquote_plus, urlsplit

from taskcore.errors import InvalidSetting, InvalidURL
from taskcore.toolkit.units import duration, size

__all__ = [
    "ESCAPES",
    "SHOWN_OPTIONS",
    "Reader",
    "choice",
    "mask_text",
    "mask_url",
    "matching",
    "positive_size",
    "read_options",
    "readable_file",
    "refuse_url",
    "scheme_of",
    "seconds",
    "split_url",
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
    hidden = False  # behind a hidden value everything may be a piece of it
    for option in filter(None, query.split("&")):
        name, equals, given = map(unquote_plus, option.partition("="))
        reader = readers.get(name)
        if not equals or (reader is None and (hidden or not name.isidentifier())):
            problems.append("an option has no name, no value, or a name that is not known")
        elif reader is None:
            problems.append(f"unknown option {name!r}; known are {', '.join(readers)}")
        elif name in seen:
            problems.append(f"{name} is given twice")
        else:
            try:
                found[name] = reader(given)
            except (InvalidSetting, ValueError, OSError) as error:
                hidden = hidden or name not in SHOWN_OPTIONS
                problems.append(f"{name}: {_why(error, hidden=hidden)}")
        seen.add(name)
        hidden = hidden or name not in SHOWN_OPTIONS
    return found


def _why(error: Exception, *, hidden: bool) -> str:
    if not hidden:
        return error.what if isinstance(error, InvalidSetting) else str(error)
    return f"[Errno {error.errno}] {error.strerror}" if isinstance(error, OSError) else "not usable"


# ── whole URLs ───────────────────────────────────────────────────────────────────────────────────


def split_url(url: str, *, example: str) -> SplitResult:
    """Split a URL of which it is certain where each part ends.

    :raises InvalidURL: it is not, because a password has characters that are not escaped (TC103).
    """
    parts: SplitResult | None = None
    with suppress(ValueError):  # its text repeats parts of the URL
        parts = urlsplit(url)
    if parts is None or not _is_certain(url):
        refuse_url(url, [ESCAPES], example=example)
    return parts


def refuse_url(url: str, problems: Sequence[str], *, example: str) -> NoReturn:
    """Raise the error for a URL with these problems.

    :raises InvalidURL: always (TC103).
    """
    facts = problems if _is_certain(url) else [ESCAPES]
    raise InvalidURL(f"cannot use the URL {mask_url(url)!r}", facts=facts, fix=f"for example {example}") from None


def scheme_of(url: str) -> str:
    """Return the scheme of a URL in lower case; "" for a text that has none."""
    found = re.match(_SCHEME, url)
    return "" if found is None else found[1].lower()


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

HIDDEN: Final = "****"  #: stands for a part that is not shown

#: Options whose values are no secrets. Every other value is hidden: a misspelt ``?pasword=`` is unknown, too.
SHOWN_OPTIONS: Final = frozenset({
    "age", "ca", "cafile", "cert", "certfile", "connect_timeout", "consumer_timeout", "db", "domain", "heartbeat",
    "limit", "max_bytes", "min_queue_age", "prefix", "queue_type", "replicas", "ssl_ca_certs", "ssl_certfile",
    "sslmode", "storage", "synchronous", "target_session_attrs", "taskcore_timeout", "timeout", "tls", "tls_first",
    "wait", "wait_timeout",
})  # fmt: skip

ESCAPES: Final = (
    "a server is not host or host:port, or the login has a character that ends it: "
    "in a user name or a password # is written %23, / %2F, ? %3F, @ %40, % %25, [ %5B"
)
LISTS_OF_URLS: Final = ("nats", "tls")  #: schemes that each server of a list may repeat

# Patterns as text: `re` compiles them when they are used, which a program that only declares tasks never does.
_SCHEME = r"([A-Za-z][A-Za-z0-9+.-]*)://"
_PARTS = rf"(?s){_SCHEME}([^/?#]*)([^?#]*)(?:\?([^#]*))?(#.*)?"
_HOST = r"(?:[\w.%-]*|\[[0-9A-Fa-f:.%]+\])(?::\d{1,5})?"
_HOSTS = rf"{_HOST}(?:,{_HOST})*"
_PATH = r"[\w.~%/+:-]*"
_IN_TEXT = rf"(?:{_SCHEME}[^\n]*|[\w+.%-]*:\S*@[^\n]*)"


def mask_url(url: str) -> str:
    """Return the URL without its secrets: ``redis://****@host``.

    The user name is hidden too: on some servers a user alone is a token. Where unescaped characters leave it uncertain
    which part is the password, only the scheme is shown; without a scheme nothing is.
    """
    parts = _parts_of(url)
    if parts is None:
        return HIDDEN
    scheme, authority, path, query, fragment = parts
    if not _is_certain(url) or "@" in path + query + fragment:
        return f"{scheme}://{HIDDEN}"
    login, at, hosts = authority.rpartition("@")
    shown = f"{scheme}://{HIDDEN if login else ''}{at}{hosts}"
    shown += path if re.fullmatch(_PATH, path) else f"/{HIDDEN}"
    if query:
        shown += f"?{_mask_query(query)}"
    return f"{shown}#{HIDDEN}" if fragment else shown


def mask_text(text: str) -> str:
    """Return a text that is not ours, such as an error or a line of code, without what looks like a URL in it."""
    return re.sub(_IN_TEXT, lambda found: f"{found[1]}://{HIDDEN}" if found[1] else HIDDEN, text)


def _mask_query(query: str) -> str:
    """Hide everything from the first hidden value on: an & may belong to it."""
    shown: list[str] = []
    for option in query.split("&"):
        name, equals, _ = option.partition("=")
        if name not in SHOWN_OPTIONS:
            return "&".join([*shown, f"{name}={HIDDEN}" if equals and name.isidentifier() else HIDDEN])
        shown.append(option)
    return "&".join(shown)


def _parts_of(url: str) -> tuple[str, str, str, str, str] | None:
    """Split a URL into scheme, authority, path, query and fragment; None if it has no scheme."""
    if scheme_of(url) in LISTS_OF_URLS:
        url = re.sub(rf",(?i:{'|'.join(LISTS_OF_URLS)})://", ",", url)
    found = re.fullmatch(_PARTS, url)
    return None if found is None else (found[1], found[2], found[3], found[4] or "", found[5] or "")


def _is_certain(url: str) -> bool:
    """Tell whether it is certain where the login ends: a host follows it, and no @ comes after that."""
    parts = _parts_of(url)
    if parts is None or not url.isprintable():  # urlsplit removes tabs and newlines without a word
        return False
    _, authority, path, query, fragment = parts
    has_host = re.fullmatch(_HOSTS, authority.rpartition("@")[2]) is not None
    return has_host and not (authority and "@" in path + query + fragment)
