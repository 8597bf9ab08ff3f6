"""Dead letters: readable, replayable once, gone only when a caller drops them (C13)."""

from __future__ import annotations

import anyio
import pytest

from taskcore import App, EnqueueRefused, EnqueueUncertain, ErrorRecord, JobFailed, LetterNotFound, Retry, current
from taskcore.backend import Outgoing, Refused, Uncertain
from taskcore.deadletter import DeadLetter, LetterVerdict, ReplayWith, fingerprint
from taskcore.stores.memory import MemoryStore
from tests.support.faulty import FaultyBackend, letters
from tests.support.virtual import clock

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]


class Ward:
    """Make an app with a task that fails until a flag is set."""

    def __init__(self, **options) -> None:
        self.backend = FaultyBackend()
        self.app = App(self.backend, store=MemoryStore(), clock=clock, retry=Retry(attempts=1))
        self.ill = True
        self.contexts = []

        @self.app.task(name="work", **options)
        async def work(number: int) -> int:
            self.contexts.append(current())
            if self.ill:
                raise ValueError(number)
            return number

        self.work = work

    async def bury(self, count: int, **sending):
        """Make so many dead letters."""
        async with self.app.running(concurrency=1):  # so that they die in order
            for number in range(count):
                await self.work.using(**sending).enqueue(number)
            await self.app.drain(timeout=60)
        return await letters(self.app)


@pytest.fixture
def ward():
    """Make an app with a task that fails."""
    return Ward()


async def test_reading(ward):
    """Oldest first, complete, of one queue, of one task if asked for."""

    @ward.app.task(name="other")
    async def other() -> None:
        raise OSError

    @ward.app.task(name="elsewhere", queue="mail")
    async def elsewhere() -> None:
        raise OSError

    async with ward.app.running():
        await ward.work.enqueue(1)
        await ward.app.drain(timeout=5)
        await other.enqueue()
        await elsewhere.enqueue()
        await ward.app.drain(timeout=5)

        dead = ward.app.dead_letters
        assert [letter.task for letter in await letters(ward.app)] == ["work", "other"]
        assert [letter.task async for letter in dead.read(task="other")] == ["other"]
        assert [letter.task async for letter in dead.read("mail")] == ["elsewhere"]
        assert [await dead.count(), await dead.count("mail"), await dead.count("nowhere")] == [2, 1, 0]


async def test_many_pages(ward):
    """Reading goes on over all pages."""
    async with ward.app:
        found = await ward.bury(250)

        assert [letter.args["number"] for letter in found] == list(range(250))
        assert await ward.app.dead_letters.count() == 250


async def test_replaying_while_reading(ward):
    """Replaying and dropping inside the loop skips and repeats nothing."""
    async with ward.app:
        await ward.bury(250)
        seen = []
        dead = ward.app.dead_letters
        async for letter in dead.read():
            number = letter.args["number"]
            seen.append(number)
            if number % 3 == 0:
                await dead.replay(letter.id)
            elif number % 3 == 1:
                await dead.drop(letter.id)

        assert seen == list(range(250))
        assert await dead.count() == 83
        assert (await ward.app.stats()).ready == 84


async def test_one_letter(ward):
    """A letter can be fetched by its id."""
    async with ward.app:
        [letter] = await ward.bury(1)

        assert await ward.app.dead_letters.get(letter.id) == letter
        assert letter.when > 0


async def test_replay(ward):
    """A replay is a new job with the same arguments that links back, and starts with a clean slate."""
    async with ward.app:
        [letter] = await ward.bury(1, headers={"tenant": "7"}, correlation_id="c", expires=100.0)
        await anyio.sleep(200)
        ward.ill = False
        new_id = await ward.app.dead_letters.replay(letter.id)
        async with ward.app.running():
            assert await ward.work.job(new_id).result(timeout=5) == 0

    first, second = ward.contexts
    assert new_id not in (letter.job_id, letter.id)
    assert (second.job_id, second.trail.replay_of) == (new_id, letter.job_id)
    assert (second.attempt, second.trail.errors, second.crashes) == (1, (), 0)
    assert (second.headers, second.correlation_id, second.deadline) == ({"tenant": "7"}, "c", None)
    assert first.deadline is not None


async def test_a_replay_belongs_to_its_first_job(ward):
    """Without a correlation of its own a replay is correlated with the job it replays."""
    async with ward.app:
        [letter] = await ward.bury(1)
        await ward.app.dead_letters.replay(letter.id)
        async with ward.app.running():
            await ward.app.drain(timeout=5)

    assert ward.contexts[1].correlation_id == letter.job_id


