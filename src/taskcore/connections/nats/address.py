"""From a URL to what a NATS connection and our streams need.

nats://user:password@one:4222,two:4222,three:4222/?replicas=3
tls://example.com?creds=/etc/taskcore/worker.creds
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from taskcore.toolkit import urls

__all__ = ["Host", "NatsAddress", "read_address"]

PORT: Final = 4222
EXAMPLES: Final = "nats://localhost:4222   nats://user:password@one:4222,two:4222,three:4222/?replicas=3"
LABEL: Final = urls.matching(r"[A-Za-z0-9_-]{1,32}", "1 to 32 letters, digits, _ or -")

#: The options that a URL may have.
READERS: Final[Mapping[str, urls.Reader]] = {
    "replicas": urls.whole(1, 5),
    "prefix": LABEL,
    "storage": urls.choice("file", "memory"),
    "max_bytes": urls.positive_size,
    "domain": LABEL,
    "token": urls.text,
    **dict.fromkeys(("creds", "nkey", "ca", "cert", "key"), urls.readable_file),
    "tls_first": urls.yes_or_no,
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
    urls.split_url(url, example=EXAMPLES)  # refuses what could show a part of a password below
    address, _, query = url.partition("?")
    scheme, _, servers = address.partition("://")
    problems: list[str] = []
    hosts, schemes = [], set()
    for text in servers.split(","):
        server = text if "://" in text else f"{scheme}://{text}"
        try:
            split = urlsplit(server)
            port = split.port or PORT
        except ValueError:  # its text repeats a part of the URL
            problems.append("a server has no port from 0 to 65535, or a login has a comma, which is written %2C")
            continue
        user, password = (None if part is None else unquote(part) for part in (split.username, split.password))
        hosts.append(Host(split.hostname or "", port, user, password))
        schemes.add(split.scheme)
        problems += _problems_of(split)
    options = urls.read_options(query, READERS, problems)
    combinations = {
        "nats:// and tls:// are mixed": len(schemes) > 1,
        "tls_first needs tls://": options.get("tls_first") and schemes != {"tls"},
        "creds, nkey and token exclude each other": len({"creds", "nkey", "token"} & set(options)) > 1,
        "key is the key of a cert, and there is no cert": "key" in options and "cert" not in options,
    }
    problems += [problem for problem, is_there in combinations.items() if is_there]
    if problems:
        urls.refuse_url(url, problems, example=EXAMPLES)
    return NatsAddress(hosts=tuple(hosts), encrypted=schemes == {"tls"}, **options)


def _problems_of(server: SplitResult) -> list[str]:
    """Return what is impossible in the part of a URL that names one server."""
    problems = {
        f"{server.scheme}:// is not NATS; it is nats:// or tls://": server.scheme not in {"nats", "tls"},
        "NATS has no path": server.path.strip("/"),
        "NATS has no #fragment; write # in a password as %23": server.fragment,
        "there is no host name for a server": not server.hostname,
    }
    return [problem for problem, is_there in problems.items() if is_there]
