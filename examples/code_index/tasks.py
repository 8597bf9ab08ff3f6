"""The tasks, and so the place to begin reading: everything that happens to one file.

    find it ──▶ read_file ───────────▶ parse_module ─────────▶ report
                 │  in threads           │  in processes
                 │  busy? tried again    │
                 └─ not text             └─ not Python ──────▶ dead letters, each with its reason

The other files of this example know nothing that you have to know: ``index.py`` sends these tasks and waits for them,
``analysis.py`` looks at syntax trees, ``report.py`` adds up. No file names a broker; ``TASKCORE_URL`` does.
"""

from __future__ import annotations

import hashlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from examples.code_index import catalogue
from examples.code_index.analysis import ModuleFacts, NotPython, analyse, decode
from taskcore import App, Reject, Retry, current

app = App.from_config()  # TASKCORE_URL, or else taskcore.toml, or else pyproject.toml, or else memory://

FILES, PARSE = "code-index.files", "code-index.parse"  #: one queue for each kind of work, so that neither waits behind the other
KEPT = 600.0  #: seconds for which results and keys are kept; the report needs them for a minute


@dataclass(frozen=True)
class FileFacts:
    """What reading a file tells. Arguments and results are typed: plain types, dataclasses, msgspec and pydantic."""

    size: int
    lines: int
    encoding: str
    copy_of: str | None
    attempt: int


@app.task(
    queue=FILES,
    # The same version of the same file is the same job, however often it is sent: a program that was interrupted may
    # simply send everything again. Duplicates get the first outcome.
    key=("into", "path", "modified"),
    # The catalogue is an SQLite file, which one writer at a time may change. Who finds it busy gives its thread back
    # and comes again a moment later, at random times (jitter) so that not all come at once. Nothing else is retried:
    # a file that is no text now will be none in a second.
    retry=Retry(attempts=20, base=0.05, cap=1.0, on=(sqlite3.OperationalError,)),
    # Errors that are declared come back to the caller as they are: `outcome.error.kind`, not a text to be searched.
    raises=(NotPython,),
    keep_result=KEPT,
    key_window=KEPT,
)
def read_file(into: str, path: str, modified: int) -> FileFacts:
    """Read a file, find its encoding, write it down in the catalogue ``into``.

    A plain function, so it runs in a thread. It may start more than once (a worker may be killed between the work and
    the word that it is done), so what it writes is the same every time.
    """
    data = Path(path).read_bytes()
    if Path(path).stat().st_mtime_ns != modified:
        raise Reject("the file has changed since it was found")  # a dead letter at once: no attempt can help this job
    encoding, text = decode(data)
    digest = hashlib.sha256(data).hexdigest()
    copy_of = catalogue.record(into, path, len(data), encoding, digest)
    return FileFacts(len(data), text.count("\n"), encoding, copy_of, attempt=current().attempt)


@app.task(
    queue=PARSE,
    # Parsing is pure computing, and threads share one interpreter: so it runs in processes, one for each core. A job
    # crosses over and comes back in 0.15 ms, measured, and takes 4 ms there: batches of files would save 4 % and lose
    # that each file fails, and is counted, by itself. If your jobs take microseconds, put many items into each.
    runs_in="process",
    # Everything is tried again (a process may be killed for want of memory), except what can never succeed.
    retry=Retry(attempts=3, give_up_on=(NotPython,)),
    raises=(NotPython,),
    timeout=60.0,  # a process that runs longer is killed
    keep_result=KEPT,
)
def parse_module(path: str) -> ModuleFacts:
    """Parse a file and measure what is in it."""
    return analyse(Path(path).read_bytes())
