"""Several worker processes under one supervisor: start, watch, replace, scale, and answer for their health.

supervisor ──orders──▶  worker process × N   (programs of their own: `taskcore worker`)
▲     ◀─reports──        └ attendant: stops the worker at orders and signals, tells how it is
└ plan, autoscale, deaths: pure decisions about processes
"""

from taskcore.supervisor.attendant import Attendant, SupervisedAttendant
from taskcore.supervisor.health import announce, answering
from taskcore.supervisor.notify import Notifier
from taskcore.supervisor.orders import SupervisorLine
from taskcore.supervisor.plan import Limits
from taskcore.supervisor.stopping import stop_at_signals
from taskcore.supervisor.supervisor import Supervisor, SupervisorOptions

__all__ = [
    "Attendant",
    "Limits",
    "Notifier",
    "SupervisedAttendant",
    "Supervisor",
    "SupervisorLine",
    "SupervisorOptions",
    "announce",
    "answering",
    "stop_at_signals",
]
