"""Publishing ticks: from a claim to a job, under an id and a key that follow from schedule and instant.

The client's keyed sending claims the key, publishes and confirms, so a tick is one job on every broker, however often
it is published. A task's own key wins. A task that runs at most once has no key, and is published once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from taskcore.client.host import AppHost
from taskcore.components import Components
from taskcore.envelope import Tick
from taskcore.errors import BrokerUnavailable, EnqueueRefused, EnqueueUncertain, TaskcoreError
from taskcore.options import CallOptions
from taskcore.schedules.record import PackedCall, ScheduleRecord, TickClaim, tick_key
from taskcore.task import Call, Job, Task
from taskcore.toolkit.logging import logger

__all__ = ["TickAnswer", "ToPublish", "moment", "pack_call", "publish", "tick_call"]

log = logger("taskcore.schedules")

#: sent: the broker has it. unsent: it surely has not. uncertain: it may have. failed: it never will. lost: it may have
#: had it, so long ago that nothing would notice a second copy.
TickAnswer: TypeAlias = Literal["sent", "unsent", "uncertain", "failed", "lost"]

KEY_WINDOW_SHARE = 0.9  #: of ``key_window``: for so long a claim may be published again; clocks differ a little


class ToPublish(NamedTuple):
    """A claimed tick of a schedule."""

    record: ScheduleRecord
    claim: TickClaim


def pack_call(call: Call[Any]) -> PackedCall:
    """Pack a call for the record of a schedule."""
    options = call.options
    return PackedCall(
        task=call.task.name,
        version=call.task.contract.version,
        args=msgspec.Raw(call.payload),
        key=call.key,
        queue=options.queue,
        delay=options.delay,
        headers=dict(options.headers),
        expires=options.expires,
        correlation_id=options.correlation_id,
        timeout=options.timeout,
        soft_timeout=(options.rare or {}).get("soft_timeout"),
        retry=options.retry,
        at_most_once=call.task.spec.delivery == "at_most_once",
    )


def tick_call(packed: PackedCall, task: Task[..., Any], tick: Tick, *, id: str | None, key: str | None) -> Call[Any]:
    """Make the call of a tick from the record of its schedule; older arguments are brought to the task's version.

    :raises InvalidArguments: they do not fit the task any more (TC302).
    """
    payload, contract = bytes(packed.args), task.contract
    if packed.version != contract.version:
        payload = contract.encode(contract.unpack(packed.args, packed.version))
    options = CallOptions(
        delay=packed.delay,
        key=key,
        queue=packed.queue,
        headers=packed.headers,
        expires=packed.expires,
        id=id,
        correlation_id=packed.correlation_id,
        timeout=packed.timeout,
        retry=packed.retry,
        rare={"tick": tick, "soft_timeout": packed.soft_timeout},
    )
    return Call(task, payload, key, options)


def moment(instant: int) -> datetime:
    """Return an instant in milliseconds as a date and time in UTC."""
    return datetime.fromtimestamp(instant / 1000, UTC)


async def publish(
    host: AppHost, components: Components, tasks: Mapping[str, Task[..., Any]], ticks: Sequence[ToPublish], now: int
) -> list[TickAnswer]:
    """Publish claimed ticks in few batches; what became of each."""
    answers: list[TickAnswer] = ["failed"] * len(ticks)
    calls: dict[int, Call[Any]] = {}
    for number, (record, claim) in enumerate(ticks):
        if now - claim.since > tasks[record.call.task].options.key_window * 1000 * KEY_WINDOW_SHARE:
            answers[number] = "lost"
            log.error(
                "schedule %s: whether the tick of %s was sent is forgotten since %s, when it was claimed; it is not "
                "sent again, and counts as lost",
                record.id, moment(claim.at), moment(claim.since),
            )  # fmt: skip
            continue
        try:
            calls[number] = _call_of(record, claim, tasks)
        except TaskcoreError as error:
            _tell_failed(components, record, error)
    if not calls:
        return answers
    jobs: Sequence[Job[Any] | None]
    try:
        jobs = await host.client.send_many(list(calls.values()))
    except TaskcoreError as error:
        jobs = getattr(error, "jobs", None) or [None] * len(calls)
        if isinstance(error, BrokerUnavailable) and not any(jobs):
            log.warning("%d ticks wait for the broker: %s", len(calls), error.what)
            return [("unsent" if number in calls else answer) for number, answer in enumerate(answers)]
    for (number, call), job in zip(calls.items(), jobs, strict=True):
        answers[number] = "sent" if job is not None else await _publish_one(host, components, ticks[number], call)
    return answers


async def _publish_one(host: AppHost, components: Components, tick: ToPublish, call: Call[Any]) -> TickAnswer:
    """Publish one tick that did not go with its batch."""
    if tick.record.call.at_most_once:  # the batch may have stored it
        return "uncertain"
    try:
        await host.client.send(call)
    except (BrokerUnavailable, EnqueueRefused) as error:
        log.warning("a tick of schedule %s is published later: %s", tick.record.id, error.what)
        return "unsent"
    except EnqueueUncertain:
        return "uncertain"
    except TaskcoreError as error:
        _tell_failed(components, tick.record, error)
        return "failed"
    return "sent"


def _call_of(record: ScheduleRecord, claim: TickClaim, tasks: Mapping[str, Task[..., Any]]) -> Call[Any]:
    packed, schedule = record.call, claim.of or record.id
    key = None if packed.at_most_once else packed.key or tick_key(schedule, claim.at)
    previous = None if claim.previous is None else moment(claim.previous)
    tick = Tick(schedule=record.id, at=moment(claim.at), previous=previous)
    return tick_call(packed, tasks[packed.task], tick, id=claim.id, key=key)


def _tell_failed(components: Components, record: ScheduleRecord, error: TaskcoreError) -> None:
    components.events.emit("schedule.failed", schedule=record.id, task=record.call.task, error=error)
    log.error("a tick of schedule %s cannot be sent, and is dropped: %s", record.id, error)
