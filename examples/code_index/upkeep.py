"""The upkeep of a catalogue that stays: what the application does by itself, every hour and every night.

    taskcore worker examples.code_index.upkeep:app            work, and look after both schedules
    taskcore schedules -A examples.code_index.upkeep:app      when is what due?

Start as many workers as you like, and kill any of them: each instant is one job. The demonstration is over in seconds,
so it does not import this file. The catalogue notes what was done: ``select * from upkeep``.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from examples.code_index import catalogue
from examples.code_index.sources import importable
from examples.code_index.tasks import app, read_file
from taskcore import Retry, current

__all__ = ["CATALOGUE", "app", "forget_deleted", "read_changed"]

#: The settings of the upkeep, each with its environment variable.
CATALOGUE: Final = Path(os.environ.get("CODE_INDEX_CATALOGUE", "build/code_index/catalogue.sqlite")).resolve()
NIGHTLY: Final = os.environ.get("CODE_INDEX_NIGHTLY", "30 2 * * *")
HOURLY: Final = os.environ.get("CODE_INDEX_HOURLY", "@hourly")
ZONE: Final = os.environ.get("CODE_INDEX_ZONE", "Europe/Berlin")

UPKEEP: Final = "code-index.upkeep"  #: a queue of its own: an hour's work should not wait behind thousands of files
INNOCENT: Final = 100  #: starts: workers of this application may be killed again and again, and not by its jobs
BUSY = Retry(attempts=20, base=0.05, cap=1.0, on=(catalogue.Busy,))


@app.schedule("code-index-hourly", cron=HOURLY)
@app.task(queue=UPKEEP, retry=BUSY, crashes=INNOCENT)
def read_changed() -> int:
    """Index the files that were written since the last time.

    Hours in which no worker ran are made up for once (``missed="once"``, the default), and ``previous`` is then older.
    """
    tick = current().tick
    previous = tick and tick.previous
    since = (previous or datetime.now(UTC) - timedelta(hours=1)).timestamp() * 1e9
    catalogue.create(CATALOGUE)
    changed = [source for source in importable() if source.modified > since]
    # The same keys as in a run by hand: a file that such a run has just read is not read again.
    app.sync.enqueue_many(read_file.call(str(CATALOGUE), source.path, source.modified) for source in changed)
    return _note("hourly", len(changed))


@app.schedule("code-index-nightly", cron=NIGHTLY, tz=ZONE)
@app.task(queue=UPKEEP, retry=BUSY, crashes=INNOCENT)
def forget_deleted() -> int:
    """Remove files that are gone. On the night when clocks jump over 02:30 this runs at 03:00, and only once."""
    catalogue.create(CATALOGUE)
    gone = [path for path in catalogue.recorded(str(CATALOGUE)) if not Path(path).exists()]
    catalogue.forget(str(CATALOGUE), gone)
    return _note("nightly", len(gone))


def _note(what: str, files: int) -> int:
    tick = current().tick
    instant = "by hand" if tick is None else tick.at.isoformat()
    catalogue.note(str(CATALOGUE), what, instant, files, current().job_id)
    return files
