"""What is special about NATS: leases of several lengths, what the server reports, which user may do what."""

from __future__ import annotations

import logging
import ssl
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import nats as nats_py
import pytest
from anyio.streams.tls import TLSListener

from taskcore import BrokerUnavailable
from taskcore.adapters import open_backend, open_store
from taskcore.backend import Outgoing, Stored
from taskcore.conformance import certify
from taskcore.envelope import new_id
from taskcore.errors import FeatureRefused
from taskcore.faults import NatsServer
from taskcore.lifecycle import ACK, CLAIM, RELEASE, Bury, Reschedule, Verdict
from taskcore.store import ANY
from taskcore.testing.crash_points import SimulatedCrash, crash_at
from tests.support.real import require

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@pytest.fixture
def queue() -> str:
    """Name a queue of this test's own."""
    return f"q{new_id()}"


@pytest.mark.parametrize(("first", "second"), [(60.0, 0.5), (0.3, 2.0)])
async def test_leases_of_several_lengths(nats: NatsServer, queue: str, first: float, second: float) -> None:
    """A lease is that of the source that took the job, whatever the queue's consumer was made for."""
    async with open_backend(nats.url) as backend, open_backend(nats.url) as other:
        async with backend.consume([queue], lease=first):
            pass
        await backend.publish([Outgoing(queue, "j", b"job")])
        async with other.consume([queue], lease=second) as silent:
            [held] = await silent.receive(1)
            began = anyio.current_time()
            assert not await silent.extend([held])
            async with backend.consume([queue], lease=first) as heir:
                with anyio.fail_after(second + 3):
                    [again] = await heir.receive(1)
                assert second <= anyio.current_time() - began <= second + 1.5
                assert again.redeliveries == 1
                assert await silent.settle([(held, ACK)]) == [held]
                assert not await heir.settle([(again, ACK)])


async def test_receive_asks_for_no_more_than_it_was_asked_for(nats: NatsServer, queue: str) -> None:
    """A worker with room for two jobs leases two; the others stay for other workers."""
    async with open_backend(nats.url) as backend, open_backend(nats.url) as other:
        await backend.publish([Outgoing(queue, f"j{index}", b"%d" % index) for index in range(10)])
        async with backend.consume([queue], lease=30.0) as source, other.consume([queue], lease=30.0) as second:
            found = [*await source.receive(2)]
            while len(found) < 2:
                found += await source.receive(2 - len(found))
            [stats] = await backend.admin.stats([queue])
            assert (stats.ready, stats.leased) == (8, 2)
            rest: list[Any] = []
            with anyio.fail_after(3):
                while len(rest) < 8:
                    rest += await second.receive(8 - len(rest))


async def test_jobs_that_no_caller_takes_are_given_back(nats: NatsServer, queue: str) -> None:
    """A job that comes when its worker has gone away from the counter is with others at once, without blame."""
    async with open_backend(nats.url) as backend, open_backend(nats.url) as other:  # noqa: SIM117
        async with backend.consume([queue], lease=30.0) as source:
            with anyio.move_on_after(0.1):
                await source.receive(5)
            await other.publish([Outgoing(queue, "j", b"job")])
            await anyio.sleep(0.5)
            async with other.consume([queue], lease=30.0) as second:
                with anyio.fail_after(2):
                    [found] = await second.receive(1)
                assert found.redeliveries == 0
                assert not await second.settle([(found, RELEASE)])


