"""What a server may do: be killed, hang, forget everything, lose a stream, be full, throw us out."""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from taskcore import BrokerUnavailable
from taskcore.adapters import open_backend
from taskcore.backend import Backend, Delivery, Outgoing, Refused, Source, Stored
from taskcore.backends.nats import NatsBackend
from taskcore.faults import NatsServer
from taskcore.lifecycle import ACK, Bury, Reschedule
from tests.support.real import require

run = partial(subprocess.run, check=False)  # returns at once: small tools

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]


@pytest.fixture
async def server() -> AsyncIterator[NatsServer]:
    """Serve this test alone."""
    async with require(NatsServer)() as server:
        yield server


def jobs(number: int, queue: str = "q", **options: Any) -> list[Outgoing]:
    """Make so many jobs, with ids of their own."""
    return [Outgoing(queue, f"j{index}-{time.time_ns()}", b"%d" % index, **options) for index in range(number)]


async def put(backend: Backend, batch: list[Outgoing]) -> None:
    """Publish jobs, all of which have to be stored."""
    assert set(await backend.publish(batch)) == {Stored()}


async def take(source: Source, number: int, within: float = 15.0) -> list[Delivery]:
    """Take so many deliveries, through whatever trouble."""
    found: list[Delivery] = []
    with anyio.fail_after(within):
        while len(found) < number:
            try:
                found += await source.receive(number - len(found))
            except BrokerUnavailable:
                await anyio.sleep(0.05)
    return found


async def nothing(source: Source) -> None:
    """Check that no job comes."""
    with anyio.move_on_after(0.2):
        raise AssertionError(await source.receive(1))


async def settle(source: Source, found: list[Delivery], verdict: Any = ACK) -> None:
    """Settle, through whatever trouble."""
    with anyio.fail_after(15):
        while True:
            try:
                await source.settle([(delivery, verdict) for delivery in found])
            except BrokerUnavailable:
                await anyio.sleep(0.05)
            else:
                return


async def api(backend: Any, name: str, body: Any = None) -> dict[str, Any]:
    """Ask the API of JetStream, as an administrator's tool does."""
    answer: dict[str, Any] = await backend._link.api(name, body)
    return answer


async def test_a_killed_server_loses_nothing(server: NatsServer) -> None:
    """F18: jobs that wait, that are leased, scheduled, retried and dead are all there after a SIGKILL."""
    async with open_backend(server.url) as backend:
        async with backend.consume(["q"], lease=8.0) as source:
            await put(backend, jobs(3))
            kept, retried, buried = await take(source, 3)
            await source.settle([(retried, Reschedule(2.0, b"again")), (buried, Bury("why", b"trail"))])
            await put(backend, [*jobs(3), *jobs(2, delay=2.0)])
            server.kill()
            await server.restart()
            found = await take(source, 6)
            assert sorted((one.envelope, one.trail) for one in found if one.trail) == [(retried.envelope, b"again")]
            await settle(source, [*found, kept])
            with anyio.fail_after(15):  # a killed server forgets the latest ends, not their effect: until leases end
                while (await backend.admin.stats(["q"]))[0].leased:
                    await nothing(source)
        [letter] = await backend.admin.letters("q", limit=10)
        assert (letter.envelope, letter.trail, letter.reason) == (buried.envelope, b"trail", "why")


async def test_calls_end_while_a_server_hangs(server: NatsServer) -> None:
    """F21: every call to a frozen server ends within its time; when the server goes on, jobs go on within 15 s."""
    async with open_backend(server.url) as backend, backend.consume(["q"], lease=60.0) as source:
        await put(backend, jobs(2))
        held = await take(source, 1)
        server.pause()
        for call in (backend.publish(jobs(1)), backend.admin.stats(["q"]), source.settle([(held[0], ACK)])):
            began = anyio.current_time()
            try:
                answers: Any = await call
            except BrokerUnavailable:
                answers = []
            assert anyio.current_time() - began < 8
            assert Stored() not in (answers if isinstance(answers, list) else [])
        server.resume()
        began = anyio.current_time()
        await take(source, 1)
        assert anyio.current_time() - began < 15
        await settle(source, held)


