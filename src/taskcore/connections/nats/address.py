"""From a URL to what a NATS connection and our streams need.

nats://user:password@one:4222,two:4222,three:4222/?replicas=3
tls://example.com?creds=/etc/taskcore/worker.creds
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import msgspec

from taskcore.errors import InvalidSetting, InvalidURL
from taskcore.toolkit.units import size
from taskcore.toolkit.urls import mask_url

__all__ = ["Address", "Host", "read_address"]

PORT = 4222
EXAMPLE = "nats://localhost:4222   or   nats://user:password@one:4222,two:4222,three:4222/?replicas=3"

Storage: TypeAlias = Literal["file", "memory"]

STORAGES: tuple[Storage, ...] = ("file", "memory")
_PREFIX = re.compile(r"[A-Za-z0-9_-]{1,32}")


class Host(msgspec.Struct, frozen=True):
    """One server, and who we are there."""

    name: str
    port: int
    user: str | None = None
    password: str | None = None

    @property
    def text(self) -> str:
        """``host:port``, for people."""
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a URL says.

    :param prefix: with what the names of all our streams and subjects begin.
    :param replicas: how many servers of a cluster keep each stream; None: one, or as it was made.
    :param max_bytes: the most that one queue may hold; None: as much as the account may.
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

    @property
    def api(self) -> str:
        """With what the subjects of the JetStream API begin."""
        return f"$JS.{self.domain}.API." if self.domain else "$JS.API."

    def tls(self) -> ssl.SSLContext | None:
        """The context for TLS; None: plain, unless the server asks for TLS."""
        if not (self.encrypted or self.ca or self.cert):
            return None
        context = ssl.create_default_context(cafile=self.ca)
        if self.cert:
            context.load_cert_chain(self.cert, self.key)
        return context


def read_address(url: str) -> Address:
    """The address in a URL.

    :raises InvalidURL: what it says is impossible, or unknown (TC103); the facts name each problem.
    """
    address, _, query = url.partition("?")
    problems: list[str] = []
    parts = [_split(part, problems) for part in _parts_of(address)]
    hosts = tuple(host for part in parts if part is not None and (host := _host_of(part, problems)) is not None)
    options = _options_of(query, problems)
    schemes = {part.scheme for part in parts if part is not None}
    if len(schemes) > 1:
        problems.append("nats:// and tls:// are mixed")
    if not hosts and not problems:
        problems.append("there is no host")
    if problems:
        raise InvalidURL(f"cannot use the URL {mask_url(url)!r}", facts=problems, fix=EXAMPLE)
    return Address(hosts=hosts, encrypted=schemes == {"tls"}, **options)


def _parts_of(address: str) -> list[str]:
    scheme, _, rest = address.partition("://")
    return [part if "://" in part else f"{scheme}://{part}" for part in rest.split(",")]


def _split(part: str, problems: list[str]) -> SplitResult | None:
    try:
        split = urlsplit(part)
        _ = split.port
    except ValueError as error:
        problems.append(f"{mask_url(part)}: {error}")
        return None
    if split.scheme not in {"nats", "tls"}:
        problems.append(f"{split.scheme}:// is not NATS; it is nats:// or tls://")
    if split.path.strip("/"):
        problems.append(f"NATS has no path, here it is {split.path!r}")
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
    options: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        read = OPTIONS.get(name)
        if read is None:
            problems.append(f"unknown option {name!r}; NATS knows: {', '.join(sorted(OPTIONS))}")
            continue
        try:
            options[name] = read(text)
        except (ValueError, InvalidSetting) as error:
            problems.append(f"{name}: {error}")
    if len({"creds", "nkey", "token"} & set(options)) > 1:
        problems.append("creds, nkey and token exclude each other")
    if "key" in options and "cert" not in options:
        problems.append("key is the key of a cert, and there is no cert")
    return options


def _replicas(text: str) -> int:
    if text not in {"1", "2", "3", "4", "5"}:
        raise ValueError(f"expected a whole number from 1 to 5, got {text!r}")
    return int(text)


def _prefix(text: str) -> str:
    if not _PREFIX.fullmatch(text):
        raise ValueError(f"expected 1 to 32 letters, digits, _ or -, got {text!r}")
    return text


def _storage(text: str) -> Storage:
    for kind in STORAGES:
        if text == kind:
            return kind
    raise ValueError(f"expected file or memory, got {text!r}")


def _max_bytes(text: str) -> int:
    number = size(text)
    if number <= 0:
        raise ValueError("expected a size above 0")
    return number


def _file(text: str) -> str:
    if not Path(text).is_file():
        raise ValueError(f"there is no file {text!r}")
    return text


def _text(text: str) -> str:
    if not text:
        raise ValueError("it is empty")
    return text


OPTIONS: dict[str, Callable[[str], Any]] = {
    "prefix": _prefix,
    "replicas": _replicas,
    "storage": _storage,
    "max_bytes": _max_bytes,
    "domain": _prefix,
    "token": _text,
    "creds": _file,
    "nkey": _file,
    "ca": _file,
    "cert": _file,
    "key": _file,
}
