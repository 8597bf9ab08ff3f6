"""The files to index: the standard library, all installed packages, and some broken files."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

__all__ = ["BROKEN", "Source", "find_sources", "importable", "write_broken"]

Origin: TypeAlias = Literal["standard library", "installed", "broken on purpose"]
SINGLE = "(single modules)"

#: Files that cannot be indexed, written into the output folder at each run. They are not files of this project because
#: formatters, linters and type checkers would reject them.
BROKEN: Final[Mapping[str, bytes]] = {
    "forgotten_bracket.py": b"print('hello'\n",
    "unterminated_string.py": b"greeting = 'hello\n",
    "python_2.py": b"print 'hello'\n",
    "lost_indentation.py": b"if True:\nprint('hello')\n",
    "null_bytes.py": b"x = 1\0\n",
    "unknown_cookie.py": b"# -*- coding: klingon -*-\nx = 1\n",
    "latin_1_without_cookie.py": b"first = 1\nsecond = 2\nname = 'Jos\xe9'\n",
    "cookie_that_lies.py": b"# -*- coding: ascii -*-\nname = 'Jos\xc3\xa9'\n",
}


@dataclass(frozen=True)
class Source:
    """One file to index.

    :param name: its path relative to the folder of the search.
    :param package: the top-level package that it belongs to.
    :param modified: when it was written, in nanoseconds since the epoch.
    """

    path: str
    name: str
    package: str
    origin: Origin
    size: int
    modified: int


def find_sources(out: Path, limit: int | None) -> list[Source]:
    """Find all files to index.

    :param out: the folder for the broken ones.
    :param limit: take only this many, from all places; the broken ones are extra.
    """
    found = importable()
    if limit is not None and limit < len(found):
        found = [found[index * len(found) // limit] for index in range(limit)]
    return [*found, *write_broken(out / "broken")]


def importable() -> list[Source]:
    """Find the files of the standard library and of all installed packages."""
    paths = sysconfig.get_paths()
    found = [
        *_python_files(Path(paths["stdlib"]), "standard library", skip=("site-packages", "dist-packages")),
        *_python_files(Path(paths["purelib"]), "installed"),
    ]
    if paths["platlib"] != paths["purelib"]:
        found += _python_files(Path(paths["platlib"]), "installed")
    return found


def write_broken(folder: Path) -> list[Source]:
    """Write the broken samples."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in BROKEN.items():
        (folder / name).write_bytes(data)
    return [_source(folder / name, folder, "broken on purpose") for name in BROKEN]


def _python_files(folder: Path, origin: Origin, skip: Iterable[str] = ()) -> Iterator[Source]:
    for directory, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if name != "__pycache__" and name not in skip)
        for name in sorted(names):
            path = Path(directory, name)
            if path.suffix == ".py" and path.is_file():  # not a dangling link
                yield _source(path, folder, origin)


def _source(path: Path, folder: Path, origin: Origin) -> Source:
    name = path.relative_to(folder)
    stat = path.stat()
    package = name.parts[0] if len(name.parts) > 1 else SINGLE
    if origin == "broken on purpose":
        name = Path(folder.name) / name
    return Source(str(path), name.as_posix(), package, origin, stat.st_size, stat.st_mtime_ns)