async def test_replaying_twice_is_one_job(ward):
    """Two callers that replay a letter at the same time make one job; later there is no letter to replay."""
    async with ward.app:
        [letter] = await ward.bury(1)
        ids = []

        class Slow(type(ward.backend.admin)):
            async def letter(self, letter_id):
                found = await super().letter(letter_id)
                await anyio.sleep(0.1)  # so that both have read it before one of them replays
                return found

        dead = ward.app.dead_letters
        dead._admin = Slow(ward.backend._ledger)

        async def replay() -> None:
            ids.append(await dead.replay(letter.id))

        async with anyio.create_task_group() as group:
            group.start_soon(replay)
            group.start_soon(replay)

        assert len(set(ids)) == 1
        assert (await ward.app.stats()).ready == 1
        with pytest.raises(LetterNotFound):
            await ward.app.dead_letters.replay(letter.id)


async def test_a_replay_may_fail_again(ward):
    """A replay that fails is a letter of its own, and can be replayed like any other."""
    async with ward.app:
        [first] = await ward.bury(1)
        async with ward.app.running():
            new_id = await ward.app.dead_letters.replay(first.id)
            await ward.app.drain(timeout=5)
            [second] = await letters(ward.app)
            newer_id = await ward.app.dead_letters.replay(second.id)
            await ward.app.drain(timeout=5)
            [third] = await letters(ward.app)

    assert (second.job_id, second.trail.replay_of) == (new_id, first.job_id)
    assert (third.job_id, third.trail.replay_of) == (newer_id, new_id)
    assert len({first.id, second.id, third.id}) == 3


async def test_a_job_with_a_key():
    """A dead job has released its key, so its replay may run under it, and duplicates get the replay's outcome."""
    ward = Ward(key="number")
    async with ward.app:
        [letter] = await ward.bury(1)
        ward.ill = False
        async with ward.app.running():
            new_id = await ward.app.dead_letters.replay(letter.id)
            assert await ward.work.job(new_id).result(timeout=5) == 0
            duplicate = await ward.work.enqueue(0)

            assert await duplicate.result(timeout=5) == 0
    assert duplicate.id == new_id
    assert len(ward.contexts) == 2


async def test_a_malformed_letter_cannot_be_replayed(ward):
    """A malformed letter can be read and dropped; replaying it says what to do instead."""
    async with ward.app.running():
        await ward.backend.publish([Outgoing("default", "x", b"\xff")])
        await anyio.sleep(1)
        [letter] = await letters(ward.app)
        with pytest.raises(LetterNotFound, match="does not hold an envelope") as caught:
            await ward.app.dead_letters.replay(letter.id)
        assert "raw" in caught.value.fix

        await ward.app.dead_letters.drop(letter.id)
        assert await ward.app.dead_letters.count() == 0


@pytest.mark.parametrize("verb", ["get", "replay", "drop"])
@pytest.mark.parametrize("letter_id", ["", "1", "1.x", "no such", "999999.x"])
async def test_letters_that_are_not_there(ward, verb, letter_id):
    """An unknown id is an error, and says how to find the right one."""
    async with ward.app:
        with pytest.raises(LetterNotFound, match="no dead letter") as caught:
            await getattr(ward.app.dead_letters, verb)(letter_id)

    assert "read(queue)" in caught.value.fix


async def test_a_replay_that_was_refused(ward):
    """What the broker refuses, or does not answer, leaves the letter where it is."""
    async with ward.app:
        [letter] = await ward.bury(1)
        dead = ward.app.dead_letters
        for answer, error in ((Uncertain("no answer"), EnqueueUncertain), (Refused("full"), EnqueueRefused)):

            class Unwilling(type(ward.backend.admin)):
                answer_is = answer

                async def replay(self, letter_id, job):
                    return self.answer_is

            dead._admin = Unwilling(ward.backend._ledger)
            with pytest.raises(error, match=answer.why):
                await dead.replay(letter.id)

            assert await dead.count() == 1


async def test_letters_stay(ward):
    """Nothing but a person takes a letter away; a year changes nothing."""
    async with ward.app:
        [letter] = await ward.bury(1)
        await anyio.sleep(365 * 86_400)

        assert await letters(ward.app) == [letter]
        with pytest.raises(JobFailed):
            async with ward.app.running():
                await (await ward.work.enqueue(2)).result(timeout=5)
        assert await ward.app.dead_letters.count() == 2


# ── in one pass ──────────────────────────────────────────────────────────────────────────────────


