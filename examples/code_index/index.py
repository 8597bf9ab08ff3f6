"""Send the tasks and wait for them: the half of the program that knows no worker.

The worker may run in this process or in others: this module sees a job only through its handle.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from uuid import uuid4

import anyio

from examples.code_index import catalogue
from examples.code_index.analysis import ModuleFacts
from examples.code_index.outages import through_outages
from examples.code_index.progress import Progress
from examples.code_index.sources import Source
from examples.code_index.tasks import FILES, PARSE, FileFacts, app, parse_module, read_file
from taskcore import Call, DeadLetter, Job, JobOutcome, LetterNotFound, Succeeded
from taskcore.errors import BrokerError

__all__ = ["Harvest", "Indexed", "index_files", "leave_nothing"]

REPEATED_FILES = 25  #: files that are sent a second time, to show how duplicates end


@dataclass
class Indexed:
    """The jobs and outcomes of one file."""

    source: Source
    read_job: Job[FileFacts]
    read: JobOutcome[FileFacts] | None = None
    parse_job: Job[ModuleFacts] | None = None
    parsed: JobOutcome[ModuleFacts] | None = None
    letter: DeadLetter | None = None

    @property
    def last_outcome(self) -> JobOutcome[FileFacts] | JobOutcome[ModuleFacts] | None:
        """The last outcome."""
        return self.parsed or self.read

    @property
    def is_dead(self) -> bool:
        """Whether the file could not be indexed."""
        return not isinstance(self.parsed, Succeeded)


@dataclass
class Harvest:
    """All outcomes of a run."""

    files: list[Indexed]
    seconds: float
    letters: list[DeadLetter] = field(default_factory=list)
    letters_left: int = 0
    sent_again: int = 0
    answered: int = 0
    counters: dict[str, int] = field(default_factory=dict)


async def index_files(sources: Sequence[Source], into: Path, progress: Progress) -> Harvest:
    """Read and parse all files.

    :param into: the catalogue; its name is the name of this run.
    """
    catalogue.create(into)
    jobs = await _send([_call(source, into) for source in sources])
    files = [Indexed(source, job) for source, job in zip(sources, jobs, strict=True)]
    async with anyio.create_task_group() as group:
        for file in files:
            group.start_soon(_follow, file, into.stem, progress)
    harvest = Harvest(files, progress.seconds)
    await _send_again(harvest, into)
    # An outcome is known a moment before its dead letter is written.
    await through_outages(lambda: app.drain(FILES, PARSE))
    await _take_letters(harvest, into.stem)
    harvest.counters = dict(app.counters)
    return harvest


def _call(source: Source, into: Path) -> Call[FileFacts]:
    """Check and encode the arguments without sending. All jobs of a run carry its name."""
    return read_file.using(correlation_id=into.stem).call(str(into), source.path, source.modified)


async def _send(calls: Sequence[Call[FileFacts]]) -> list[Job[FileFacts]]:
    """Send thousands of jobs in few batches. Repeat uncertain ones: they have a key, so they run once."""
    jobs: list[Job[FileFacts] | None] = [None] * len(calls)

    async def send_missing() -> None:
        missing = [number for number, job in enumerate(jobs) if job is None]
        sent: Sequence[Job[FileFacts] | None] = ()
        try:
            sent = await app.enqueue_many(calls[number] for number in missing)
        except BrokerError as error:
            sent = error.jobs  # a Job or None for each
            raise
        finally:
            for number, job in zip(missing, sent, strict=False):
                jobs[number] = job

    await through_outages(send_missing)
    return [job for job in jobs if job is not None]


async def _follow(file: Indexed, run: str, progress: Progress) -> None:
    """Wait until a file has been read, send it to be parsed, wait for that.

    Thousands of these coroutines wait at once. taskcore collects jobs that are sent at the same moment into one batch.
    """
    file.read = await through_outages(file.read_job.outcome)
    if isinstance(file.read, Succeeded):
        progress.retries += file.read.value.attempt - 1
        # It has no key, so it gets an explicit id: then it can be sent again if the reply is lost.
        parse = parse_module.using(id=str(uuid4()), correlation_id=run)
        file.parse_job = await through_outages(lambda: parse.enqueue(file.source.path))
        file.parsed = await through_outages(file.parse_job.outcome)
    progress.finished(dead=file.is_dead)


async def _send_again(harvest: Harvest, into: Path) -> None:
    """Send some files a second time: each key is known, so nothing runs and each gets the first outcome."""
    some = [file for file in harvest.files if isinstance(file.read, Succeeded)][:REPEATED_FILES]
    for file, job in zip(some, await _send([_call(file.source, into) for file in some]), strict=True):
        harvest.sent_again += 1
        harvest.answered += job == file.read_job and await through_outages(job.outcome) == file.read


async def _take_letters(harvest: Harvest, run: str) -> None:
    """Read the dead letters for the report, and drop them."""
    files = {(file.parse_job or file.read_job).id: file for file in harvest.files}
    harvest.letters = await through_outages(lambda: _letters(run))
    for letter in harvest.letters:
        if letter.job_id in files:
            files[letter.job_id].letter = letter
        await through_outages(partial(_drop, letter))
    harvest.letters_left = len(await through_outages(lambda: _letters(run)))


async def leave_nothing(run: str) -> None:
    """Remove jobs that have not started, and drop dead letters, after Ctrl-C."""
    for queue in (FILES, PARSE):
        await app.purge(queue)
    for letter in await _letters(run):
        await _drop(letter)


async def _letters(run: str) -> list[DeadLetter]:
    """Return the dead letters of this run; there may be others."""
    return [
        letter
        for queue in (FILES, PARSE)
        async for letter in app.dead_letters.read(queue)
        if letter.envelope is not None and letter.envelope.correlation_id == run
    ]


async def _drop(letter: DeadLetter) -> None:
    with suppress(LetterNotFound):  # the reply to an earlier try was lost: the letter is gone already
        await app.dead_letters.drop(letter.id)
