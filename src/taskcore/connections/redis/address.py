"""Redis URLs.

    redis://[user:password@]host[:port][/database]          rediss:// and valkeys:// with TLS
    unix://[user:password@]/path/to/socket[?db=0]
    redis+sentinel://[user:password@]host:port,host:port/service[/database]
    redis+cluster://[user:password@]host:port,host:port/

Options follow a question mark.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias
from urllib.parse import unquote

import msgspec

from taskcore.toolkit.urls import (
    Reader,
    mask_url,
    matching,
    read_options,
    readable_file,
    refuse_url,
    seconds,
    split_url,
    whole,
    yes_or_no,
)

__all__ = ["RedisAddress", "RedisOptions", "read_url"]

PORT: Final = 6379
SENTINEL_PORT: Final = 26379
QUEUE_LIMIT: Final = 10_000_000  #: jobs and dead letters that a queue holds unless the URL says otherwise

Deployment: TypeAlias = Literal["one", "sentinel", "cluster"]
KINDS: Final[Mapping[str, tuple[Deployment, bool]]] = {
    "redis": ("one", False), "rediss": ("one", True), "valkey": ("one", False), "valkeys": ("one", True),
    "unix": ("one", False), "redis+sentinel": ("sentinel", False), "redis+cluster": ("cluster", False),
}  # fmt: skip
EXAMPLES: Final = (
    "redis://localhost:6379/0   redis+sentinel://s1:26379,s2:26379/mymaster/0   redis+cluster://c1:6379,c2:6379/"
)
TLS_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
#: What every TLS connection of redis-py gets: certificates and host names are always verified.
TLS: Final = {"ssl_cert_reqs": "required", "ssl_check_hostname": True, "ssl_min_version": ssl.TLSVersion.TLSv1_2}

#: The options that a URL may have. None of them switches the verification of certificates off.
READERS: Final[Mapping[str, Reader]] = {
    "prefix": matching(r"[A-Za-z0-9_.:-]{1,40}", "letters, digits and _ . : - only"),  # a brace would change the slot
    "limit": whole(1),
    "wait": whole(),
    "wait_timeout": seconds(),
    "timeout": seconds(),
    "connect_timeout": seconds(),
    "db": whole(),
    "tls": yes_or_no,
    **dict.fromkeys(TLS_FILES, readable_file),
    "sentinel_username": str,
    "sentinel_password": str,
}


class RedisAddress(NamedTuple):
    """Where a server listens; port 0: a Unix socket at the path ``host``."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.port else self.host


class RedisOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a Redis URL says.

    :param shown: the URL without its secrets, for texts.
    :param seeds: the server; with Sentinel the sentinels, with Cluster some of its nodes.
    :param service: the name under which the sentinels know the primary.
    :param tls: redis-py's arguments for TLS; None: plain.
    :param prefix: the beginning of all keys; two applications on one server use different ones.
    :param limit: jobs and dead letters that a queue holds before it refuses more.
    :param wait: replicas that have to confirm an enqueued job before it counts as stored (``WAIT``).
    :param wait_timeout: seconds to wait for them.
    :param timeout: seconds for one command.
    :param connect_timeout: seconds for one connection.
    """

    shown: str
    kind: Deployment
    seeds: tuple[RedisAddress, ...]
    service: str = ""
    database: int = 0
    username: str | None = None
    password: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    tls: Mapping[str, Any] | None = None
    prefix: str = "tc"
    limit: int = QUEUE_LIMIT
    wait: int = 0
    wait_timeout: float = 1.0
    timeout: float = 5.0
    connect_timeout: float = 3.0

    def __repr__(self) -> str:
        return f"RedisOptions({self.shown!r})"


def read_url(url: str) -> RedisOptions:
    """Read a URL.

    :raises InvalidURL: some of it is unknown or impossible; the facts name every problem (TC103).
    """
    problems: list[str] = []
    parts = split_url(url, example=EXAMPLES)
    kind, tls = KINDS[parts.scheme]
    found: dict[str, Any] = read_options(parts.query, READERS, problems)
    found["database"] = found.pop("db", 0)
    if parts.fragment:
        problems.append("a # in a name is written %23")
    authority, _, hosts = parts.netloc.rpartition("@")
    username, _, password = authority.partition(":")
    seeds: tuple[RedisAddress, ...]
    if parts.scheme == "unix":
        seeds = (RedisAddress(unquote(parts.path), 0),)
        if not hasattr(socket, "AF_UNIX"):
            problems.append("this system has no Unix sockets; use redis://")
        if not parts.path.strip("/") or hosts:
            problems.append("a socket has a path and no host: unix:///run/redis/redis.sock")
    else:
        seeds = tuple(_read_hosts(hosts, SENTINEL_PORT if kind == "sentinel" else PORT, problems))
        found |= _read_path(parts.path, kind, problems)
    if kind == "cluster" and found.get("database"):
        problems.append("a cluster has database 0 only")
    wants_tls = found.pop("tls", tls)
    files: dict[str, Any] = {name: found.pop(name) for name in TLS_FILES if name in found}
    if files and not wants_tls:
        problems.append("ssl_… options need TLS: rediss://, or tls=yes with Sentinel and Cluster")
    if problems:
        refuse_url(url, problems, example=EXAMPLES)
    return RedisOptions(
        shown=mask_url(url),
        kind=kind,
        seeds=seeds,
        username=unquote(username) or None,
        password=unquote(password) or None,
        tls=TLS | files if wants_tls else None,
        **found,
    )


def _read_path(text: str, kind: Deployment, problems: list[str]) -> dict[str, Any]:
    path = [unquote(part) for part in text.split("/") if part]
    found: dict[str, Any] = {}
    if kind == "sentinel":
        if path:
            found["service"] = path.pop(0)
        else:
            problems.append("the service's name is missing: …/mymaster")
    if path:
        database = path.pop(0)
        if database.isascii() and database.isdigit():
            found["database"] = _number(database, "the database", problems)
        else:  # not shown: it may be a piece of a password
            problems.append("the database: expected a number")
    if path:
        problems.append("more path than expected")
    return found


def _read_hosts(text: str, default: int, problems: list[str]) -> list[RedisAddress]:
    seeds: list[RedisAddress] = []
    for one in (text or "localhost").split(","):
        parts = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::(.*))?", one)
        if parts is None:
            problems.append(f"{one!r} is not host:port")
            continue
        port = _number(parts[2], f"the port of {parts[1]}", problems) if parts[2] is not None else default
        seeds.append(RedisAddress(parts[1].strip("[]"), port))
    return seeds


def _number(text: str, what: str, problems: list[str]) -> int:
    if text.isascii() and text.isdigit() and int(text) < 2**16:
        return int(text)
    problems.append(f"{what}: expected a number, got {text!r}")
    return 0
