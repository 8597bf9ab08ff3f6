"""What ``taskcore worker`` was asked for: its options, completed by the settings of the app."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from taskcore.cli.logs import LogFormat
from taskcore.config import check
from taskcore.errors import InvalidSetting
from taskcore.worker.hosting import WorkerChoice, worker_options

if TYPE_CHECKING:
    from taskcore.app import App
    from taskcore.worker.options import WorkerOptions

__all__ = ["WorkerChoices"]


class WorkerChoices(NamedTuple):
    """One run of the command.

    :param processes: the least and the largest number of processes; None: this one works, without a supervisor.
    :param supervised: how this process reaches its supervisor; None: it has none.
    """

    place: str
    app_dir: str
    loop: str
    log_level: str
    log_format: LogFormat
    worker: WorkerChoice
    include: str | None
    processes: tuple[int, int] | None
    max_jobs: int | None
    max_memory: int | None
    max_leaked_threads: int | None
    health: str | None
    health_file: str | None
    reload: bool
    drain: bool
    supervised: str | None

    @classmethod
    def complete(cls, app: App, loop: str, given: dict[str, Any]) -> WorkerChoices:
        """Read the options, and take from the settings what was not given.

        :raises InvalidSetting: one of them is wrong (TC104).
        """
        settings = app.settings
        of = {name: _chosen(settings, name, given[name]) for name in FROM_SETTINGS}
        if given["supervised"] is not None:
            of |= {"worker_processes": None, "health": None, "health_file": None}
        needs_supervisor = given["reload"] or of["max_jobs"] or of["max_memory"]
        names, limits = _queues(given["queues"])
        return cls(
            place=given["app"] or settings.app or "",
            app_dir=str(Path(given["app_dir"]).resolve()),
            loop=loop,
            log_level=given["log_level"],
            log_format=given["log_format"],
            worker=WorkerChoice(names, given["concurrency"], given["grace"], limits),
            include=given["include"],
            processes=of.pop("worker_processes") or ((1, 1) if needs_supervisor and not given["supervised"] else None),
            reload=given["reload"],
            drain=given["drain"],
            supervised=given["supervised"],
            **of,
        )

    def options(self, app: App) -> WorkerOptions:
        """Make the options of one worker."""
        return worker_options(app.settings, app.tasks, self.worker)

    def arguments(self) -> list[str]:
        """Make the arguments of a supervised process: everything that was chosen."""
        named = {
            "--app-dir": self.app_dir,
            "--loop": self.loop,
            "--log-level": self.log_level,
            "--log-format": self.log_format,
            "--queues": _show_queues(self.worker),
            "--concurrency": self.worker.concurrency,
            "--grace": self.worker.grace,
            "--include": self.include,
        }
        return [self.place, *(f"{name}={value}" for name, value in named.items() if value is not None)]


#: options that are settings, too
FROM_SETTINGS = ("worker_processes", "max_jobs", "max_memory", "max_leaked_threads", "health", "health_file")


def _chosen(settings: Any, name: str, given: Any) -> Any:
    option = "processes" if name == "worker_processes" else name.replace("_", "-")
    return getattr(settings, name) if given is None else _checked(f"--{option}", name, given)


def _checked(option: str, name: str, given: Any) -> Any:
    """Check what an option was given as the setting of this name; the error names the option."""
    try:
        return check(name, given)
    except InvalidSetting as error:
        why = " ".join(error.facts).partition(f"{name}: ")[2]
        raise InvalidSetting(f"{option}: {why}", fix="taskcore worker --help explains the options") from error


def _queues(given: Sequence[str]) -> tuple[tuple[str, ...] | None, dict[str, int] | None]:
    """Read ``mail=5,default``: the names in their order, and the limits of those that have one."""
    if not given:
        return None, None
    parts = [part.partition("=") for part in ",".join(given).split(",")]
    names: tuple[str, ...] = _checked("--queues", "queues", ",".join(name for name, _, _ in parts))
    twice = [name for number, name in enumerate(names) if name in names[:number]]
    if twice:
        raise InvalidSetting(
            f'--queues: "{twice[0]}" is named twice', fix="name each queue once, with one number or none"
        )
    limited = ",".join(f"{name}={limit}" for name, equals, limit in parts if equals)
    return names, _checked("--queues", "queue_limits", limited) if limited else None


def _show_queues(choice: WorkerChoice) -> str | None:
    """Write queues and limits as they are given to a process."""
    limits = choice.queue_limits
    if choice.queues is None:
        return None
    own = limits if isinstance(limits, Mapping) else {}
    return ",".join(f"{name}={own[name]}" if name in own else name for name in choice.queues)
