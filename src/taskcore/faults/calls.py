"""What can go wrong with one call, and Faults: what goes wrong next with the calls of a wrapper."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Literal, TypeAlias, TypeVar

import anyio
import anyio.lowlevel
import msgspec

from taskcore.errors import BrokerUnavailable

__all__ = ["CallFault", "Delay", "DropReply", "Fail", "Faults", "Hang", "LateReply", "Reorder", "Twice"]

T = TypeVar("T")
Item = TypeVar("Item")

#: A verb as the wrappers hand it over: a batch in, an answer out.
Do: TypeAlias = Callable[[Sequence[Item]], Awaitable[T]]


class Fail(msgspec.Struct, frozen=True):
    """Nothing is done, and BrokerUnavailable says so. ``error`` raises something else instead."""

    error: BaseException | None = None


class Hang(msgspec.Struct, frozen=True):
    """Nothing is done and nothing is answered, until ``heal``; then BrokerUnavailable."""


class Delay(msgspec.Struct, frozen=True):
    """It is done after so many seconds."""

    seconds: float


class LateReply(msgspec.Struct, frozen=True):
    """It is done at once, and its reply comes after so many seconds: other calls see what it did before its caller."""

    seconds: float


class DropReply(msgspec.Struct, frozen=True):
    """The call is carried out, and its reply is lost.

    :param how: ``"honest"``: Uncertain for publish, BrokerUnavailable for the rest; ``"raise"``: BrokerUnavailable
        always; ``"hang"``: no answer until ``heal``, then as honest.
    """

    how: Literal["honest", "raise", "hang"] = "honest"


class Twice(msgspec.Struct, frozen=True):
    """It is done twice, as after a repeated request; the first answer counts."""


class Reorder(msgspec.Struct, frozen=True):
    """The batch is done from its end to its beginning; answers are in the caller's order. Deliveries come reversed."""


CallFault: TypeAlias = Fail | Hang | Delay | LateReply | DropReply | Twice | Reorder


class Faults:
    """What goes wrong next, and how often each verb was called.

    A verb meets the next fault that is planned for it, else the one that is always there for it, else none.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()  #: tries by verb, failed ones included
        self.partitioned = False
        self._planned: defaultdict[str, deque[CallFault | None]] = defaultdict(deque)
        self._always: dict[str, CallFault] = {}
        self._healed = anyio.Event()
        self._waiting: set[anyio.CancelScope] = set()

    # ── commands ──

    def next(self, verb: str, fault: CallFault, *, times: int = 1) -> None:
        """Plan this fault for the next call of the verb, or the next so many."""
        self._planned[verb].extend([fault] * times)

    def play(self, verb: str, script: Iterable[CallFault | None]) -> None:
        """Plan these faults for the next calls of the verb, one each; None is a call that goes well."""
        self._planned[verb].extend(script)

    def always(self, verb: str, fault: CallFault) -> None:
        """Plan this fault for every call of the verb from now on, except where something else is planned."""
        self._always[verb] = fault

    def partition(self) -> None:
        """Cut the connection: every verb fails, and so does each call that waits for deliveries or changes."""
        self.partitioned = True
        for scope in tuple(self._waiting):
            scope.cancel()

    def heal(self) -> None:
        """End all faults: nothing is planned any more, and calls that hang end with BrokerUnavailable."""
        self.partitioned = False
        self._planned.clear()
        self._always.clear()
        self._healed.set()
        self._healed = anyio.Event()

    # ── what the wrappers ask ──

    async def around(
        self,
        verb: str,
        batch: Sequence[Item],
        do: Do[Item, T],
        *,
        unsure: Callable[[Sequence[Item]], T] | None = None,
        reorder: Callable[[T], T] = lambda answer: answer,
    ) -> T:
        """Carry a verb out, or whatever the fault makes of it.

        :param unsure: the answer when the outcome is unknown; None: BrokerUnavailable.
        :param reorder: brings an answer into the opposite order.
        """
        fault = self._meet(verb)
        match fault:
            case None:
                return await do(batch)
            case Fail(error=error):
                await anyio.lowlevel.checkpoint()
                raise error if error is not None else _broker_gone(verb)
            case Hang():
                await self._healed.wait()
                raise _broker_gone(verb)
            case Delay() | LateReply():
                return await _slowly(fault, batch, do)
            case DropReply(how=how):
                await do(batch)
                if how == "hang":
                    await self._healed.wait()
                if how == "raise" or unsure is None:
                    raise _no_reply(verb)
                return unsure(batch)
            case Twice():
                first = await do(batch)
                await do(batch)
                return first
            case Reorder():
                return reorder(await do(batch[::-1]))

    async def unless_cut(self, verb: str, wait: Callable[[], Awaitable[T]]) -> T:
        """Wait for something that a partition ends at once, as a lost connection would."""
        with anyio.CancelScope() as scope:
            self._waiting.add(scope)
            try:
                return await wait()
            finally:
                self._waiting.discard(scope)
        raise _broker_gone(verb)

    def _meet(self, verb: str) -> CallFault | None:
        general = verb.partition(".")[0]
        names = list(dict.fromkeys((verb, general)))  # "admin.remove" and "admin", the exact one first
        self.calls.update(names)
        if self.partitioned:
            return Fail()
        for name in names:
            if self._planned[name]:
                return self._planned[name].popleft()
        return next((self._always[name] for name in names if name in self._always), None)


async def _slowly(fault: Delay | LateReply, batch: Sequence[Item], do: Do[Item, T]) -> T:
    if isinstance(fault, LateReply):
        answer = await do(batch)
        await anyio.sleep(fault.seconds)
        return answer
    await anyio.sleep(fault.seconds)
    return await do(batch)


def _broker_gone(verb: str) -> BrokerUnavailable:
    return BrokerUnavailable(f"{verb}: unreachable", facts=["a fault of the test kit"])


def _no_reply(verb: str) -> BrokerUnavailable:
    return BrokerUnavailable(f"{verb}: the reply was lost", facts=["a fault of the test kit"])
