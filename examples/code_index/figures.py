"""Add up the outcomes of all jobs to the figures of the report.

Every file must be accounted for exactly once: it is indexed, or it is a dead letter with a reason.
"""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from examples.code_index.analysis import BUCKETS, Function, ModuleFacts, NotPython
from examples.code_index.index import Harvest, Indexed
from examples.code_index.sources import Origin
from examples.code_index.tasks import FileFacts
from examples.code_index.trouble import Trouble
from taskcore import Dead, Failed, Succeeded
from taskcore.config import Settings
from taskcore.toolkit.urls import mask_url

__all__ = ["Conditions", "Group", "Letter", "Package", "Place", "Report", "make_report"]

MOST_PLACES = 10


class Conditions(msgspec.Struct, kw_only=True):
    """The conditions under which the figures were measured."""

    python: str
    machine: str
    cores: int
    backend: str
    store: str
    workers: str


class Package(msgspec.Struct):
    """The totals of the files of one package."""

    name: str
    origin: Origin
    files: int = 0
    lines: int = 0
    functions: int = 0
    documentable: int = 0
    documented: int = 0

    @property
    def coverage(self) -> float:
        """The share of functions and classes that have a docstring."""
        return self.documented / max(self.documentable, 1)


class Place(msgspec.Struct):
    """A notable function."""

    file: str
    function: Function


class Letter(msgspec.Struct, frozen=True):
    """One dead letter: the file, its problem, the number of attempts."""

    file: str
    problem: str
    attempts: int


class Group(msgspec.Struct):
    """Dead letters of one kind: what it means, and what to do."""

    kind: str
    count: int
    means: str
    advice: str
    letters: list[Letter]


class Report(msgspec.Struct, kw_only=True):
    """All figures. ``submitted = indexed + dead`` if all went well; anything else is a bug."""

    conditions: Conditions
    submitted: int
    indexed: int
    dead: int
    letters: int
    letters_left: int
    jobs: int
    jobs_succeeded: int
    retried_attempts: int
    sent_again: int
    answered_from_the_first: int
    seconds: float
    lines: int
    size: int
    classes: int
    functions: int
    documentable: int
    documented: int
    compiler_warnings: int
    copies: int
    encodings: dict[str, int]
    complexities: dict[str, int]
    packages: list[Package]
    most_imported: dict[str, int]
    longest: list[Place]
    most_complex: list[Place]
    dead_letters: list[Group]
    timeline: list[tuple[float, int]]
    counters: dict[str, int]
    trouble: Trouble

    @property
    def accounted(self) -> int:
        """Files that were indexed, or are dead and have a dead letter."""
        return self.indexed + self.letters

    @property
    def is_complete(self) -> bool:
        """Whether each file is accounted for exactly once, and each duplicate got the first outcome."""
        return (
            self.accounted == self.submitted
            and self.dead == self.letters
            and self.answered_from_the_first == self.sent_again
        )


def make_report(
    harvest: Harvest, timeline: Sequence[tuple[float, int]], settings: Settings, *, workers: int, trouble: Trouble
) -> Report:
    """Compute all figures of one run."""
    files = harvest.files
    reads = [(file, file.read.value) for file in files if isinstance(file.read, Succeeded)]
    parses = [(file, file.parsed.value) for file in files if isinstance(file.parsed, Succeeded)]
    modules = [module for _, module in parses]
    return Report(
        conditions=_conditions(settings, workers),
        submitted=len(files),
        indexed=len(parses),
        dead=sum(file.is_dead for file in files),
        letters=len({letter.job_id for letter in harvest.letters}),
        letters_left=harvest.letters_left,
        jobs=len(files) + sum(file.parse_job is not None for file in files),
        jobs_succeeded=len(reads) + len(parses),
        retried_attempts=sum(facts.attempt - 1 for _, facts in reads)
        + sum(letter.trail.attempts - 1 for letter in harvest.letters),
        sent_again=harvest.sent_again,
        answered_from_the_first=harvest.answered,
        seconds=harvest.seconds,
        lines=sum(facts.lines for _, facts in reads),
        size=sum(facts.size for _, facts in reads),
        classes=sum(module.classes for module in modules),
        functions=sum(module.functions for module in modules),
        documentable=sum(module.documentable for module in modules),
        documented=sum(module.documented for module in modules),
        compiler_warnings=sum(module.warnings for module in modules),
        copies=sum(facts.copy_of is not None for _, facts in reads),
        encodings=_ranked(facts.encoding for _, facts in reads),
        complexities=_histogram(modules),
        packages=_packages(reads, parses),
        most_imported=_ranked(name for module in modules for name in module.imports),
        longest=_outstanding(parses, "longest", "lines"),
        most_complex=_outstanding(parses, "most_complex", "complexity"),
        dead_letters=_groups(files),
        timeline=[(round(when, 2), done) for when, done in timeline],
        counters=harvest.counters,
        trouble=trouble,
    )


