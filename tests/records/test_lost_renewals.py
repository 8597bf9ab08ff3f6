"""A renewal of a key whose answer is lost: the key is still held by this start, and its outcome is committed (C10)."""

from __future__ import annotations

import pytest

from taskcore.errors import BrokerUnavailable
from taskcore.records.keys import Acquired, Completed, IdempotencyKeys, KeyRecord
from taskcore.store import Store
from taskcore.stores.memory import MemoryStore

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]


class _AnswerLost(MemoryStore):
    """A store that writes, and once does not answer."""

    lost = False

    async def put_many(self, writes):
        """Write; raise instead of the answer while it is to be lost."""
        answers = await super().put_many(writes)
        if self.lost:
            self.lost = False
            raise BrokerUnavailable("the answer was lost")
        return answers


async def _acquire(keys: IdempotencyKeys, job: str, now: float) -> Acquired | Completed:
    claim = KeyRecord(key="k", job=job, args="", queue="default")
    acquired = await keys.acquire("key/t/1", claim, lease=10.0, now=now, keep=100.0)
    assert isinstance(acquired, Acquired | Completed)
    return acquired


async def test_an_outcome_after_a_lost_renewal_is_committed() -> None:
    """The outcome is in the record of the key, although its version was not the one that the holder knew."""
    store = _AnswerLost()
    keys = IdempotencyKeys(store)
    held = await _acquire(keys, "one", 0.0)
    assert isinstance(held, Acquired)
    store.lost = True
    with pytest.raises(BrokerUnavailable):
        await keys.renew_many([held], 20.0)
    assert await keys.commit([(held, b'{"state":"succeeded"}')]) == [None]
    found = await _acquire(keys, "two", 1_000.0)
    assert found == Completed("one", b'{"state":"succeeded"}')


async def test_a_key_that_another_start_holds_stays_its_own() -> None:
    """A late holder commits nothing over the start that took the key over."""
    store: Store = MemoryStore()
    keys = IdempotencyKeys(store)
    late = await _acquire(keys, "one", 0.0)
    assert isinstance(late, Acquired)
    await _acquire(keys, "two", 50.0)
    [answer] = await keys.commit([(late, b'{"state":"succeeded"}')])
    assert answer is not None
