"""Sending the tasks and waiting for them: the half of the program that knows no worker.

The worker may run in this process or in others: all that is known of a job here is what its handle tells.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from examples.code_index import catalogue
from examples.code_index.analysis import ModuleFacts
from examples.code_index.progress import Progress
from examples.code_index.sources import Source
from examples.code_index.tasks import FILES, PARSE, FileFacts, app, parse_module, read_file
from taskcore import Call, DeadLetter, Job, JobOutcome, Succeeded

__all__ = ["Harvest", "Indexed", "index_files", "leave_nothing"]

AGAIN = 25  #: files that are sent a second time, to show what becomes of duplicates


@dataclass
class Indexed:
    """What became of one file."""

    source: Source
    read_job: Job[FileFacts]
    read: JobOutcome[FileFacts] | None = None
    parse_job: Job[ModuleFacts] | None = None
    parsed: JobOutcome[ModuleFacts] | None = None
    letter: DeadLetter | None = None

    @property
    def ending(self) -> JobOutcome[FileFacts] | JobOutcome[ModuleFacts] | None:
        """The last outcome."""
        return self.parsed or self.read

    @property
    def is_dead(self) -> bool:
        """Whether it is not indexed."""
        return not isinstance(self.parsed, Succeeded)


@dataclass
class Harvest:
    """Everything that came back."""

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
    jobs = await app.enqueue_many(_call(source, into) for source in sources)  # thousands of jobs in few batches
    files = [Indexed(source, job) for source, job in zip(sources, jobs, strict=True)]
    async with anyio.create_task_group() as group:
        for file in files:
            group.start_soon(_follow, file, into.stem, progress)
    harvest = Harvest(files, progress.seconds)
    await _send_again(harvest, into)
    await app.drain(FILES, PARSE)  # an outcome can be known a moment before the dead letter is written
    await _take_letters(harvest, into.stem)
    harvest.counters = dict(app.counters)
    return harvest


def _call(source: Source, into: Path) -> Call[FileFacts]:
    """The arguments are checked and packed here, and nothing is sent yet. All jobs of a run have its name with them."""
    return read_file.using(correlation_id=into.stem).call(str(into), source.path, source.modified)


async def _follow(file: Indexed, run: str, progress: Progress) -> None:
    """Wait until a file has been read, have it parsed, wait for that.

    Thousands of these wait at once. What they send at the same moment travels in one batch: nobody has to collect it.
    """
    file.read = await file.read_job.outcome()
    if isinstance(file.read, Succeeded):
        progress.retries += file.read.value.attempt - 1
        file.parse_job = await parse_module.using(correlation_id=run).enqueue(file.source.path)
        file.parsed = await file.parse_job.outcome()
    progress.done += 1
    progress.dead += file.is_dead


async def _send_again(harvest: Harvest, into: Path) -> None:
    """Send some files a second time: each key is known, so nothing runs, and the first outcome is the answer."""
    some = [file for file in harvest.files if isinstance(file.read, Succeeded)][:AGAIN]
    for file, job in zip(some, await app.enqueue_many(_call(file.source, into) for file in some), strict=True):
        harvest.sent_again += 1
        harvest.answered += job == file.read_job and await job.outcome() == file.read


async def _take_letters(harvest: Harvest, run: str) -> None:
    """Read the dead letters, and drop them: what they say is in the report from now on."""
    files = {(file.parse_job or file.read_job).id: file for file in harvest.files}
    async for letter in _letters(run):
        harvest.letters.append(letter)
        if letter.job_id in files:
            files[letter.job_id].letter = letter
    for letter in harvest.letters:
        await app.dead_letters.drop(letter.id)
    harvest.letters_left = len([letter async for letter in _letters(run)])


async def leave_nothing(run: str) -> None:
    """After Ctrl-C: take back what has not started, drop what is dead."""
    for queue in (FILES, PARSE):
        await app.purge(queue)
    for letter in [letter async for letter in _letters(run)]:
        await app.dead_letters.drop(letter.id)


async def _letters(run: str) -> AsyncIterator[DeadLetter]:
    """The dead letters of this run; there may be others."""
    for queue in (FILES, PARSE):
        async for letter in app.dead_letters.read(queue):
            if letter.envelope is not None and letter.envelope.correlation_id == run:
                yield letter
