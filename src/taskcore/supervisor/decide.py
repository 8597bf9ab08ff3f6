"""What a supervisor does next with its worker processes: a pure decision over how they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

__all__ = ["Limits", "ProcessView", "ScalingStep", "next_step"]


class Limits(NamedTuple):
    """When a process is replaced; None: never.

    :param jobs: after so many jobs.
    :param memory: above so many bytes.
    :param leaked: with more threads than this that run functions whose jobs have ended.
    """

    jobs: int | None = None
    memory: int | None = None
    leaked: int | None = None


class ProcessView(NamedTuple):
    """What matters of one process.

    :param is_settled: it takes jobs.
    :param is_leaving: it was told to end.
    :param is_worn: it is over a limit, and takes jobs.
    :param running: its running jobs.
    """

    is_settled: bool
    is_leaving: bool = False
    is_worn: bool = False
    running: int = 0


class ScalingStep(NamedTuple):
    """Start a process, retire the one with this number, or wait."""

    what: Literal["start", "retire", "wait"]
    number: int = -1


WAIT = ScalingStep("wait")


def next_step(views: Sequence[ProcessView], wanted: int) -> ScalingStep:
    """Decide on one step towards so many processes.

    The first process starts alone: what keeps it from starting is said once. A worn one is retired when its substitute
    takes jobs, and one at a time, until the retired one has ended.
    """
    staying = [number for number, view in enumerate(views) if not view.is_leaving]
    settled = [number for number in staying if views[number].is_settled]
    worn = [number for number in settled if views[number].is_worn]
    one_leaves = len(staying) < len(views)
    aim = wanted + (1 if worn and not one_leaves else 0)
    if len(staying) < aim and (settled or not staying):
        return ScalingStep("start")
    if len(staying) > wanted and len(settled) == len(staying):
        return ScalingStep("retire", min(worn or settled, key=lambda number: views[number].running))
    return WAIT
