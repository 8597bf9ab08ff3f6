"""What a NATS URL may say, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from taskcore import BrokerUnavailable, InvalidURL
from taskcore.backends.nats.layout import QueueStream
from taskcore.backends.nats.messages import job_token, queue_of, queue_token, unpack
from taskcore.connections.nats import NatsLink, Reply, read_address
from taskcore.connections.nats.jetstream import find_message
from taskcore.stores.nats.layout import read_answer


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    """Servers, credentials with escapes, options."""
    ca = tmp_path / "ca.pem"
    ca.touch()
    url = f"tls://a%40b:p%2Fw@one:1,two,token@[::1]:3/?replicas=3&prefix=shop&storage=memory&max_bytes=1MiB&domain=hub&ca={ca}"
    address = read_address(url)
    assert [(host.name, host.port, host.user, host.password) for host in address.hosts] == [
        ("one", 1, "a@b", "p/w"),
        ("two", 4222, None, None),
        ("::1", 3, "token", None),
    ]
    assert address.hosts[2].text == "[::1]:3"
    assert (address.encrypted, address.replicas, address.prefix) == (True, 3, "shop")
    assert (address.storage, address.max_bytes, address.api) == ("memory", 1_048_576, "$JS.hub.API.")
    plain = read_address("nats://one,nats://two:2")
    assert [host.text for host in plain.hosts] == ["one:4222", "two:2"]
    assert (plain.encrypted, plain.replicas, plain.api, plain.tls()) == (False, None, "$JS.API.", None)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("nats://", "no host"),
        ("nats://one:port", "Port could not be cast|port"),
        ("nats://one,tls://two", "mixed"),
        ("nats://one/path", "no path"),
        ("nats://one/#x", "fragment"),
        ("nats://one?replicas=0", "from 1 to 5"),
        ("nats://one?replica=3", "unknown option 'replica'; known are replicas, prefix"),
        ("nats://one?prefix=a.b", "letters"),
        ("nats://one?storage=disk", "file or memory"),
        ("nats://one?max_bytes=0", "above 0"),
        ("nats://one?max_bytes=lots", "not a size"),
        ("nats://one?creds=/no/such/file", "no such file"),
        ("nats://one?tls_first=yes", "tls_first needs tls://"),
        ("nats://one?key=/etc/hostname", "there is no cert"),
        ("nats://one?token=a&nkey=/etc/hostname", "exclude each other"),
        ("nats://one?token=", "token: not usable"),
    ],
)
def test_each_problem_of_a_url_is_named(url: str, problem: str) -> None:
    """Each problem is named."""
    with pytest.raises(InvalidURL, match=f"(?i){problem}"):
        read_address(url)


def test_no_secret_is_shown() -> None:
    """Neither passwords nor tokens appear in errors."""
    for url in ("nats://me:topsecret@one?x=1", "nats://topsecret@one?x=1", "nats://one?x=1&token=topsecret"):
        with pytest.raises(InvalidURL) as error:
            read_address(url)
        assert "topsecret" not in str(error.value)


def test_names_on_the_wire() -> None:
    """Every queue has names of its own, in one word; every id becomes one word."""
    queues = ["default", "a.b", "a-b", "a_b", "a~b", "a%7eb", "ä b*>"]
    tokens = [queue_token(queue) for queue in queues]
    assert len(set(tokens)) == len(queues)
    assert [queue_of(token) for token in tokens] == queues
    assert all(not set(token) & set(" .*>/\\") for token in tokens)
    ids = ["01a2-b3", "a.b", "a b", "*", "x" * 500, "ä"]
    assert job_token(ids[0]) == ids[0]
    words = [job_token(one) for one in ids]
    assert len(set(words)) == len(ids)
    assert all(not set(word) & set(" .*>") for word in words)
    assert QueueStream(NatsLink(read_address("nats://one?prefix=p")), "a.b").name == "p-q-a~b"


def test_a_body_with_wrong_headers() -> None:
    """What does not fit is part of the envelope: nothing that a stranger writes is lost or raises."""
    for headers in (
        b"",
        b"NATS/1.0\r\nTc-Trail: 9\r\n\r\n",
        b"NATS/1.0\r\nTc-Trail: x\r\n\r\n",
        b"NATS/1.0\r\nA: b\r\n\r\n",
    ):
        assert unpack(b"body", headers).envelope == b"body"
    packed = unpack(b"bodytrail", b"NATS/1.0\r\nTc-Trail: 5\r\nTc-Handed: 2\r\n\r\n")
    assert (packed.envelope, packed.trail, packed.handed) == (b"body", b"trail", 2)


@pytest.mark.anyio
async def test_missing_is_not_the_same_as_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream without a leader answers with an error; only a few answers mean that there is nothing."""
    link = NatsLink(read_address("nats://one"))

    async def answered(answer: dict[str, Any]) -> Any:
        async def request_all(_: object) -> list[Reply]:
            return [Reply(json.dumps(answer).encode(), b"")]

        monkeypatch.setattr(link, "request_all", request_all)
        return await find_message(link, "s", seq=1)

    message = {"seq": 1, "subject": "a", "data": "Yg==", "time": "1970-01-01T00:00:01.5Z"}
    assert await answered({"message": message}) == (1, "a", b"", b"b", 1.5)
    for code in (10037, 10059):
        assert await answered({"error": {"code": 404, "err_code": code, "description": "not found"}}) is None
    for error in ({"code": 503, "err_code": 10008, "description": "temporarily unavailable"}, {"code": 503}):
        with pytest.raises(BrokerUnavailable):
            await answered({"error": error})
    assert read_answer(Reply(b"", b"NATS/1.0 404 Message Not Found\r\n\r\n")) is None
    with pytest.raises(BrokerUnavailable):
        read_answer(Reply(b"", b"NATS/1.0 503\r\n\r\n"))