@pytest.mark.parametrize("version", ["", "2.10"], ids=["newest", "2.10"])
@pytest.mark.parametrize(
    ("verdict", "failpoint"),
    [(Reschedule(0.2, b"new"), "nats.retry.copied"), (Bury("why", b"new"), "nats.bury.written")],
    ids=["retry", "bury"],
)
async def test_a_death_between_two_writes_leaves_one(verdict: Verdict, failpoint: str, version: str) -> None:
    """The copy or the letter is written, its job not ended: the next worker ends that job without running it."""
    async with require(NatsServer, version)(version=version) as server:  # noqa: SIM117
        async with open_backend(server.url) as backend, open_backend(server.url) as other:
            await backend.publish([Outgoing("q", "j", b"job", b"old")])
            async with backend.consume(["q"], lease=0.6) as source:
                [held] = await source.receive(1)
                with pytest.raises(SimulatedCrash), crash_at(failpoint):
                    await source.settle([(held, verdict)])
            async with other.consume(["q"], lease=0.6) as heir:
                seen: list[bytes] = []
                with anyio.move_on_after(3.0):
                    while True:
                        found = await heir.receive(5)
                        seen += [one.trail for one in found]
                        await heir.settle([(one, ACK) for one in found])
            assert seen == ([b"new"] if isinstance(verdict, Reschedule) else [])
            [stats] = await other.admin.stats(["q"])
            assert (stats.ready, stats.leased, stats.scheduled, stats.dead) == (0, 0, 0, isinstance(verdict, Bury))


async def test_an_idle_source_is_quiet(nats: NatsServer, queue: str) -> None:
    """Waiting for work costs less than five lines a second."""
    async with open_backend(nats.url) as backend, backend.consume([queue], lease=30.0) as source:
        connection: Any = backend._link._connection
        with anyio.move_on_after(0.5):
            await source.receive(1)
        lines: list[bytes] = []

        def counting(take: Any) -> Any:
            return lambda data: (lines.extend(data.splitlines()), take(data))

        connection.write, connection.data_received = counting(connection.write), counting(connection.data_received)
        with anyio.move_on_after(2.0):
            await source.receive(1)
        assert len(lines) < 10


async def test_a_shell_script_can_enqueue(nats: NatsServer, queue: str) -> None:
    """The envelope alone, under the subject of the queue, is a job."""
    async with open_backend(nats.url) as backend, backend.consume([queue], lease=30.0) as source:
        client = await nats_py.connect(nats.url)
        await client.jetstream().publish(f"taskcore.q.{queue}.by-hand", b'{"v":1}')
        await client.close()
        with anyio.fail_after(3):
            [found] = await source.receive(1)
        assert (found.envelope, found.trail, found.redeliveries) == (b'{"v":1}', b"", 0)
        assert not await source.settle([(found, ACK)])


async def test_the_diagnosis_has_each_check(nats: NatsServer, queue: str) -> None:
    """Version, storage, what a power cut takes, limits, and what speaks against it."""
    async with open_backend(nats.url) as backend, open_store(nats.url) as store:
        await backend.publish([Outgoing(queue, "j", b"job")])
        diagnosis = await backend.diagnose()
        facts = {check.name: check for check in diagnosis.checks}
        assert diagnosis.server == f"NATS {nats.version}"
        assert {"version", "sync_interval", "storage", "replicas", "max_payload", "round trip"} <= set(facts)
        assert facts["sync_interval"].clauses == ("C1",)
        assert "2m" in facts["sync_interval"].text
        assert facts["max_payload"].level == "ok"
        assert [fact.name for fact in diagnosis.unsafe] == ["sync_interval"]
        assert {check.name for check in (await store.diagnose()).checks} == {"records", "expiry"}
    async with require(NatsServer)(config={"max_payload": 100_000}) as small, open_backend(small.url) as backend:
        facts = {check.name: check for check in (await backend.diagnose()).checks}
        assert facts["max_payload"].level == "fail"


async def test_a_stream_that_drops_is_reported(nats: NatsServer) -> None:
    """A limit on a queue because of which it drops the oldest is reported by doctor."""
    prefix = f"p{new_id()[:8]}"
    async with open_backend(f"{nats.url}?prefix={prefix}") as backend:
        await backend.publish([Outgoing("q", "j", b"job")])
        config = (await backend._link.api(f"STREAM.INFO.{prefix}-q-q"))["config"]
        await backend._link.api(f"STREAM.UPDATE.{prefix}-q-q", config | {"max_msgs": 10})
        [fact] = [check for check in (await backend.diagnose()).checks if check.name == "limits"]
        assert (fact.level, fact.clauses) == ("fail", ("C1",))


