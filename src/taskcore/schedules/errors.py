"""The errors that only schedules raise."""

from __future__ import annotations

from taskcore.errors import ContractError, JobError

__all__ = ["ScheduleExists", "ScheduleNotFound"]


class ScheduleExists(ContractError, ValueError):
    """A schedule with this id and another definition exists."""

    code = "TC310"


class ScheduleNotFound(JobError, LookupError):
    """There is no schedule with this id."""

    code = "TC410"
