"""The command line in a process of its own, as a person or a script runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import taskcore

__all__ = ["environment", "printed", "run"]


def environment(**variables: str) -> dict[str, str]:
    """Return the variables of a clean machine that finds this taskcore, and these."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TASKCORE_", "PYTEST_"))}
    where = [str(Path(taskcore.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return clean | {"PYTHONPATH": os.pathsep.join(where), "PYTHONUTF8": "1"} | variables


def printed(directory: Path, *arguments: str, code: int = 0) -> str:
    """Run the command line; return what it printed on stdout, and behind it its error if one is expected."""
    answer = run(directory, *arguments)
    assert answer.returncode == code, answer.stderr
    return answer.stdout if code == 0 else answer.stdout + answer.stderr


def run(directory: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run(
        [sys.executable, "-m", "taskcore", *arguments],
        cwd=directory,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=15,
        check=False,
    )
