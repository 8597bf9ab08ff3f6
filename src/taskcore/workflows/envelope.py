"""The envelope of a workflow's job: format 2, so that a program without workflows parks it and never runs it alone.

It has the fields of an ordinary envelope, and ``of``: which part of which workflow it is. Its ``args`` are only what
the plan does not have: the element of a map's child. Results are never in it; a worker reads them when the step starts.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from taskcore.envelope import COUNT_LIMIT, Envelope, Id, Name, is_safe_id
from taskcore.errors import MalformedEnvelope
from taskcore.workflows.plan import MAP_LIMIT, Number

__all__ = ["STEP_FORMAT", "PartOf", "StepEnvelope", "decode_step", "ordinary"]

STEP_FORMAT = 2  #: the format of these envelopes

Part: TypeAlias = Literal["step", "child", "expand", "begin"]


class PartOf(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Which part of which workflow a job is.

    :param workflow: its id.
    :param part: a step; a child of a map; the job that publishes a part of a map's children; the one that publishes
        the first steps.
    :param step: the number of the step.
    :param index: of the child, or of the part of the children.
    :param width: how many children the map has; 0 if that is not known.
    """

    workflow: Id
    part: Part = "step"
    step: Number = 0
    index: Annotated[int, msgspec.Meta(ge=0, lt=MAP_LIMIT)] = 0
    width: Annotated[int, msgspec.Meta(ge=0, le=MAP_LIMIT)] = 0


class StepEnvelope(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, kw_only=True):
    """One job of a workflow as it travels."""

    v: int
    id: Id
    task: Name
    version: Annotated[int, msgspec.Meta(ge=1, le=COUNT_LIMIT)] = 1
    queue: Name = "default"
    args: msgspec.Raw = msgspec.Raw(b"{}")
    enqueued_at: float
    deadline: float | None = None
    correlation_id: Id | None = None
    source: str | None = None
    headers: dict[str, str] = {}
    parent_id: Id | None = None
    of: PartOf


class _AnyStep(msgspec.Struct):
    """What the envelope of any format has."""

    v: int


_decode = msgspec.json.Decoder(StepEnvelope).decode
_decode_format = msgspec.json.Decoder(_AnyStep).decode


def decode_step(data: bytes) -> StepEnvelope | None:
    """Decode the envelope of a workflow's job; None if it has a newer format.

    :raises MalformedEnvelope: for any other bytes.
    """
    try:
        if _decode_format(data).v != STEP_FORMAT:
            return None
        envelope = _decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedEnvelope(f"this is not the envelope of a workflow's job: {error}") from error
    ids = (envelope.id, envelope.of.workflow, envelope.correlation_id or "-", envelope.parent_id or "-")
    if not all(map(is_safe_id, ids)):
        raise MalformedEnvelope("this is not the envelope of a workflow's job: an id has control characters")
    return envelope


def ordinary(envelope: StepEnvelope, *, task: str, version: int, args: bytes) -> Envelope:
    """Make the envelope of the ordinary job that the step is, once its arguments are known."""
    return Envelope(
        v=1,
        id=envelope.id,
        task=task,
        version=version,
        queue=envelope.queue,
        args=msgspec.Raw(args),
        enqueued_at=envelope.enqueued_at,
        deadline=envelope.deadline,
        correlation_id=envelope.correlation_id or envelope.of.workflow,
        source=envelope.source,
        headers=envelope.headers,
        parent_id=envelope.parent_id or envelope.of.workflow,
    )
