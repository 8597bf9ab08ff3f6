"""What a client says first: its name, its credentials, and what it understands.

A credentials file and a seed are read for each connection, because credentials are replaced while workers run.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from taskcore.connections.nats.address import Host, NatsAddress

__all__ = ["BadLogin", "connect_line"]


class BadLogin(Exception):
    """A server does not take this client, or a file cannot be used; the text says why, without what the file holds."""


def connect_line(address: NatsAddress, host: Host, info: Mapping[str, Any], *, name: str) -> bytes:
    """Return the CONNECT of this client to a server that said this about itself.

    :raises OSError: a file with credentials cannot be read.
    :raises BadLogin: there is something else in it.
    """
    said: dict[str, Any] = {
        "verbose": False, "pedantic": False, "lang": "python", "version": "taskcore", "name": name, "protocol": 1,
        "echo": True, "headers": True, "no_responders": True,
        **_identity(address, host, str(info.get("nonce") or "")),
    }  # fmt: skip
    return b"CONNECT %b\r\n" % msgspec.json.encode(said)


def _identity(address: NatsAddress, host: Host, nonce: str) -> dict[str, str]:
    if address.creds or address.nkey:
        return _signed(address, nonce)
    if host.user is not None and host.password is not None:
        return {"user": host.user, "pass": host.password}
    token = host.user if host.user is not None else address.token
    return {} if token is None else {"auth_token": token}


def _signed(address: NatsAddress, nonce: str) -> dict[str, str]:
    if address.creds:
        text = Path(address.creds).read_text(encoding="utf-8", errors="replace")
        credentials = {"jwt": _part(text, "NATS USER JWT", address.creds)}
        seed = _part(text, "USER NKEY SEED", address.creds)
    else:
        credentials, seed = {}, Path(address.nkey or "").read_text(encoding="utf-8", errors="replace").strip()
    import nkeys  # type: ignore[import-untyped]  # noqa: PLC0415 - cryptography, which most logins do not need

    try:
        key: Any = nkeys.from_seed(bytearray(seed.encode()))
        credentials = credentials or {"nkey": key.public_key.decode()}
        return credentials | {"sig": base64.b64encode(key.sign(nonce.encode())).decode()}
    except Exception as error:
        option = "creds" if address.creds else "nkey"
        raise BadLogin(f"{option}: {address.creds or address.nkey!r} has no usable seed") from error


def _part(text: str, part: str, path: str) -> str:
    found = re.search(rf"-BEGIN {part}-+\s+([A-Za-z0-9]\S*)", text)
    if found is None:
        raise BadLogin(f"creds: {path!r} is not a credentials file, it has no {part}")
    return found[1]
