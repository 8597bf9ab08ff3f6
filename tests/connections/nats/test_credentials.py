"""Who we are, without passwords: NKeys, and credentials files with a JWT that an operator's account has signed."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import nkeys
import pytest

from taskcore import BrokerUnavailable, InvalidURL
from taskcore.adapters import open_backend, open_store
from taskcore.backend import Outgoing, Stored
from taskcore.envelope import new_id
from taskcore.faults import NatsServer
from taskcore.lifecycle import ACK
from taskcore.store import ANY
from tests.support.real import require

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

OPERATOR, ACCOUNT, USER = nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_USER
UNLIMITED = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
JETSTREAM = ("mem_storage", "disk_storage", "streams", "consumer")


class Key:
    """A new key pair for one role."""

    def __init__(self, role: int) -> None:
        self.seed: bytes = nkeys.encode_seed(os.urandom(32), role)
        self.public: str = nkeys.from_seed(self.seed).public_key.decode()

    def sign(self, subject: Key, claims: dict[str, Any], *, until: int | None = None) -> str:
        """Return a JWT (version 2 of NATS) in which this key says something about another one."""
        body: dict[str, Any] = {"jti": new_id(), "iat": int(time.time()), "iss": self.public, "sub": subject.public}
        body["name"] = "test"
        body |= {"exp": until} if until else {}
        parts = [{"typ": "JWT", "alg": "ed25519-nkey"}, body | {"nats": claims | {"version": 2}}]
        text = ".".join(_base64(msgspec.json.encode(part)) for part in parts)
        return f"{text}.{_base64(nkeys.from_seed(self.seed).sign(text.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def user_of(account: Key, *, until: int | None = None) -> tuple[str, Key]:
    """Return a new user of this account: its JWT, which may end at a time (Unix, whole seconds), and its key."""
    user = Key(USER)
    claims = {"type": "user", "pub": {}, "sub": {}} | dict.fromkeys(("subs", "data", "payload"), -1)
    return account.sign(user, claims, until=until), user


def creds_of(jwt: str, seed: bytes) -> str:
    """Return a credentials file, as ``nsc`` writes it."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        "************************* IMPORTANT *************************\n"
        "NKEY Seed printed below can be used to sign and prove identity.\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed.decode()}\n------END USER NKEY SEED------\n\n"
        "*************************************************************\n"
    )


async def one_job_and_one_record(url: str) -> None:
    """Publish and receive one job, write and read one record."""
    async with open_backend(url) as backend, backend.consume(["q"], lease=30.0) as source:
        assert await backend.publish([Outgoing("q", "j", b"job")]) == [Stored()]
        with anyio.fail_after(10):
            [held] = await source.receive(1)
        assert held.envelope == b"job"
        assert not await source.settle([(held, ACK)])
    async with open_store(url) as store:
        assert await store.put("key", b"value", expect=ANY, keep=60.0)
        found = await store.get("key")
        assert found is not None
        assert found.value == b"value"


async def refusal(url: str, *secrets: str) -> str:
    """Return the error of a refused login, which comes in time and holds no secret."""
    for opening in (open_backend(url), open_store(url)):
        with anyio.fail_after(10), pytest.raises(BrokerUnavailable) as error:
            await opening.__aenter__()
        assert not [secret for secret in secrets if secret in f"{error.value}{error.value!r}"]
    return str(error.value)


@pytest.fixture
async def signed() -> AsyncIterator[tuple[NatsServer, Key]]:
    """Serve with trust in an operator; yield the key of an account that may use JetStream, too."""
    operator, system, account = Key(OPERATOR), Key(ACCOUNT), Key(ACCOUNT)
    limits: dict[str, Any] = dict.fromkeys(UNLIMITED, -1) | {"wildcards": True}
    claims = {"type": "account", "default_permissions": {"pub": {}, "sub": {}}}
    config: Any = {
        "operator": operator.sign(operator, {"type": "operator", "system_account": system.public}),
        "system_account": system.public,
        "resolver": "MEMORY",
        "resolver_preload": {
            system.public: operator.sign(system, claims | {"limits": limits}),
            account.public: operator.sign(account, claims | {"limits": limits | dict.fromkeys(JETSTREAM, -1)}),
        },
    }
    async with require(NatsServer)(config=config) as server:
        yield server, account


