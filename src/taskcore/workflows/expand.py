"""Expanding a map: the jobs that publish its children, 500 each; a repeat publishes the same ids.

The first one decides how many children there are, before it publishes any: the length of the list that a step has
returned, which the record ``width`` keeps. It also writes that list down in parts, one for each of the other jobs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from taskcore.backend import Outgoing
from taskcore.records.names import outcome_name
from taskcore.results import decode_outcome
from taskcore.store import ABSENT, Store, Write
from taskcore.workflows.decide import StepKey, list_of
from taskcore.workflows.envelope import PartOf
from taskcore.workflows.names import list_name, step_id, width_name
from taskcore.workflows.plan import CHUNK, MAP_LIMIT, OneCall, Over, Plan
from taskcore.workflows.publish import StepSender
from taskcore.workflows.record_reader import RecordReader

__all__ = ["Expanded", "NoList", "expand", "write_lists", "write_width"]

LISTS_AT_ONCE = 8  #: parts of lists in one write


decode_call = msgspec.json.Decoder(OneCall).decode


class NoList(Exception):
    """There is no list to map over, and why."""


class Expanded(NamedTuple):
    """What an expansion publishes.

    :param width: how many children the map has.
    """

    messages: list[Outgoing]
    width: int


async def expand(
    reader: RecordReader, store: Store, sender: StepSender, plan: Plan, of: PartOf, keep: float
) -> Expanded:
    """Prepare the children of one part of a map; the first part also prepares the expansions of the others.

    :raises NoList: the list is gone, too long, or no list.
    """
    step = plan.steps[of.step]
    over = step.over
    if over is None:
        raise NoList(f"{step.name} is not a map")
    first = of.index * CHUNK
    if of.index == 0 and over.items is None:
        everything = await _returned(reader, of.workflow, over.step or 0, plan)
        width, elements = len(everything), everything[:CHUNK]
        if width > MAP_LIMIT:
            raise NoList(f"{step.name} would have {width:,} children, and {MAP_LIMIT:,} is the most")
        await write_lists(store, of.workflow, {of.step: everything[CHUNK:]}, keep, begin=1)
    else:
        width = of.width if over.items is None else over.items
        elements = (await reader.chunk(of.workflow, of.step, of.index, over.lists) if width else []) or []
    if len(elements) < min(CHUNK, width - first):
        raise NoList(f"a part of the list of {step.name} is gone from the store")
    if of.index == 0:
        await write_width(store, of, width, keep)
    messages = [
        sender.message(
            of.workflow,
            plan,
            StepKey(of.step, first + at),
            width=width,
            args=bytes(call.args),
            own_key=call.key,
        )
        for at, call in enumerate(_call_of(over, element) for element in elements)
    ]
    if of.index == 0:
        parts = range(1, -(-width // CHUNK))
        messages = [sender.expansion(of.workflow, plan, of.step, part, width) for part in parts] + messages
    return Expanded(messages, width)


def _call_of(over: Over, element: bytes) -> OneCall:
    if not over.parameter:
        return decode_call(element)
    return OneCall(msgspec.Raw(msgspec.json.encode({over.parameter: msgspec.Raw(element)})))


async def write_lists(
    store: Store,
    workflow: str,
    lists: Mapping[int, Sequence[bytes]],
    keep: float,
    *,
    begin: int = 0,
    of_plan: str = "",
) -> None:
    """Write the lists of maps in parts.

    :param begin: the number of the first part.
    :param of_plan: tells them from the lists of another plan of the same job.
    """
    writes = [
        Write(key=list_name(workflow, number, part, of_plan), value=list_of(elements[start : start + CHUNK]), keep=keep)
        for number, elements in lists.items()
        for part, start in enumerate(range(0, len(elements), CHUNK), start=begin)
    ]
    for first in range(0, len(writes), LISTS_AT_ONCE):
        await store.put_many(writes[first : first + LISTS_AT_ONCE])


async def write_width(store: Store, of: PartOf, width: int, keep: float) -> None:
    """Write how many children a map has; what is there already stands, and is the same."""
    name = width_name(of.workflow, of.step)
    await store.put_many([Write(key=name, value=str(width).encode(), expect=ABSENT, keep=keep)])


async def _returned(reader: RecordReader, workflow: str, source: int, plan: Plan) -> list[bytes]:
    """Read the list that a step, or the children of a map, returned."""
    step = plan.steps[source]
    if step.over is not None:
        width = await reader.width(workflow, plan, source)
        ended = None if width is None else await reader.children(workflow, plan, source, width, outcomes=False)
        data = None if ended is None else ended.result or b"[]"
    else:
        [found] = await reader.values([outcome_name(step_id(workflow, StepKey(source)))])
        stored = None if found is None else decode_outcome(found)
        data = None if stored is None or stored.state != "succeeded" else bytes(stored.result)
        if data is None and step.has_default:
            data = bytes(step.default)
    if data is None:
        raise NoList(f"the result of {step.name} is gone from the store")
    try:
        return [bytes(raw) for raw in msgspec.json.decode(data, type=list[msgspec.Raw])]
    except msgspec.MsgspecError as error:
        raise NoList(f"the result of {step.name} is not a list") from error
