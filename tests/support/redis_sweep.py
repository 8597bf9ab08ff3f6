"""One case of the sweep on a real broker, for a pool of processes: crash points are armed for a whole process."""

from __future__ import annotations

from pathlib import Path

from taskcore.conformance.crash_sweep.child import dying
from taskcore.conformance.crash_sweep.environment import StartLog
from taskcore.conformance.crash_sweep.sweep import Case, run
from taskcore.conformance.harness import Harness


def play(case: Case, url: str, folder: Path, lease: float, margin: float, store: str | None = None) -> str:
    """Play it, its death in a process of its own; what is wrong, or nothing."""
    path = folder / f"{case}.jsonl"
    try:
        run(
            case,
            lambda: Harness.at(url, store=store, lease=lease, margin=margin),
            real_time=True,
            dying=dying(url, path, store=store),
            starts=StartLog(path),
        )
    except Exception as error:
        return f"{case}: {type(error).__name__}: {error}"
    return ""


def play_here(case: Case, url: str, folder: Path, lease: float, margin: float) -> str:
    """Play it, with a store of its own and with deaths that are played; what is wrong, or nothing."""
    store = f"sqlite:///{folder / f'{case}.db'}"
    try:
        run(case, lambda: Harness.at(url, store=store, lease=lease, margin=margin), real_time=True)
    except Exception as error:
        return f"{case}: {type(error).__name__}: {error}"
    return ""