async def test_settling_all(ward):
    """A pass keeps, drops and replays as its function says, over many pages, and says what it did."""
    async with ward.app:
        await ward.bury(1_250)

        def thirds(letter: DeadLetter) -> LetterVerdict:
            return ("keep", "drop", "replay")[letter.args["number"] % 3]

        settled = await ward.app.dead_letters.settle(by=thirds)
        assert (settled.kept, settled.dropped, settled.replayed, settled.failed) == (417, 417, 416, 0)
        assert len(set(settled.jobs)) == 416
        assert [letter.args["number"] % 3 for letter in await letters(ward.app)] == [0] * 417
        assert (await ward.app.stats()).ready == 416


async def test_replaying_with_changes(ward):
    """A replay may have other arguments, and a delay."""
    async with ward.app:
        await ward.bury(2)
        ward.ill = False
        settled = await ward.app.dead_letters.settle(
            by=lambda letter: ReplayWith(delay=60.0 * letter.args["number"], args={"number": 7})
        )
        stats = await ward.app.stats()
        assert (stats.ready, stats.scheduled) == (1, 1)
        async with ward.app.running():
            assert [await ward.work.job(job_id).result(timeout=100) for job_id in settled.jobs] == [7, 7]


async def test_what_cannot_be_replayed_stays(ward):
    """A letter that is no envelope, and one whose replay is refused, stay and are named; the others are replayed."""
    async with ward.app.running():
        await ward.backend.publish([Outgoing("default", "x", b"\xff")])
        await ward.app.drain(timeout=5)
    async with ward.app:
        await ward.bury(2)
        publish, refused = ward.backend._ledger.publish, []

        def refuse_one(job, now, **options):
            if not refused:
                refused.append(job.id)
                return Refused("no room")
            return publish(job, now, **options)

        ward.backend._ledger.publish = refuse_one
        settled = await ward.app.dead_letters.settle(by=lambda _: "replay")
        assert (settled.replayed, settled.failed) == (1, 2)
        assert [problem.partition(": ")[2] for problem in settled.problems] == [
            "it does not hold an envelope, so there is no job to replay",
            "no room",
        ]
        assert await ward.app.dead_letters.count() == 2


async def test_an_error_of_the_judge(ward):
    """What the function raises comes out; the letters of that page stay."""
    async with ward.app:
        await ward.bury(3)
        with pytest.raises(ZeroDivisionError):
            await ward.app.dead_letters.settle(by=lambda letter: 1 / 0)
        assert await ward.app.dead_letters.count() == 3


async def test_causes(ward):
    """Letters are grouped by what they died of, the largest group first; the newest letter speaks for its group."""
    async with ward.app.running(concurrency=1):
        for number in range(3):
            await ward.work.enqueue(number)
        await ward.backend.publish([Outgoing("default", "x", b"\xff")])
        await ward.app.drain(timeout=60)
        first, second = await ward.app.dead_letters.causes()
        [*_, newest] = [letter async for letter in ward.app.dead_letters.read(task="work")]

    assert (first.letters, first.task, first.why, first.replays) == (3, "work", "ValueError: 2", 0)
    assert (first.newest, first.last) == (newest.id, newest.when)
    assert newest.cause == first.fingerprint != second.fingerprint
    assert (second.letters, second.task, second.reason[:10]) == (1, "", "malformed:")


async def test_the_replays_of_a_job_are_counted(ward):
    """A letter knows how many replays led to it."""
    async with ward.app.running():
        await ward.work.enqueue(1)
        for replays in range(3):
            await ward.app.drain(timeout=60)
            [letter] = await letters(ward.app)
            assert letter.trail.replays == replays
            await ward.app.dead_letters.settle(by=lambda _: "replay")


def error(type: str = "OSError", message: str = "no", where: str = "shop/ship.py:12 in ship") -> ErrorRecord:
    """Make the record of an error."""
    return ErrorRecord(type=type, message=message, when=0.0, worker="w", attempt=1, where=where)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (error(), error(where="shop/ship.py:99 in ship"), True),
        (error(), error(message="another text"), True),
        (error(), error(where="shop/ship.py:12 in pay"), False),
        (error(), error(type="ValueError"), False),
        (error(where="", message="order 7 of 'ada'"), error(where="", message="order 12 of 'bob'"), True),
        (error(where="", message="closed"), error(where="", message="full"), False),
        (None, None, True),
        (None, error(), False),
    ],
)
def test_what_makes_a_cause(one, other, same):
    """The type and the function count, line numbers do not; a text counts where no function is known."""
    assert (fingerprint("ship", "exhausted", one) == fingerprint("ship", "exhausted", other)) is same
    assert fingerprint("ship", "exhausted", one) != fingerprint("pay", "exhausted", one)
    assert fingerprint("ship", "exhausted", one) != fingerprint("ship", "not retryable", one)
