"""Publishing the jobs of a workflow under ids that follow from it, so that a repeat is noticed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from taskcore.backend import Backend, Outgoing, Refused, Uncertain
from taskcore.components import Components
from taskcore.errors import BrokerUnavailable
from taskcore.task import Call
from taskcore.workflows.decide import StepKey
from taskcore.workflows.envelope import STEP_FORMAT, StepEnvelope
from taskcore.workflows.names import begin_id, compensate_id, deadline_id, expand_id, guard_id, step_id, undo_id
from taskcore.workflows.plan import CHUNK, OPEN_WIDTH, PartOf, Plan, StepPlan, UndoPlan

__all__ = ["StepSender"]


class StepSender:
    """Makes and publishes the messages of steps.

    :param source: the sender's name, written into the envelopes.
    """

    def __init__(self, components: Components, source: str | None) -> None:
        self._backend: Backend = components.backend
        self._clock: Callable[[], float] = components.clock
        self._encode = components.codec.encode
        self._source = source

    def message(
        self,
        workflow: str,
        plan: Plan,
        key: StepKey,
        *,
        width: int = 0,
        args: bytes = b"{}",
        own_key: str | None = None,
    ) -> Outgoing:
        """Make the message of a step, of a child of a map, or of a map's first expansion.

        :param own_key: the idempotency key of a child that has one of its own.
        """
        if key.child is not None:
            of = PartOf(workflow=workflow, part="child", step=key.step, index=key.child, width=width)
            return self._message(plan, of, step_id(workflow, key), args, plan.steps[key.step].delay, own_key)
        if plan.steps[key.step].over is not None:
            return self.expansion(workflow, plan, key.step, 0)
        of = PartOf(workflow=workflow, step=key.step)
        return self._message(plan, of, step_id(workflow, key), args, plan.steps[key.step].delay)

    def expansion(self, workflow: str, plan: Plan, number: int, chunk: int, width: int = 0) -> Outgoing:
        """Make the message of the job that publishes a part of a map's children."""
        of = PartOf(workflow=workflow, part="expand", step=number, index=chunk, width=width)
        return self._message(plan, of, expand_id(workflow, number, chunk), b"{}", 0.0)

    def beginning(self, workflow: str, plan: Plan) -> Outgoing:
        """Make the message of the job that publishes the first steps; of the first step, if it is one."""
        roots = list(plan.roots)
        if len(roots) == 1:
            return self.message(workflow, plan, StepKey(roots[0]))
        of = PartOf(workflow=workflow, part="begin", step=roots[0])
        return self._message(plan, of, begin_id(workflow), b"{}", 0.0)

    def call(self, workflow: str, plan: Plan, index: int, call: Call[Any]) -> Outgoing:
        """Make the message of a job of a batch."""
        of = PartOf(workflow=workflow, part="child", index=index, width=OPEN_WIDTH)
        task, options = call.task, call.options
        envelope = StepEnvelope(
            v=STEP_FORMAT,
            id=step_id(workflow, StepKey(0, index)),
            task=task.name,
            version=task.contract.version,
            queue=options.queue or task.options.queue,
            args=msgspec.Raw(call.payload),
            enqueued_at=self._clock(),
            deadline=plan.deadline,
            correlation_id=plan.correlation_id,
            source=self._source,
            headers=dict(options.headers),
            key=options.key,
            timeout=options.timeout,
            soft_timeout=(options.rare or {}).get("soft_timeout"),
            retry=options.retry,
            of=of,
        )
        return self._outgoing(envelope, options.delay)

    def guard(self, workflow: str, plan: Plan, delay: float) -> Outgoing:
        """Make the message of the job that looks after a batch."""
        of = PartOf(workflow=workflow, part="guard")
        return self._message(plan, of, guard_id(workflow), b"{}", delay)

    def compensation(self, workflow: str, plan: Plan, turn: int, behind: int | None = None) -> Outgoing:
        """Make the message of the job that finds out what a saga undoes next.

        :param turn: 0, and one more for each time that compensation is begun anew.
        :param behind: the step whose compensation has ended.
        """
        of = PartOf(workflow=workflow, part="compensate", step=behind or 0, index=turn)
        return self._message(plan, of, compensate_id(workflow, turn, behind), b"{}", 0.0)

    def undoing(self, workflow: str, plan: Plan, number: int, turn: int) -> Outgoing:
        """Make the message of the job that undoes a step."""
        of = PartOf(workflow=workflow, part="undo", step=number, index=turn)
        return self._message(plan, of, undo_id(workflow, number, turn), b"{}", 0.0)

    def deadline(self, workflow: str, plan: Plan) -> Outgoing:
        """Make the message of the job that comes when the deadline of a saga passes."""
        of = PartOf(workflow=workflow, part="deadline")
        delay = max(plan.deadline - self._clock(), 0.0)
        return self._message(plan, of, deadline_id(workflow), b"{}", delay)

    def _message(
        self, plan: Plan, of: PartOf, job_id: str, args: bytes, delay: float, own_key: str | None = None
    ) -> Outgoing:
        step: StepPlan | UndoPlan = plan.steps[of.step]
        ends_late = of.part in ("compensate", "undo", "deadline") or of.step in plan.behind_pivot
        if of.part == "undo":
            step = plan.steps[of.step].undo or step
        envelope = StepEnvelope(
            v=STEP_FORMAT,
            id=job_id,
            task=step.task,
            version=step.version,
            queue=step.queue,
            args=msgspec.Raw(args),
            enqueued_at=self._clock(),
            deadline=None if ends_late else plan.deadline,
            correlation_id=plan.correlation_id,
            source=self._source,
            headers=step.headers,
            key=own_key,
            of=of,
        )
        return self._outgoing(envelope, delay)

    def _outgoing(self, envelope: StepEnvelope, delay: float) -> Outgoing:
        encoded = self._encode(envelope)  # type: ignore[arg-type]  # any struct
        return Outgoing(envelope.queue, envelope.id, encoded, b"", delay)

    async def publish(self, messages: Sequence[Outgoing]) -> dict[str, str]:
        """Publish messages; return why some were refused, by their ids.

        :raises BrokerUnavailable: some may not be stored; publishing all of them again is safe.
        """
        refused: dict[str, str] = {}
        for batch in _chunks(messages):
            for message, answer in zip(batch, await self._backend.publish(batch), strict=True):
                if isinstance(answer, Uncertain):
                    raise BrokerUnavailable(f"the next step of a workflow may not be published: {answer.why}")
                if isinstance(answer, Refused):
                    refused[message.id] = answer.why
        return refused


def _chunks(messages: Sequence[Outgoing]) -> Iterator[list[Outgoing]]:
    for start in range(0, len(messages), CHUNK):
        yield list(messages[start : start + CHUNK])
