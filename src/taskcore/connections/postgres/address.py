"""PostgreSQL URLs.

postgresql://user:secret@host:5432/database?sslmode=verify-full      everything that libpq knows (also postgres://)
?taskcore_timeout=10                                                 our own option: seconds that a call may take
?listen=no                                                           our own, for poolers that change server sessions
                                                                     between transactions: poll, and set nothing there
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec
import psycopg
from psycopg.conninfo import conninfo_to_dict

from taskcore.toolkit.urls import ESCAPES, Reader, mask_url, read_options, refuse_url, seconds, split_url, yes_or_no

__all__ = ["OPTION_PREFIX", "PostgresAddress", "postgres_address"]

TIMEOUT: Final = 10.0  #: seconds that a call may take
OPTION_PREFIX: Final = "taskcore_"  #: of the options that libpq does not get
EXAMPLE: Final = f"postgresql://user:secret@localhost:5432/database?{OPTION_PREFIX}timeout=10s"
READERS: Final[Mapping[str, Reader]] = {f"{OPTION_PREFIX}timeout": seconds(), "listen": yes_or_no}


class PostgresAddress(msgspec.Struct, frozen=True):
    """Where the server is.

    :param url: for libpq, with the secrets.
    :param shown: for texts, without.
    :param listens: each connection has a server session of its own, which can listen.
    """

    url: str
    shown: str
    timeout: float
    listens: bool = True

    def __repr__(self) -> str:
        return f"PostgresAddress({self.shown!r})"


def postgres_address(url: str) -> PostgresAddress:
    """Read a URL.

    :raises InvalidURL: an option that neither libpq nor taskcore knows, or an impossible value (TC103).
    """
    parts = split_url(url, example=EXAMPLE)
    options = parse_qsl(parts.query, keep_blank_values=True)
    ours = [(name, value) for name, value in options if _is_ours(name)]
    query = urlencode([(name, value) for name, value in options if not _is_ours(name)])
    plain = urlunsplit((parts.scheme, parts.netloc, parts.path, query, parts.fragment))
    problems: list[str] = []
    found = read_options(urlencode(ours), READERS, problems)
    problems += _libpq_problems(plain)
    if parts.netloc.count("@") > 1:  # libpq takes the first for the end of the login
        problems = [ESCAPES]
    if problems:
        refuse_url(url, problems, example=EXAMPLE)
    return PostgresAddress(
        plain, mask_url(url), found.get(f"{OPTION_PREFIX}timeout", TIMEOUT), found.get("listen", True)
    )


def _is_ours(name: str) -> bool:
    return name.startswith(OPTION_PREFIX) or name in READERS


def _libpq_problems(url: str) -> list[str]:
    try:
        conninfo_to_dict(url)
    except psycopg.Error as error:
        text = str(error).strip()
    else:
        return []
    known = sorted(option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults())
    return [f"libpq: {_without_values(text, url)}", f"libpq knows {', '.join(known)}"]


def _without_values(text: str, url: str) -> str:
    """Cut an error of libpq before the part of the URL that it quotes, unless that is the name of the first option."""
    why, _, quoted = text.partition('"')
    first = parse_qsl(urlsplit(url).query, keep_blank_values=True)[:1]
    is_name = bool(first) and first[0][0].isidentifier() and quoted.startswith(f'{first[0][0]}"')
    return f"{why}{first[0][0]!r}" if is_name else why.strip().rstrip(":")