async def test_the_permissions_of_the_docs(tmp_path: Path) -> None:
    """A user who may what the page about NATS says may everything that is needed, and nothing beyond."""
    permissions = {
        "publish": ["$JS.API.>", "$JS.ACK.>", "taskcore.>", "_INBOX.>"],
        "subscribe": ["_INBOX.>", "taskcore.withdrawn.*", "taskcore.r.*"],
    }
    users = [{"user": "worker", "password": "pw", "permissions": permissions}]
    async with require(NatsServer)(config={"authorization": {"users": users}}) as server:  # type: ignore[dict-item]
        url = server.url.replace("nats://", "nats://worker:pw@")
        certificate = await certify(url, only=["C14", "C16", "C13", "C4"], lease=0.6, margin=1.0, concurrency=10)
        assert certificate.broken == ()
        assert "permission" not in server.log(1000).lower()


@pytest.fixture
async def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1, signed by itself, and its key."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    if (await anyio.run_process(command, check=False, stderr=subprocess.DEVNULL)).returncode:
        pytest.skip("openssl is not on this machine")
    return cert, key


async def test_tls_is_never_left_out(nats: NatsServer, certificate: tuple[Path, Path]) -> None:
    """F43: tls:// to a server without TLS or with an unknown authority is refused before a credential is sent."""
    cert, key = certificate
    with pytest.raises(BrokerUnavailable, match="offers no TLS"):
        await open_backend(nats.url.replace("nats://", "tls://me:secret@")).__aenter__()
    tls: Any = {"cert_file": str(cert), "key_file": str(key)}
    async with require(NatsServer)(config={"tls": tls}) as server:
        url = server.url.replace("nats://", "tls://")
        with pytest.raises(BrokerUnavailable, match=r"(?i)certificate"):
            await open_backend(url).__aenter__()
        async with open_backend(f"{url}?ca={cert}") as backend:
            assert await backend.publish([Outgoing("q", "j", b"job")]) == [Stored()]
        async with open_store(f"{server.url}?ca={cert}") as store:
            assert await store.put("key", b"value", expect=ANY, keep=5.0)