async def test_work_resumes_after_a_long_outage(server: NatsServer) -> None:
    """F22: a server that is down for longer than any patience; the worker is alive and goes on."""
    async with open_backend(server.url) as backend, backend.consume(["q"], lease=60.0) as source:
        await put(backend, jobs(1))
        server.kill()
        await anyio.sleep(0.2)
        with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1"):
            await backend.publish(jobs(1))
        await anyio.sleep(4)
        with pytest.raises(BrokerUnavailable):
            await source.receive(1)
        await server.restart()
        await take(source, 1)


async def test_a_wiped_server_is_set_up_again(server: NatsServer, caplog: pytest.LogCaptureFixture) -> None:
    """F23: a server that lost its disk: a loud alarm, and new jobs flow."""
    async with open_backend(server.url) as backend, backend.consume(["q"], lease=60.0) as source:
        await put(backend, jobs(3))
        await take(source, 1)
        server.kill()
        await server.restart(wipe=True)
        with anyio.fail_after(15):
            while True:
                try:
                    if set(await backend.publish(jobs(2))) == {Stored()}:
                        break
                except BrokerUnavailable:
                    await anyio.sleep(0.1)
        await settle(source, await take(source, 2))
    assert [record for record in caplog.records if record.levelno == logging.ERROR and "was deleted" in record.message]


@pytest.mark.parametrize("what", ["consumer", "stream"])
async def test_deleted_streams_and_consumers_are_created_again(
    server: NatsServer, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """F24: consumer or stream are deleted under a worker: an alarm, they are created anew, and no task spins."""
    async with open_backend(server.url) as backend, backend.consume(["q"], lease=60.0) as source:
        await put(backend, jobs(1))
        [held] = await take(source, 1)
        async with anyio.create_task_group() as group:
            found: list[Delivery] = []

            async def receive() -> None:
                found.extend(await take(source, 1 + (what == "consumer")))

            group.start_soon(receive)
            await anyio.sleep(0.2)
            used = time.process_time()
            name = "CONSUMER.DELETE.taskcore-q-q.worker" if what == "consumer" else "STREAM.DELETE.taskcore-q-q"
            assert (await api(backend, name))["success"]
            await anyio.sleep(1.0)
            assert time.process_time() - used < 0.3, "a task spins"
            await put(backend, jobs(1, "q"))
        assert len({one.envelope for one in found}) == 1  # both jobs have the same bytes
        await source.settle([(held, ACK)])
        await settle(source, found)
        [stats] = await backend.admin.stats(["q"])
        assert stats.ready + stats.leased == 0
    alarms = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [f"the {what} of queue q was deleted" in record.message for record in alarms] == [True]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("max_msgs", 10), ("max_age", 600 * 10**9), ("retention", "limits"), ("max_msgs_per_subject", 5)],
)
async def test_other_settings_are_refused(server: NatsServer, setting: str, value: Any) -> None:
    """F25: a stream that is there with settings that break promises is refused with the difference, and not changed."""
    config = {
        "name": "taskcore-q-q", "subjects": ["taskcore.q.q.*", "taskcore.s.q.*"], "retention": "workqueue",
        "discard": "old", "max_msgs_per_subject": 1, "duplicate_window": 120 * 10**9, "allow_msg_schedules": True,
    }  # fmt: skip
    async with open_backend(server.url) as backend:
        made = await api(backend, "STREAM.CREATE.taskcore-q-q", config | {setting: value})
        assert "error" not in made
        with pytest.raises(BrokerUnavailable, match=f"other settings[\\s\\S]*{setting}: {value}, wanted"):
            await backend.publish(jobs(1))
        with pytest.raises(BrokerUnavailable, match=setting):
            async with backend.consume(["q"], lease=1.0):
                pass
        found = (await api(backend, "STREAM.INFO.taskcore-q-q"))["config"]
        assert found[setting] == value


