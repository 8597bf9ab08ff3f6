"""The tasks. Begin reading here: this is everything that happens to one file.

    find it ──▶ read_file ───────────▶ parse_module ─────────▶ report
                 │  in threads           │  in processes
                 │  busy? retried    │
                 └─ not text             └─ not Python ──────▶ dead letters, each with its reason

The other files are less important: ``index.py`` sends these tasks and waits for them, ``analysis.py`` examines syntax
trees, ``figures.py`` adds up. No file names a broker; ``TASKCORE_URL`` does.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from examples.code_index import catalogue
from examples.code_index.analysis import ModuleFacts, NotPython, analyse, decode
from taskcore import App, Reject, Retry, current

app = App.from_config()  # TASKCORE_URL, or else taskcore.toml, or else pyproject.toml, or else memory://

FILES, PARSE = "code-index.files", "code-index.parse"  #: one queue per kind of work: one may be more urgent
KEPT = 600.0  #: seconds for which results and keys are kept; the report needs them for a minute


@dataclass(frozen=True)
class FileFacts:
    """Facts from reading a file. Arguments and results are typed: plain types, dataclasses, msgspec and pydantic."""

    size: int
    lines: int
    encoding: str
    copy_of: str | None
    attempt: int


@app.task(
    queue=FILES,
    # One version of a file in one catalogue is one job, however often it is sent. A sender that does not know whether
    # its job arrived (after a crash, or a lost connection) sends it again. Duplicates get the first outcome.
    key=("into", "path", "modified"),
    # The catalogue is an SQLite file with one writer at a time. A job that finds it busy frees its thread and is
    # retried a moment later, at a random time (jitter). No other error is retried: a file that is not text now
    # will not be text in a second.
    retry=Retry(attempts=20, base=0.05, cap=1.0, on=(catalogue.Busy,)),
    # A declared error reaches the caller typed: `outcome.error.kind`, not a text to search.
    raises=(NotPython,),
    keep_result=KEPT,
    key_window=KEPT,
)
def read_file(into: str, path: str, modified: int) -> FileFacts:
    """Read a file, find its encoding, record it in the catalogue ``into``.

    A plain function runs in a thread. It may start more than once (a worker may be killed after the work and before it
    settles), so it writes the same every time.
    """
    data = Path(path).read_bytes()
    if Path(path).stat().st_mtime_ns != modified:
        raise Reject("the file has changed since it was found")  # a dead letter at once: no retry can help
    encoding, text = decode(data)
    digest = hashlib.sha256(data).hexdigest()
    copy_of = catalogue.record(into, path, len(data), encoding, digest)
    return FileFacts(len(data), text.count("\n"), encoding, copy_of, attempt=current().attempt)


@app.task(
    queue=PARSE,
    # Parsing is pure computation and threads share one interpreter, so it runs in processes, one per core. The way
    # to a process and back takes 0.15 ms, measured, and the work there 3 ms. Batches of files would save these 5 %,
    # but then files would no longer fail and be retried one by one. If your items take microseconds, use batches.
    runs_in="process",
    # Every error is retried (a process may be killed when memory runs out), except one that can never succeed.
    retry=Retry(attempts=3, give_up_on=(NotPython,)),
    raises=(NotPython,),
    timeout=60.0,  # a process that runs longer is killed
    keep_result=KEPT,
)
def parse_module(path: str) -> ModuleFacts:
    """Parse a file and measure its contents."""
    return analyse(Path(path).read_bytes())