async def test_tls_before_anything_else(nats: NatsServer, queue: str, certificate: tuple[Path, Path]) -> None:
    """With tls_first=yes the client encrypts before the server says anything; without it, such a server is refused."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)

    async def copy(source: anyio.abc.ByteReceiveStream, target: anyio.abc.ByteSendStream) -> None:
        with suppress(anyio.BrokenResourceError):
            async for data in source:
                await target.send(data)

    async def terminate(client: anyio.abc.ByteStream) -> None:
        server = await anyio.connect_tcp("127.0.0.1", nats.port)
        async with client, server, anyio.create_task_group() as copying:
            copying.start_soon(copy, client, server)
            await copy(server, client)
            copying.cancel_scope.cancel()

    plain = await anyio.create_tcp_listener(local_host="127.0.0.1")
    listener = TLSListener(plain, context, standard_compatible=False)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, terminate)
        port = plain.extra(anyio.abc.SocketAttribute.local_port)
        url = f"tls://127.0.0.1:{port}?ca={certificate[0]}"
        with pytest.raises(BrokerUnavailable):
            await open_backend(url).__aenter__()
        async with open_backend(f"{url}&tls_first=yes") as backend:
            assert await backend.publish([Outgoing(queue, "j", b"job")]) == [Stored()]
        group.cancel_scope.cancel()


@pytest.mark.parametrize("option", ["", "&tls_first=yes"])
@pytest.mark.parametrize(
    "words",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"INFO no json\r\n",
        b"INFO {}\r\n-ERR 'go away'\r\n",
        b'INFO {"tls_required":true}\r\nPONG\r\nMSG x',
        b"",
    ],
)
async def test_a_peer_that_is_no_server(words: bytes, option: str) -> None:
    """A peer that answers with other bytes, or adds some before TLS, gets no credentials, and the error says why."""
    heard = bytearray()

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.send(words)
            with anyio.move_on_after(5):
                while data := await stream.receive():
                    heard.extend(data)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        with pytest.raises(BrokerUnavailable, match=f"127.0.0.1:{port}"), anyio.fail_after(10):
            await open_backend(f"tls://me:secret@127.0.0.1:{port}?storage=file{option}").__aenter__()
        group.cancel_scope.cancel()
    assert b"secret" not in heard


async def test_many_records_at_once(nats: NatsServer) -> None:
    """Records are read in one exchange, in order, without those that are missing or expired."""
    keys = [f"{new_id()}/ä" for _ in range(3)]
    async with open_store(nats.url) as store:
        await store.put(keys[0], b"0", expect=ANY, keep=60.0)
        await store.put(keys[2], b"2", expect=ANY, keep=None)
        await store.put(keys[1], b"1", expect=ANY, keep=0.05)
        await anyio.sleep(0.1)
        found = await store.get_many([keys[2], keys[1], keys[0], "none", keys[2]])
        assert [record and record.value for record in found] == [b"2", None, b"0", None, b"2"]
        assert found[0] == await store.get(keys[2])
        assert await store.get_many([]) == []


@pytest.mark.parametrize("version", ["2.9", ""])
async def test_many_clients_create_a_queue_at_once(version: str) -> None:
    """Clients that use a new queue at the same moment all get in, though only one of them creates its stream."""

    async def enqueue(url: str, queue: str) -> None:
        async with open_backend(url) as backend:
            [answer] = await backend.publish([Outgoing(queue, new_id(), b"job")])
            assert isinstance(answer, Stored)

    async with require(NatsServer, version)(version=version) as server:
        for number in range(120):
            async with anyio.create_task_group() as group:
                for _ in range(12):
                    group.start_soon(enqueue, server.url, f"new{number}")


async def test_a_store_whose_stream_was_deleted(nats: NatsServer, caplog: pytest.LogCaptureFixture) -> None:
    """A deleted stream of a store is made anew, with an alarm, and versions do not repeat."""
    async with open_store(f"{nats.url}?prefix=p{new_id()[:8]}") as store:
        link: Any = store.link
        version = await store.put("key", b"1", expect=ANY, keep=60.0)
        await link.api(f"STREAM.DELETE.{link.address.prefix}-store")
        assert await store.get("key") is None
        assert await store.put("other", b"2", expect=ANY, keep=60.0) != version
    assert [record for record in caplog.records if record.levelno == logging.ERROR]


def test_trio_is_refused_at_once() -> None:
    """A program on trio gets an error that says what it needs instead, before anything is connected."""

    async def main() -> None:
        async with open_backend("nats://localhost:1"):
            pass

    with pytest.raises(FeatureRefused, match="trio"):
        anyio.run(main, backend="trio")


@pytest.mark.parametrize("late_first", [False, True])
async def test_one_of_two_claims_succeeds(nats: NatsServer, queue: str, late_first: bool) -> None:
    """Of two workers that both believe to hold a job, as after a freeze, one can claim it for its only start (C9)."""
    async with (
        open_backend(nats.url) as backend,
        open_backend(nats.url) as other,
        backend.consume([queue], lease=0.5) as frozen,
        other.consume([queue], lease=30.0) as second,
    ):
        await backend.publish([Outgoing(queue, "j", b"job")])
        [late] = await frozen.receive(1)
        late.receipt.until += 60.0  # read from the socket long after the server has sent it
        with anyio.fail_after(20):
            [held] = await second.receive(1)
        claims = [(frozen, late), (second, held)] if late_first else [(second, held), (frozen, late)]
        lost = [bool(await source.settle([(delivery, CLAIM)])) for source, delivery in claims]
        assert lost == [False, True]
        assert (await backend.admin.stats([queue]))[0].ready == 0
