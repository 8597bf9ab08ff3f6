"""Sending the tasks and waiting for them: the half of the program that knows no worker.

The worker may run in this process or in others: all that is known of a job here is what its handle tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from examples.code_index import catalogue
from examples.code_index.analysis import ModuleFacts
from examples.code_index.progress import Progress
from examples.code_index.sources import Source
from examples.code_index.tasks import FILES, PARSE, FileFacts, app, parse_module, read_file
from taskcore import DeadLetter, Job, JobOutcome, Succeeded

__all__ = ["Harvest", "Indexed", "index_files"]

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

    @property
    def job_id(self) -> str:
        """The job that it ended with."""
        return (self.parse_job or self.read_job).id


@dataclass
class Harvest:
    """Everything that came back."""

    files: list[Indexed]
    seconds: float
    sent_again: int = 0
    answered: int = 0
    letters: list[DeadLetter] = field(default_factory=list)
    letters_left: int = 0
    counters: dict[str, int] = field(default_factory=dict)


async def index_files(sources: Sequence[Source], into: Path, progress: Progress) -> Harvest:
    """Read and parse all files; leaves nothing behind in the broker.

    :param into: the catalogue.
    """
    catalogue.create(into)
    calls = [read_file.call(str(into), source.path, source.modified) for source in sources]
    jobs = await app.enqueue_many(calls)  # thousands of jobs in few batches
    files = [Indexed(source, job) for source, job in zip(sources, jobs, strict=True)]
    try:
        async with anyio.create_task_group() as group:
            for file in files:
                group.start_soon(_follow, file, progress)
        harvest = Harvest(files, progress.seconds)
        await _send_again(harvest, into)
    except BaseException:  # also Ctrl-C
        with anyio.move_on_after(5.0, shield=True):
            await app.purge(FILES)
            await app.purge(PARSE)
            await _drop(await _find_letters(files))
        raise
    await app.drain(FILES, PARSE)  # a job's outcome can be known a moment before its dead letter is written
    harvest.letters = await _find_letters(files)
    await _drop(harvest.letters)
    harvest.letters_left = len(await _find_letters(files))
    harvest.counters = dict(app.counters)
    return harvest


async def _follow(file: Indexed, progress: Progress) -> None:
    """Wait until a file has been read, have it parsed, wait for that.

    Thousands of these wait at once. What they send at the same moment travels in one batch: nobody has to collect it.
    """
    file.read = await file.read_job.outcome()
    if isinstance(file.read, Succeeded):
        progress.retries += file.read.value.attempt - 1
        file.parse_job = await parse_module.enqueue(file.source.path)
        file.parsed = await file.parse_job.outcome()
    progress.done += 1
    progress.dead += file.is_dead


async def _send_again(harvest: Harvest, into: Path) -> None:
    """Send some files a second time: each key is known, so nothing runs, and the first outcome is the answer."""
    some = [file for file in harvest.files if isinstance(file.read, Succeeded)][:AGAIN]
    jobs = await app.enqueue_many(
        read_file.call(str(into), file.source.path, file.source.modified) for file in some
    )
    for file, job in zip(some, jobs, strict=True):
        harvest.sent_again += 1
        harvest.answered += job == file.read_job and await job.outcome() == file.read


async def _find_letters(files: Sequence[Indexed]) -> list[DeadLetter]:
    """The dead letters of these files; there may be others, of somebody else."""
    ours = {file.job_id: file for file in files}
    letters = []
    for queue in (FILES, PARSE):
        async for letter in app.dead_letters.read(queue):
            if letter.job_id in ours:
                ours[letter.job_id].letter = letter
                letters.append(letter)
    return letters


async def _drop(letters: Sequence[DeadLetter]) -> None:
    for letter in letters:
        await app.dead_letters.drop(letter.id)
