"""The least that a user of the broker has to be permitted, and what is said where that is missing."""

from __future__ import annotations

import re
from pathlib import Path

import anyio
import pytest

from taskcore import App, BrokerUnavailable, EnqueueRefused, Retry, current
from taskcore.backend import Outgoing, Stored
from taskcore.backends.rabbitmq import RabbitBackend
from taskcore.lifecycle import ACK

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300, func_only=True)]  # eight commands, of up to 16 s each

DOCS = Path(__file__).parents[3] / "docs" / "backends" / "rabbitmq.md"
RECIPE = r"^rabbitmqctl set_permissions -p jobs (\w+) +'(.*)' '(.*)' '(.*)'$"


@pytest.fixture(scope="module")
def recipe():
    """Read what each user may configure, write and read, as the docs have it."""
    if not DOCS.exists():
        pytest.skip("the docs are in the checkout only")
    found = re.findall(RECIPE, DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    return {user: permissions for user, *permissions in found}


@pytest.fixture(scope="module")
def let_in(node):
    """Make a user with permissions; return its URL. The virtual host is there for these users only."""
    anyio.run(node.control, "-q", "add_vhost", "jobs")

    async def make(name, permissions=None):
        await node.control("-q", "add_user", name, "secret")
        if permissions is not None:
            await node.control("-q", "set_permissions", "-p", "jobs", name, *permissions)
        return f"amqp://{name}:secret@127.0.0.1:{node.port}/jobs?min_queue_age=0.1&timeout=3"

    return make


def app_of(url, folder):
    """Make an app with a task that succeeds with 1, after a retry with 0, and never with -9."""
    app = App(url, store=f"sqlite:///{folder / 'records.db'}", lease=10.0)

    @app.task(name="work", queue="mail", retry=Retry(attempts=2, base=0.1))
    async def work(number):
        if number + current().attempt < 2:
            raise ValueError(number)
        return number

    return app


async def open_mail(url):
    """Declare the queue, and let jobs in."""
    async with RabbitBackend(url) as backend:
        assert await backend.publish([Outgoing("mail", "0", b"the first one")]) == [Stored()]
        await backend.admin.purge("mail")


async def test_the_least_that_works(let_in, recipe, tmp_path):
    """Once the queues are declared, a sender and a worker that may declare nothing send, delay, retry and bury."""
    assert set(recipe) == {"opener", "worker", "sender", "reader"}
    urls = {name: await let_in(name, permissions) for name, permissions in recipe.items()}
    await open_mail(urls["opener"])
    async with app_of(urls["sender"], tmp_path) as client, app_of(urls["worker"], tmp_path).running(concurrency=5):
        work = client.tasks["work"]
        jobs = await client.enqueue_many([work.call(1), work.using(delay=0.3).call(2), work.call(0), work.call(-9)])
        assert [await job.result(timeout=10) for job in jobs[:3]] == [1, 2, 0]
        assert (await jobs[3].outcome(timeout=10)).reason == "exhausted"
        assert (await client.stats("mail")).ready == 0
    async with app_of(urls["reader"], tmp_path) as reader:
        [letter] = [letter async for letter in reader.dead_letters.read("mail")]
        await reader.dead_letters.replay(letter.id)
        assert (await reader.stats("mail")).ready == 1
    async with RabbitBackend(urls["worker"]) as backend, backend.consume(["mail"], lease=10.0) as source:
        [again] = await source.receive(1)
        assert not await source.settle([(again, ACK)])


async def test_a_missing_permission_is_named(let_in, recipe, tmp_path):
    """Each time: what failed, which name and user it is about, and what to permit; nothing is uncertain or hangs."""
    await open_mail(await let_in("first", recipe["opener"]))
    async with app_of(await let_in("mute", ("^$", "^tc\\.schedule$", "^$")), tmp_path) as app:
        with pytest.raises(EnqueueRefused, match=r"may not write to exchange tc\.jobs; permit it: rabbitmqctl"):
            await app.tasks["work"].enqueue(1)
    async with RabbitBackend(await let_in("deaf", ("^$", "^tc\\.jobs$", "^$"))) as backend:
        async with backend.consume(["mail"], lease=10.0) as source:
            with anyio.fail_after(20), pytest.raises(BrokerUnavailable, match=r"tc\.q\.mail.*'deaf'") as caught:
                await source.receive(1)
        assert "read" in caught.value.fix
        with pytest.raises(BrokerUnavailable, match=r"tc\.dead\.mail\.reader.*'deaf'") as caught:
            await backend.admin.letters("mail", limit=1)
        assert "rabbitmqctl set_permissions" in caught.value.fix
        with pytest.raises(
            BrokerUnavailable, match=r"queue tc\.dead\.new does not exist, and this user may not make it"
        ):
            async with backend.consume(["new"], lease=10.0):
                pass
    with pytest.raises(BrokerUnavailable, match="no permission in it"):
        async with RabbitBackend(await let_in("stranger")):
            pass
