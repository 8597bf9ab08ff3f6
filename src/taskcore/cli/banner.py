"""What ``taskcore worker`` says at its start and at its end."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from taskcore.cli.group import installed_version
from taskcore.cli.support import support_of
from taskcore.config import show
from taskcore.toolkit.units import show_duration

if TYPE_CHECKING:
    from taskcore.app import App
    from taskcore.cli.worker_choices import WorkerChoices
    from taskcore.worker.options import WorkerOptions

__all__ = ["banner", "farewell"]

#: event → its word in the last line
COUNTED = {
    "job.succeeded": "succeeded",
    "job.skipped": "done before",
    "job.retried": "retried",
    "job.buried": "dead",
    "job.parked": "parked",
    "job.cancelled": "cancelled",
    "job.expired": "expired",
    "job.released": "released",
    "job.lost": "lost",
}


def banner(app: App, choices: WorkerChoices, options: WorkerOptions) -> Iterator[str]:
    """Describe the worker that is about to run, line by line."""
    settings, loop = app.settings, choices.loop
    missing = "" if loop != "asyncio" or find_spec("uvloop") else " (uvloop is not installed)"
    yield f"taskcore {installed_version()} · python {platform.python_version()} · {loop}{missing} · pid {os.getpid()}"
    yield f"app      {choices.place} · {len(app.tasks)} task{'s' * (len(app.tasks) != 1)}"
    store = f" · store {show('store', settings.store)}" if settings.store else ""
    yield f"broker   {show('url', settings.url)}{store}"
    if settings.url.startswith("memory:"):
        yield "         memory:// ends at this process: jobs that other programs send do not arrive here"
    yield f"         {' · '.join(support_of(app.features))}"
    queues = (
        f"{name}={options.queue_limits[name]}" if name in options.queue_limits else name for name in options.queues
    )
    yield (f"queues   {', '.join(queues)} · {options.concurrency} jobs at once · grace {show_duration(options.grace)}")
    yield from _supervision(choices)
    for number, task in enumerate(sorted(app.tasks.values(), key=lambda task: task.name)):
        yield f"{'' if number else 'tasks':8} {task.name}  {task.contract.signature}"


def _supervision(choices: WorkerChoices) -> Iterator[str]:
    if choices.processes is not None:
        limits = [
            f"each for {choices.max_jobs} jobs" if choices.max_jobs else "",
            f"each up to {show('max_memory', choices.max_memory)}" if choices.max_memory else "",
            "new ones when a file changes" if choices.reload else "",
        ]
        yield f"workers  {' · '.join(filter(None, [_number(choices.processes), *limits]))}"
    probes = [f"http://{choices.health}/live and /ready" if choices.health else "", choices.health_file or ""]
    if any(probes):
        yield f"health   {' · '.join(filter(None, probes))}"


def _number(bounds: Sequence[int]) -> str:
    text = show("worker_processes", bounds)
    return f"{text} process{'es' * (text != '1')}"


def farewell(counters: Mapping[str, int], seconds: float) -> str:
    """Count the jobs by how they ended, on one line, without zeros."""
    counts = {word: counters.get(event, 0) for event, word in COUNTED.items()}
    told = " · ".join(f"{count} {word}" for word, count in counts.items() if count or word == "succeeded")
    return f"done: {told} · up {show_duration(round(seconds) or 1)}"
