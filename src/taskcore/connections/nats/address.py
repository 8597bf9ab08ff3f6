"""From a URL to what a NATS connection and our streams need.

nats://user:password@one:4222,two:4222,three:4222/?replicas=3
tls://example.com?creds=/etc/taskcore/worker.creds
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from taskcore.toolkit.urls import (
    Reader,
    choice,
    matching,
    positive_size,
    read_options,
    readable_file,
    refuse_url,
    split_url,
    text,
    whole,
    yes_or_no,
)

__all__ = ["Host", "NatsAddress", "read_address"]

PORT: Final = 4222
EXAMPLES: Final = "nats://localhost:4222   nats://user:password@one:4222,two:4222,three:4222/?replicas=3"
LABEL: Final = matching(r"[A-Za-z0-9_-]{1,32}", "1 to 32 letters, digits, _ or -")

#: The options that a URL may have.
READERS: Final[Mapping[str, Reader]] = {
    "replicas": whole(1, 5),
    "prefix": LABEL,
    "storage": choice("file", "memory"),
    "max_bytes": positive_size,
    "domain": LABEL,
    "token": text,
    **dict.fromkeys(("creds", "nkey", "ca", "cert", "key"), readable_file),
    "tls_first": yes_or_no,
}

Storage: TypeAlias = Literal["file", "memory"]


class Host(msgspec.Struct, frozen=True):
    """One server, and our login there."""

    name: str
    port: int
    user: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"Host({self.text!r})"

    @property
    def text(self) -> str:
        """``host:port``, for people."""
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


class NatsAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a URL says.

    :param prefix: the start of the names of all our streams and subjects.
    :param replicas: how many servers of a cluster keep each stream; None: one, or as it was made.
    :param max_bytes: the most that one queue may hold; None: as much as the account may.
    :param tls_first: encrypt before the server says anything.
    """

    hosts: tuple[Host, ...]
    encrypted: bool
    prefix: str = "taskcore"
    replicas: int | None = None
    storage: Storage | None = None
    max_bytes: int | None = None
    domain: str | None = None
    token: str | None = None
    creds: str | None = None
    nkey: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    tls_first: bool = False

    def __repr__(self) -> str:
        return f"NatsAddress({len(self.hosts)} servers)"

    @property
    def api(self) -> str:
        """The start of the subjects of JetStream's API."""
        return f"$JS.{self.domain}.API." if self.domain else "$JS.API."

    def tls(self) -> ssl.SSLContext | None:
        """Return the context for TLS; None: plain, unless the server asks for TLS."""
        if not (self.encrypted or self.ca or self.cert):
            return None
        context = ssl.create_default_context(cafile=self.ca)
        if self.cert:
            context.load_cert_chain(self.cert, self.key)
        return context


def read_address(url: str) -> NatsAddress:
    """Read a URL.

    :raises InvalidURL: what it says is impossible, or unknown (TC103); the facts name each problem.
    """
    split_url(url, example=EXAMPLES)  # refuses what could show a part of a password below
    address, _, query = url.partition("?")
    problems: list[str] = []
    parts = [part for piece in _parts_of(address) if (part := _split(piece, problems)) is not None]
    hosts = tuple(host for part in parts if (host := _host_of(part, problems)) is not None)
    options = _options_of(query, problems)
    schemes = {part.scheme for part in parts}
    if len(schemes) > 1:
        problems.append("nats:// and tls:// are mixed")
    if options.get("tls_first") and schemes != {"tls"}:
        problems.append("tls_first needs tls://")
    if not hosts and not problems:
        problems.append("there is no host")
    if problems:
        refuse_url(url, problems, example=EXAMPLES)
    return NatsAddress(hosts=hosts, encrypted=schemes == {"tls"}, **options)


def _parts_of(address: str) -> list[str]:
    scheme, _, rest = address.partition("://")
    return [part if "://" in part else f"{scheme}://{part}" for part in rest.split(",")]


def _split(part: str, problems: list[str]) -> SplitResult | None:
    try:
        split = urlsplit(part)
        _ = split.port
    except ValueError:  # its text repeats a part of the URL
        problems.append("a server has no port from 0 to 65535, or a login has a comma, which is written %2C")
        return None
    if split.scheme not in {"nats", "tls"}:
        problems.append(f"{split.scheme}:// is not NATS; it is nats:// or tls://")
    if split.path.strip("/"):
        problems.append("NATS has no path")
    if split.fragment:
        problems.append("NATS has no #fragment; write # in a password as %23")
    return split


def _host_of(split: SplitResult, problems: list[str]) -> Host | None:
    if not split.hostname:
        problems.append("a server has no host name")
        return None
    user = None if split.username is None else unquote(split.username)
    password = None if split.password is None else unquote(split.password)
    return Host(split.hostname, split.port or PORT, user, password)


def _options_of(query: str, problems: list[str]) -> dict[str, Any]:
    options = read_options(query, READERS, problems)
    if len({"creds", "nkey", "token"} & set(options)) > 1:
        problems.append("creds, nkey and token exclude each other")
    if "key" in options and "cert" not in options:
        problems.append("key is the key of a cert, and there is no cert")
    return options