async def test_an_nkey(tmp_path: Path) -> None:
    """The seed in the file of ``nkey=`` lets us in; another seed, or what is none, is refused without showing it."""
    key, other, file = Key(USER), Key(USER), tmp_path / "seed"
    config: Any = {"authorization": {"users": [{"nkey": key.public}]}}
    async with require(NatsServer)(config=config) as server:
        url = f"{server.url}?nkey={file}"
        file.write_bytes(key.seed + b"\n")
        await one_job_and_one_record(url)
        assert "authorization" in (await refusal(server.url)).lower()
        file.write_bytes(other.seed)
        assert "authorization" in (await refusal(url, other.seed.decode())).lower()
        file.write_bytes(key.seed[:-4])
        assert "seed" in await refusal(url, key.seed[:-4].decode())


async def test_a_credentials_file(signed: tuple[NatsServer, Key], tmp_path: Path) -> None:
    """The JWT and the seed in the file of ``creds=`` let us in, whatever editor has saved the file."""
    server, account = signed
    jwt, user = user_of(account)
    file, text = tmp_path / "worker.creds", creds_of(jwt, user.seed)
    url = f"{server.url}?creds={file}"
    file.write_text(text)
    await one_job_and_one_record(f"{url}&prefix=plain")
    file.write_bytes(text.replace("\n", "\r\n").encode())
    await one_job_and_one_record(f"{url}&prefix=crlf")


async def test_refused_credentials(signed: tuple[NatsServer, Key], tmp_path: Path) -> None:
    """A user of an unknown account, and one with the seed of another, are refused, and the error holds no secret."""
    server, account = signed
    file = tmp_path / "worker.creds"
    stranger, its_key = user_of(Key(ACCOUNT))
    user, _ = user_of(account)
    for jwt in (stranger, user):
        file.write_text(creds_of(jwt, its_key.seed))
        text = await refusal(f"{server.url}?creds={file}", jwt, its_key.seed.decode())
        assert "authorization" in text.lower()


async def test_credentials_that_are_replaced(signed: tuple[NatsServer, Key], tmp_path: Path) -> None:
    """When a JWT is over the server throws us out; we come back with what the file says by then."""
    server, account = signed
    file, lost = tmp_path / "worker.creds", anyio.Event()
    end = int(time.time()) + 3
    old, its_key = user_of(account, until=end)
    new, new_key = user_of(account)
    file.write_text(creds_of(old, its_key.seed))
    async with open_backend(f"{server.url}?creds={file}") as backend:
        link: Any = backend._link
        link.on_lost.append(lost.set)
        file.write_text(creds_of(new, new_key.seed))
        with anyio.fail_after(15):
            await lost.wait()
        await anyio.sleep(end + 1.1 - time.time())  # servers take a JWT until the second in which it ends is over
        assert await backend.publish([Outgoing("q", "j", b"job")]) == [Stored()]
    file.write_text(creds_of(old, its_key.seed))
    text = await refusal(f"{server.url}?creds={file}", old, its_key.seed.decode())
    assert "expired" in text.lower() or "authorization" in text.lower()


@pytest.mark.parametrize("missing", ["USER JWT", "NKEY SEED"])
async def test_a_file_without_credentials(signed: tuple[NatsServer, Key], tmp_path: Path, missing: str) -> None:
    """A file that is no credentials file is refused in time; the error names the option and what is missing."""
    server, account = signed
    jwt, user = user_of(account)
    file = tmp_path / "worker.creds"
    file.write_text(creds_of(jwt, user.seed).replace(missing, "SOMETHING"))
    text = await refusal(f"{server.url}?creds={file}", jwt, user.seed.decode())
    assert f"creds: '{file}'" in text
    assert missing in text


@pytest.mark.parametrize("option", ["creds", "nkey"])
@pytest.mark.parametrize("opening", [open_backend, open_store])
def test_a_file_that_is_missing(opening: Any, option: str, tmp_path: Path) -> None:
    """A missing file is found before anything is connected, and the error names the option."""
    with pytest.raises(InvalidURL, match=rf"{option}: \[Errno 2\] No such file"):
        opening(f"nats://localhost:1?{option}={tmp_path / 'nothing'}")