def _conditions(settings: Settings, workers: int) -> Conditions:
    return Conditions(
        python=f"{platform.python_implementation()} {platform.python_version()}",
        machine=f"{platform.system()} {platform.machine()}",
        cores=os.cpu_count() or 1,
        backend=mask_url(settings.url),
        store=mask_url(settings.store) if settings.store else "the broker's own",
        workers=f"{workers} processes" if workers else "in the same process",
    )


def _ranked(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common(MOST_PLACES))


def _histogram(modules: Sequence[ModuleFacts]) -> dict[str, int]:
    labels = [f"{low}–{high - 1}" for low, high in pairwise(BUCKETS)] + [f"{BUCKETS[-1]} or more"]
    columns = zip(*(module.complexities for module in modules), strict=True)
    return dict(zip(labels, map(sum, columns), strict=False))


def _packages(
    reads: Sequence[tuple[Indexed, FileFacts]], parses: Sequence[tuple[Indexed, ModuleFacts]]
) -> list[Package]:
    """Return all packages, the largest first."""
    packages: dict[tuple[str, str], Package] = {}

    def of(file: Indexed) -> Package:
        source = file.source
        return packages.setdefault((source.origin, source.package), Package(source.package, source.origin))

    for file, facts in reads:
        package = of(file)
        package.files += 1
        package.lines += facts.lines
    for file, module in parses:
        package = of(file)
        package.functions += module.functions
        package.documentable += module.documentable
        package.documented += module.documented
    return sorted(packages.values(), key=lambda package: package.lines, reverse=True)


def _outstanding(parses: Sequence[tuple[Indexed, ModuleFacts]], kind: str, by: str) -> list[Place]:
    """Return the most notable functions, at most one of each file."""
    places = [
        Place(file.source.name, function) for file, module in parses if (function := getattr(module, kind)) is not None
    ]
    return sorted(places, key=lambda place: getattr(place.function, by), reverse=True)[:MOST_PLACES]


# ── dead letters ─────────────────────────────────────────────────────────────────────────────────

#: kind → what it means, and what to do
KINDS: Final[Mapping[str, tuple[str, str]]] = {
    "syntax error": (
        "The parser of this Python does not accept the file: a template, a file for another Python, or test data.",
        "Fix it and replay its dead letter, or exclude such files.",
    ),
    "wrong indentation": (
        "Blocks do not line up, or tabs and spaces are mixed.",
        "Fix it (a formatter helps) and replay its dead letter.",
    ),
    "null bytes": (
        "The file contains null bytes: it was damaged, or is not a text file.",
        "Restore it from its source; replaying it unchanged cannot help.",
    ),
    "bad encoding": (
        "The bytes are not in the encoding that the file declares (or in UTF-8, if it declares none).",
        "Save it as UTF-8, or correct the cookie in its first line, and replay its dead letter.",
    ),
    "too deep": (
        "Expressions are nested too deeply for the compiler.",
        "Nothing; such files test the compiler.",
    ),
    "the file has changed since it was found": (
        "The file was written between the search and the reading.",
        "Index it again: the new version is a new job.",
    ),
}
UNFORESEEN = (
    "An unexpected error.",
    "Read the errors in the trail of the dead letter. Replay it when the cause is gone.",
)


def _groups(files: Sequence[Indexed]) -> list[Group]:
    """Group the dead letters by kind, the most frequent first."""
    kinds: dict[str, list[Indexed]] = {}
    for file in files:
        if file.is_dead:
            kinds.setdefault(_kind(file), []).append(file)
    groups = [
        Group(kind, len(dead), *KINDS.get(kind, UNFORESEEN), [_letter(file) for file in dead])
        for kind, dead in kinds.items()
    ]
    return sorted(groups, key=lambda group: group.count, reverse=True)


def _kind(file: Indexed) -> str:
    """Say why a file is dead. An error that its task declares in ``raises`` arrives typed."""
    match file.last_outcome:
        case Failed(error=NotPython() as error):
            return error.kind
        case Failed(record=record) | Dead(record=record) if record is not None and record.type != "Reject":
            return record.type
        case Dead(reason=reason):
            return reason.removeprefix("rejected: ")
        case outcome:
            return type(outcome).__name__.lower()


def _letter(file: Indexed) -> Letter:
    """Shorten a dead letter for the report; its trail has every error."""
    if file.letter is None or not file.letter.trail.errors:
        return Letter(file.source.name, "no dead letter", 0)
    trail = file.letter.trail
    return Letter(file.source.name, trail.errors[-1].message, trail.attempts)
