"""The tasks, and so the place to begin reading: everything that happens to one file.

    find it ──▶ read_file ───────────▶ parse_module ─────────▶ report
                 │  in threads           │  in processes
                 │  busy? tried again    │
                 └─ not text             └─ not Python ──────▶ dead letters, each with its reason

The other files of this example know nothing that you have to know: ``index.py`` sends these tasks and waits for them,
``analysis.py`` looks at syntax trees, ``figures.py`` adds up. No file names a broker; ``TASKCORE_URL`` does.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from examples.code_index import catalogue
from examples.code_index.analysis import ModuleFacts, NotPython, analyse, decode
from taskcore import App, Reject, Retry, current

app = App.from_config()  # TASKCORE_URL, or else taskcore.toml, or else pyproject.toml, or else memory://

FILES, PARSE = "code-index.files", "code-index.parse"  #: a queue for each kind of work: one may be more urgent
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
    # The same version of a file, for the same catalogue, is the same job, however often it is sent: who does not know
    # whether a job was sent (a crash, a broken connection) just sends it again. Duplicates get the first outcome.
    key=("into", "path", "modified"),
    # The catalogue is an SQLite file, which one writer at a time may change. Who finds it busy gives its thread back
    # and comes again a moment later, at random times (jitter) so that not all come at once. Nothing else is retried:
    # a file that is no text now will be none in a second.
    retry=Retry(attempts=20, base=0.05, cap=1.0, on=(catalogue.Busy,)),
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
    # Parsing is pure computing, and threads share one interpreter: so it runs in processes, one for each core. To
    # cross over and come back takes 0.15 ms, measured, and the work there 3 ms. Batches of files would save these 5 %,
    # and lose that each file fails, and is tried again, by itself. If your items take microseconds, do make batches.
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
