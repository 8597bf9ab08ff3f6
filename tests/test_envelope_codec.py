"""The envelope codec: one object makes and reads the bytes of all envelopes of an app, so they can be signed."""

from __future__ import annotations

import hashlib
import hmac
import os

import msgspec
import pytest

from taskcore import App, JobFailed, Retry
from taskcore.backend import Outgoing
from taskcore.envelope import Envelope, EnvelopeCodec, encode_envelope, new_id
from taskcore.errors import MalformedEnvelope
from tests.support.in_processes import Point, where
from tests.support.in_processes import router as process_router
from tests.support.virtual import clock

pytestmark = pytest.mark.anyio


class SigningCodec(EnvelopeCodec):
    """Puts a signature before the envelope, and refuses bytes without it."""

    def __init__(self, secret):
        self.secret = secret

    def encode(self, envelope):
        """Sign an envelope."""
        data = encode_envelope(envelope)
        return hmac.digest(self.secret, data, hashlib.sha256) + data

    def decode(self, data):
        """Check the signature."""
        signature, envelope = data[:32], data[32:]
        if not hmac.compare_digest(signature, hmac.digest(self.secret, envelope, hashlib.sha256)):
            raise MalformedEnvelope("this envelope is not signed by this app")
        return super().decode(envelope)


def make_app(secret=b"secret", **settings):
    """Make an app that signs."""
    app = App("memory://", clock=clock, codec=SigningCodec(secret), retry=Retry(attempts=1), **settings)

    @app.task(name="greet")
    async def greet(name: str) -> str:
        return f"hello {name}"

    @app.task(name="fail", key="number")
    async def fail(number: int) -> None:
        raise ValueError(number)

    return app


@pytest.mark.virtual
async def test_jobs_are_signed_and_run():
    """What is stored begins with the signature; the worker reads it through the same codec."""
    app = make_app()
    stored = []
    async with app:
        publish = app.components.backend.publish

        async def watched(batch):
            stored.extend(job.envelope for job in batch)
            return await publish(batch)

        app.components.backend.publish = watched
        async with app.running():
            job = await app.tasks["greet"].enqueue("Ada")
            assert await job.result(timeout=5) == "hello Ada"
    [data] = stored
    assert not data.startswith(b"{")
    assert app.components.codec.decode(data).id == job.id


@pytest.mark.virtual
async def test_dead_letters_are_read_and_replayed():
    """A dead letter shows its envelope, and its replay is signed, too."""
    app = make_app()
    async with app.running():
        with pytest.raises(JobFailed):
            await (await app.tasks["fail"].enqueue(7)).result(timeout=5)
        [letter] = [letter async for letter in app.dead_letters.read()]
        assert (letter.task, letter.args) == ("fail", {"number": 7})
        again = await app.dead_letters.replay(letter.id)
        await app.drain(timeout=5)
        assert again in [letter.job_id async for letter in app.dead_letters.read()]


@pytest.mark.virtual
async def test_an_unsigned_envelope_is_buried():
    """An envelope without a signature never reaches a function; the job beside it is done."""
    app = make_app()
    envelope = Envelope(v=1, id=new_id(), task="greet", args=msgspec.Raw(b'{"name":"Eve"}'), enqueued_at=0.0)
    async with app.running():
        await app.components.backend.publish([Outgoing("default", envelope.id, encode_envelope(envelope))])
        assert await (await app.tasks["greet"].enqueue("Ada")).result(timeout=5) == "hello Ada"
        await app.drain(timeout=5)
        [letter] = [letter async for letter in app.dead_letters.read()]
    assert "not signed by this app" in letter.reason
    assert (letter.envelope, letter.raw) == (None, encode_envelope(envelope))


async def test_processes_need_no_secret():
    """A function in a process of its own gets a plain envelope: the codec and its secret stay in the worker."""
    app = App("memory://", codec=SigningCodec(b"secret"), retry=Retry(attempts=1))
    app.include(process_router)
    async with app.running():
        pid, point = await (await where.enqueue(Point(1, 2))).result(timeout=15)
    assert (pid != os.getpid(), point) == (True, Point(2, 4))
