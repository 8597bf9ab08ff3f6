"""Several worker processes under one supervisor: start, watch, replace, scale, and answer for their health.

supervisor ──orders──▶  worker process × N   (programs of their own: `taskcore worker`)
▲     ◀─reports──        └ worker control: stops the worker at orders and signals, reports its health
└ decide, autoscale, exits: pure decisions about processes
"""

from taskcore.supervisor.decide import Limits
from taskcore.supervisor.health import announce, answering
from taskcore.supervisor.notify import Notifier
from taskcore.supervisor.orders import SupervisorChannel
from taskcore.supervisor.stopping import stop_at_signals
from taskcore.supervisor.supervisor import Supervisor, SupervisorOptions
from taskcore.supervisor.worker_control import SupervisedWorkerControl, WorkerControl

__all__ = [
    "Limits",
    "Notifier",
    "SupervisedWorkerControl",
    "Supervisor",
    "SupervisorChannel",
    "SupervisorOptions",
    "WorkerControl",
    "announce",
    "answering",
    "stop_at_signals",
]