async def test_a_full_queue_refuses(server: NatsServer) -> None:
    """A queue with a limit says no to what does not fit, keeps what it has, and takes again when there is room."""
    async with open_backend(f"{server.url}?max_bytes=64KiB") as backend:
        assert backend.features.delay == "emulated"
        answers = [(await backend.publish([Outgoing("q", f"j{index}", b"x" * 10_000)]))[0] for index in range(10)]
        stored = answers.count(Stored())
        assert 3 <= stored <= 6
        assert all("bytes" in answer.why for answer in answers if isinstance(answer, Refused))
        async with backend.consume(["q"], lease=30.0) as source:
            await settle(source, await take(source, stored))
            with anyio.fail_after(5):
                while (await backend.publish([Outgoing("q", "again", b"x" * 10_000)]))[0] != Stored():  # noqa: ASYNC110
                    await anyio.sleep(0.05)


async def test_a_full_disk(tmp_path: Path) -> None:
    """F26: on a full disk no job is confirmed that is not there; what was confirmed comes after a restart with room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", disk]).returncode:
        pytest.skip("a small disk needs root, and the right to mount")
    try:
        async with require(NatsServer)(config={"jetstream": {"store_dir": str(disk)}}) as server:  # type: ignore[dict-item]
            confirmed: set[bytes] = set()
            async with open_backend(server.url) as backend:
                for number in range(400):
                    try:
                        [answer] = await backend.publish([Outgoing("q", f"j{number}", b"%d " % number + b"x" * 50_000)])
                    except BrokerUnavailable:
                        break
                    if answer != Stored():
                        break
                    confirmed.add(b"%d" % number)
                assert 10 < len(confirmed) < 400
            run(["mount", "-o", "remount,size=64m", "none", disk], check=True)
            await server.restart()
            async with open_backend(server.url) as backend, backend.consume(["q"], lease=30.0) as source:
                found: set[bytes] = set()
                with anyio.move_on_after(20):
                    while not confirmed <= found:
                        batch = await source.receive(50)
                        await settle(source, list(batch))
                        found.update(one.envelope.partition(b" ")[0] for one in batch)
                assert confirmed <= found
                await put(backend, jobs(1))
    finally:
        run(["umount", "-l", disk])


async def test_revoked_credentials(tmp_path: Path) -> None:
    """F44: a client that is thrown out logs why, does not spin, and goes on when the server lets it in again."""
    users = [{"user": "one", "password": "first"}]
    config: Any = {"authorization": {"users": users}, "jetstream": {"store_dir": str(tmp_path / "js")}}
    async with require(NatsServer)(config=config) as server:
        url = server.url.replace("nats://", "nats://one:first@")
        with pytest.raises(BrokerUnavailable, match=r"(?i)authorization"):
            await open_backend(server.url.replace("nats://", "nats://one:wrong@")).__aenter__()
        async with open_backend(url) as backend, backend.consume(["q"], lease=30.0) as source:
            await put(backend, jobs(1))
            conf = server.data.parent / "nats.conf"
            before = conf.read_bytes()
            users[0]["password"] = "second"
            conf.write_bytes(msgspec.json.encode(msgspec.json.decode(before) | config))
            run([server.binary, "--signal", f"reload={server._child.pid}"], check=True)
            await anyio.sleep(0.5)
            used = time.process_time()
            with pytest.raises(BrokerUnavailable, match=r"(?i)authorization"):
                await backend.publish(jobs(1))
            assert time.process_time() - used < 0.5
            conf.write_bytes(before)
            run([server.binary, "--signal", f"reload={server._child.pid}"], check=True)
            await take(source, 1)


async def test_jetstream_has_to_be_there() -> None:
    """A server without JetStream is refused with the fix."""
    config: Any = {"jetstream": "disabled"}
    async with require(NatsServer)(config=config) as server:
        with pytest.raises(BrokerUnavailable, match=r"JetStream[\s\S]*-js"):
            await NatsBackend(server.url).__aenter__()
