"""PostgreSQL URLs.

postgresql://user:secret@host:5432/database?sslmode=verify-full      everything that libpq knows (also postgres://)
?taskcore_timeout=10                                                 our own option: seconds that a call may take
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec
import psycopg
from psycopg.conninfo import conninfo_to_dict

from taskcore.errors import InvalidURL
from taskcore.toolkit.urls import Reader, mask_url, read_options, refuse_url, seconds

__all__ = ["OPTION_PREFIX", "PostgresAddress", "postgres_address"]

TIMEOUT: Final = 10.0  #: seconds that a call may take
OPTION_PREFIX: Final = "taskcore_"  #: of the options that libpq does not get
EXAMPLE: Final = f"postgresql://user:secret@localhost:5432/database?{OPTION_PREFIX}timeout=10s"
READERS: Final[Mapping[str, Reader]] = {f"{OPTION_PREFIX}timeout": seconds()}


class PostgresAddress(msgspec.Struct, frozen=True):
    """Where the server is.

    :param url: for libpq, with the secrets.
    :param shown: for texts, without.
    """

    url: str
    shown: str
    timeout: float


def postgres_address(url: str) -> PostgresAddress:
    """Read a URL.

    :raises InvalidURL: an option that neither libpq nor taskcore knows, or an impossible value (TC103).
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidURL(f"this PostgreSQL URL cannot be read: {error}", fix=f"for example {EXAMPLE}") from None
    options = parse_qsl(parts.query, keep_blank_values=True)
    ours = [(name, value) for name, value in options if name.startswith(OPTION_PREFIX)]
    query = urlencode([(name, value) for name, value in options if not name.startswith(OPTION_PREFIX)])
    plain = urlunsplit((parts.scheme, parts.netloc, parts.path, query, parts.fragment))
    problems: list[str] = []
    found = read_options(urlencode(ours), READERS, problems)
    try:
        conninfo_to_dict(plain)
    except psycopg.Error as error:
        known = sorted(option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults())
        problems += [f"libpq: {str(error).strip()}", f"libpq knows {', '.join(known)}"]
    if problems:
        refuse_url(url, problems, example=EXAMPLE)
    return PostgresAddress(plain, mask_url(url), found.get(f"{OPTION_PREFIX}timeout", TIMEOUT))
