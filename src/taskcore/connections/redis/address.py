"""What a Redis URL says.

    redis://[user:password@]host[:port][/database]          rediss:// and valkeys:// with TLS
    unix://[user:password@]/path/to/socket[?db=0]
    redis+sentinel://[user:password@]host:port,host:port/service[/database]
    redis+cluster://[user:password@]host:port,host:port/

Options follow a question mark. Whatever is not known is refused: an option with a typo would have
no effect, silently.
"""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from taskcore.errors import InvalidSetting, InvalidURL
from taskcore.toolkit.units import duration
from taskcore.toolkit.urls import mask_url

__all__ = ["Address", "Options", "read_url"]

PORT, SENTINEL_PORT = 6379, 26379
LIMIT = 10_000_000  #: jobs and dead letters that a queue holds unless the URL says otherwise

Kind: TypeAlias = Literal["one", "sentinel", "cluster"]
KINDS: Mapping[str, tuple[Kind, bool]] = {
    "redis": ("one", False), "rediss": ("one", True), "valkey": ("one", False), "valkeys": ("one", True),
    "unix": ("one", False), "redis+sentinel": ("sentinel", False), "redis+cluster": ("cluster", False),
}  # fmt: skip
EXAMPLES = "redis://localhost:6379/0   redis+sentinel://s1:26379,s2:26379/mymaster/0   redis+cluster://c1:6379,c2:6379/"


class Address(NamedTuple):
    """Where a server listens; port 0: a Unix socket at the path ``host``."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.port else self.host


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """A Redis URL, read.

    :param shown: the URL without its secrets, for texts.
    :param seeds: the server; with Sentinel the sentinels, with Cluster some of its nodes.
    :param service: the name under which the sentinels know the primary.
    :param prefix: how all our keys begin; two applications on one server take different ones.
    :param limit: jobs and dead letters that a queue holds before it refuses.
    :param wait: how many replicas have to have an enqueued job before it counts as stored (``WAIT``).
    :param wait_timeout: seconds to wait for them.
    :param timeout: seconds for one command.
    :param connect_timeout: seconds for one connection.
    """

    shown: str
    kind: Kind
    seeds: tuple[Address, ...]
    service: str = ""
    database: int = 0
    username: str | None = None
    password: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    tls: Mapping[str, Any] | None = None
    prefix: str = "tc"
    limit: int = LIMIT
    wait: int = 0
    wait_timeout: float = 1.0
    timeout: float = 5.0
    connect_timeout: float = 3.0


def read_url(url: str) -> Options:
    """Everything that the URL says.

    :raises InvalidURL: it cannot be meant; all problems at once (TC103).
    """
    problems: list[str] = []
    parts = urlsplit(url)
    kind, tls = KINDS[parts.scheme]
    found: dict[str, Any] = _read_options(parts.query, problems)
    if parts.fragment:
        problems.append("a # in a name is written %23")
    authority, _, hosts = parts.netloc.rpartition("@")
    username, _, password = authority.partition(":")
    seeds: tuple[Address, ...]
    if parts.scheme == "unix":
        seeds = (Address(unquote(parts.path), 0),)
        if not parts.path.strip("/") or hosts:
            problems.append("a socket has a path and no host: unix:///run/redis/redis.sock")
    else:
        seeds = tuple(_read_hosts(hosts, SENTINEL_PORT if kind == "sentinel" else PORT, problems))
        found |= _read_path(parts.path, kind, problems)
    if kind == "cluster" and found.get("database"):
        problems.append("a cluster has database 0 only")
    wants_tls = found.pop("tls", tls)
    files = {name: found.pop(name, None) for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")}
    if any(files.values()) and not wants_tls:
        problems.append("ssl_… options need TLS: rediss://, or tls=yes with Sentinel and Cluster")
    if (
        problems and "@" in parts.path + parts.query + parts.fragment
    ):  # a password ended too early: do not show its pieces
        problems = ["in a user name or a password # is written %23, / %2F, ? %3F and @ %40"]
    if problems:
        raise InvalidURL(f"cannot use the URL {mask_url(url)!r}", facts=problems, fix=f"for example {EXAMPLES}")
    return Options(
        shown=mask_url(url),
        kind=kind,
        seeds=seeds,
        username=unquote(username) or None,
        password=unquote(password) or None,
        tls={name: value for name, value in files.items() if value} if wants_tls else None,
        **found,
    )


def _read_options(query: str, problems: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        reader = READERS.get(name)
        if reader is None:
            problems.append(f"unknown option {name!r}; known are {', '.join(READERS)}")
            continue
        try:
            found["database" if name == "db" else name] = reader(text)
        except (ValueError, OSError) as error:
            why = error.what if isinstance(error, InvalidSetting) else str(error)
            problems.append(f"{name}: {why}" if "password" not in name else f"{name}: not usable")
    return found


def _read_path(text: str, kind: Kind, problems: list[str]) -> dict[str, Any]:
    path = [unquote(part) for part in text.split("/") if part]
    found: dict[str, Any] = {}
    if kind == "sentinel":
        if path:
            found["service"] = path.pop(0)
        else:
            problems.append("the service's name is missing: …/mymaster")
    if path:
        found["database"] = _number(path.pop(0), "the database", problems)
    if path:
        problems.append(f"more path than expected: {'/'.join(path)!r}")
    return found


def _read_hosts(text: str, default: int, problems: list[str]) -> list[Address]:
    seeds: list[Address] = []
    for one in (text or "localhost").split(","):
        parts = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::(.*))?", one)
        if parts is None:
            problems.append(f"{one!r} is not host:port")
            continue
        port = _number(parts[2], f"the port of {parts[1]}", problems) if parts[2] is not None else default
        seeds.append(Address(parts[1].strip("[]"), port))
    return seeds


def _number(text: str, what: str, problems: list[str]) -> int:
    if text.isascii() and text.isdigit() and int(text) < 2**16:
        return int(text)
    problems.append(f"{what}: expected a number, got {text!r}")
    return 0


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"expected a whole number, got {text!r}")
    return int(text)


def _above_zero(text: str) -> int:
    if (number := _count(text)) == 0:
        raise ValueError("has to be above 0")
    return number


def _seconds(text: str) -> float:
    if not 0 < (seconds := duration(text)) < math.inf:
        raise ValueError("has to be above 0")
    return seconds


def _prefix(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.:-]{1,40}", text):  # a brace would move keys to other slots of a cluster
        raise ValueError(f"expected letters, digits and _ . : - only, got {text!r}")
    return text


def _yes(text: str) -> bool:
    if text not in {"yes", "no"}:
        raise ValueError(f'expected "yes" or "no", got {text!r}')
    return text == "yes"


def _file(text: str) -> str:
    with open(text, "rb"):  # noqa: PTH123 - that it can be read is all that matters here
        return text


#: What options there are. There is none to switch off the checking of certificates.
READERS: Mapping[str, Callable[[str], Any]] = {
    "prefix": _prefix,
    "limit": _above_zero,
    "wait": _count,
    "wait_timeout": _seconds,
    "timeout": _seconds,
    "connect_timeout": _seconds,
    "db": _count,
    "tls": _yes,
    "ssl_ca_certs": _file,
    "ssl_certfile": _file,
    "ssl_keyfile": _file,
    "sentinel_username": str,
    "sentinel_password": str,
}


def tls_arguments(options: Options) -> dict[str, Any]:
    """What redis-py's TLS connections are told; certificates and host names are always checked."""
    if options.tls is None:
        return {}
    return {
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
        **options.tls,
    }
