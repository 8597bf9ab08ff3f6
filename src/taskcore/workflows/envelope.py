"""The envelope of a workflow's job: format 2, so that a program without workflows parks it and never runs it alone.

It has the fields of an ordinary envelope, and ``of``: which part of which workflow it is. Its ``args`` and its ``key``
are only what the plan does not have: those of a map's child; a job of a batch has all that its call has. Results are
never in it; a worker reads them when the step starts.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from taskcore.envelope import COUNT_LIMIT, KEY_LIMIT, CallRetry, Envelope, Id, Name, is_safe_id
from taskcore.errors import MalformedEnvelope
from taskcore.workflows.plan import PartOf

__all__ = ["STEP_FORMAT", "PartOf", "StepEnvelope", "decode_step", "ordinary"]

STEP_FORMAT = 2  #: the format of these envelopes


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
    key: Annotated[str, msgspec.Meta(min_length=1, max_length=KEY_LIMIT)] | None = None
    timeout: float | None = None
    soft_timeout: float | None = None
    retry: CallRetry | None = None
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
        key=envelope.key,
        timeout=envelope.timeout,
        soft_timeout=envelope.soft_timeout,
        retry=envelope.retry,
    )
