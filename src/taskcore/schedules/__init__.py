"""Schedules: jobs at times that recur, on every broker, without a leader.

``cron.py``, ``calendar.py`` and ``timetable.py`` say at which instants a schedule ticks, ``decide.py`` which of them
fire: these are pure. ``record.py`` is what a store keeps of a schedule, ``storage.py`` reads and writes it.
``scheduler.py`` is the service that every worker runs, ``publish.py`` sends its ticks. ``define.py`` and
``declared.py`` are for schedules in code, ``schedules.py`` for those that come while the program runs.
"""

from taskcore.envelope import Tick
from taskcore.schedules.declared import Declarations, Schedulable, ScheduleDecorator
from taskcore.schedules.define import ScheduleOptions
from taskcore.schedules.errors import ScheduleExists, ScheduleNotFound
from taskcore.schedules.schedules import OnExists, Schedule, Schedules
from taskcore.schedules.timetable import Timing

__all__ = [
    "Declarations",
    "OnExists",
    "Schedulable",
    "Schedule",
    "ScheduleDecorator",
    "ScheduleExists",
    "ScheduleNotFound",
    "ScheduleOptions",
    "Schedules",
    "Tick",
    "Timing",
]
