"""The example application as a visitor meets it: a real process, on the in-memory broker, indexing real files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 150

pytestmark = pytest.mark.skipif(not (ROOT / "examples").is_dir(), reason="the examples are in the checkout only")


class Run(NamedTuple):
    """One run of the example, and what it left."""

    process: subprocess.CompletedProcess[str]
    out: Path

    @property
    def report(self) -> dict[str, Any]:
        """``report.json``."""
        return json.loads((self.out / "report.json").read_text(encoding="utf-8"))

    @property
    def page(self) -> str:
        """``report.html``."""
        return (self.out / "report.html").read_text(encoding="utf-8")


def start(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The example, in the environment of somebody who has set nothing."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TASKCORE_", "PYTEST_"))}
    return subprocess.run(
        [sys.executable, "-m", "examples.code_index", *arguments],
        cwd=ROOT,
        env=clean | {"PYTHONUTF8": "1"} | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=18,
        check=False,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run over a few files; all tests here look at this one."""
    out = tmp_path_factory.mktemp("code_index")
    return Run(start("--limit", str(LIMIT), "--out", str(out)), out)


def test_a_run_ends_well_and_says_so(run):
    """Exit code 0, every file accounted for, nothing on stderr."""
    assert run.process.returncode == 0, run.process.stderr
    total = run.report["submitted"]
    assert f"accounted for: {total:,} of {total:,} files" in run.process.stdout
    assert run.process.stderr == ""


def test_every_file_is_indexed_or_dead_and_never_both(run):
    """The totals add up, counted from outcomes on one side and from dead letters on the other."""
    report = run.report
    assert report["submitted"] == LIMIT + 8
    assert report["indexed"] + report["dead"] == report["submitted"]
    assert report["letters"] == report["dead"] == sum(group["count"] for group in report["dead_letters"])
    assert report["letters_left"] == 0
    assert report["jobs_succeeded"] == report["jobs"] - report["dead"]


def test_what_the_caller_learns_agrees_with_what_the_worker_counts(run):
    """Attempts, as the jobs tell them, and the worker's own counters are the same numbers."""
    report, counters = run.report, run.report["counters"]
    assert counters["job.succeeded"] == report["jobs_succeeded"]
    assert counters["job.buried"] == report["dead"]
    assert counters.get("job.retried", 0) == report["retried_attempts"]


def test_a_duplicate_gets_the_first_outcome(run):
    """Jobs that were sent again did not run again."""
    report = run.report
    assert report["sent_again"] == report["answered_from_the_first"] == 25
    assert report["counters"]["job.duplicate"] == 25


def test_broken_files_are_dead_letters_with_their_reason(run):
    """Each broken file is in the group that it belongs to, with the compiler's words, after a single attempt."""
    found = {
        letter["file"]: (group["kind"], letter["problem"], letter["attempts"])
        for group in run.report["dead_letters"]
        for letter in group["letters"]
        if letter["file"].startswith("broken/")
    }
    kinds = {file.removeprefix("broken/").removesuffix(".py"): kind for file, (kind, _, _) in found.items()}
    assert kinds == {
        "forgotten_bracket": "syntax error",
        "unterminated_string": "syntax error",
        "python_2": "syntax error",
        "lost_indentation": "wrong indentation",
        "null_bytes": "null bytes",
        "unknown_cookie": "bad encoding",
        "latin_1_without_cookie": "bad encoding",
        "cookie_that_lies": "bad encoding",
    }
    assert {attempts for _, _, attempts in found.values()} == {1}
    assert found["broken/latin_1_without_cookie.py"][1] == "byte 0xe9 is not utf-8 (line 3)"
    assert "never closed (line 1)" in found["broken/forgotten_bracket.py"][1]


def test_the_page_needs_nothing_from_elsewhere(run):
    """No address, no script, no file: it can be sent to a colleague as it is."""
    assert "http://" not in run.page
    assert "https://" not in run.page
    assert not re.search(r"<script|<link|<img|\bsrc=|\burl\(|@import", run.page)


def test_the_page_tells_what_could_not_be_indexed(run):
    """Reasons, advice and examples."""
    for words in ("null bytes", "bad encoding", "broken/forgotten_bracket.py", "Save it as UTF-8"):
        assert words in run.page


def test_output_that_is_not_a_terminal_is_plain_lines(run):
    """A log file gets whole lines: no carriage returns, no escape sequences."""
    assert "\r" not in run.process.stdout
    assert "\x1b" not in run.process.stdout


def test_worker_processes_are_refused_where_they_could_not_see_the_jobs(tmp_path):
    """In memory there is one process; the refusal says what to do."""
    process = start("--workers", "2", "--out", str(tmp_path))
    assert process.returncode == 2
    assert "TASKCORE_URL" in process.stderr


def test_a_wrong_setting_is_one_message_and_no_traceback():
    """The app is made when its module is imported; that must not show."""
    process = start(TASKCORE_URL="memry://")
    assert process.returncode == 2
    assert "did you mean memory://?" in process.stderr
    assert "Traceback" not in process.stderr
