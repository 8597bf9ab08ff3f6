"""The example application as a visitor meets it: a real process, indexing real files, with nothing and with trouble."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from taskcore.faults import NatsServer, PostgresServer, RabbitServer, RedisServer
from tests.support.real import require, serving

ROOT = Path(__file__).resolve().parents[1]
RUN_TIMEOUT = 150  #: seconds that a run may take
FEW_FILES = 300  #: files of a run with trouble …
FEWER_FILES = 100  #: … where each write is confirmed by several servers
LONG_TEST_TIMEOUT = 170  #: seconds for a test that may have to wait for such a run, on a machine with other work

pytestmark = pytest.mark.skipif(not (ROOT / "examples").is_dir(), reason="the examples are in the checkout only")


class Run(NamedTuple):
    """One run of the example, and what it left."""

    process: subprocess.CompletedProcess[str]
    out: Path
    limit: int = RUN_TIMEOUT

    @property
    def report(self) -> dict[str, Any]:
        """``report.json``."""
        return json.loads((self.out / "report.json").read_text(encoding="utf-8"))

    @property
    def page(self) -> str:
        """``report.html``."""
        return (self.out / "report.html").read_text(encoding="utf-8")


def start(*arguments: str, within: float = 60, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the example in an environment without settings, with the servers of the tests."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TASKCORE_", "PYTEST_"))}
    clean |= {name: value for name, value in os.environ.items() if name == "TASKCORE_SERVERS"}
    return subprocess.run(
        [sys.executable, "-m", "examples.code_index", *arguments],
        cwd=ROOT,
        env=clean | {"PYTHONUTF8": "1"} | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=within,
        check=False,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run over a few files, once for all tests."""
    out = tmp_path_factory.mktemp("code_index")
    return Run(start("--limit", str(RUN_TIMEOUT), "--out", str(out)), out)


def test_a_run_ends_well_and_says_so(run):
    """Exit code 0, every file accounted for, nothing on stderr."""
    assert run.process.returncode == 0, run.process.stderr
    total = run.report["submitted"]
    assert f"accounted for: {total:,} of {total:,} files" in run.process.stdout
    assert run.process.stderr == ""


def test_every_file_is_indexed_or_dead_and_never_both(run):
    """The totals add up, counted from outcomes on one side and from dead letters on the other."""
    report = run.report
    assert report["submitted"] == RUN_TIMEOUT + 8
    assert report["indexed"] + report["dead"] == report["submitted"]
    assert report["letters"] == report["dead"] == sum(group["count"] for group in report["dead_letters"])
    assert report["letters_left"] == 0
    assert report["jobs_succeeded"] == report["jobs"] - report["dead"]


def test_callers_and_workers_count_the_same(run):
    """The attempts that jobs report and the worker's own counters are the same numbers."""
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


def test_the_page_names_what_could_not_be_indexed(run):
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


def test_at_least_one_worker_has_to_survive(tmp_path):
    """Killing all of them is refused before anything is started; the refusal says how many it takes."""
    process = start("--server", "redis", "--workers", "2", "--kill", "2", "--out", str(tmp_path))
    assert process.returncode == 2
    assert "--workers 3" in process.stderr


def test_only_a_private_server_is_killed(tmp_path):
    """A server that other programs may use is left alone, whatever the options say."""
    process = start("--kill-server", "--out", str(tmp_path), TASKCORE_URL="redis://127.0.0.1:1/0")
    assert process.returncode == 2
    assert "--server" in process.stderr


def test_only_a_server_that_others_replace_is_killed_for_good(tmp_path):
    """The end of the only server would be the end of the run: refused before anything is started."""
    process = start("--server", "nats", "--kill-server", "--for-good", "--out", str(tmp_path))
    assert process.returncode == 2
    assert "--server nats-cluster --kill-server" in process.stderr


def test_a_wrong_setting_is_one_message_and_no_traceback():
    """The app is made when its module is imported; that must not show."""
    process = start(TASKCORE_URL="memry://")
    assert process.returncode == 2
    assert "did you mean memory://?" in process.stderr
    assert "Traceback" not in process.stderr


# ── trouble ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def killed_worker(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run on a shared Redis, with two workers of which one is killed."""
    out = tmp_path_factory.mktemp("killed_worker")
    with serving(RedisServer) as server:
        options = ("--workers", "2", "--kill", "1", "--limit", str(FEW_FILES), "--out", str(out))
        return Run(start(*options, TASKCORE_URL=server.url), out, FEW_FILES)


@pytest.fixture(scope="module")
def killed_server(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run on a private Redis, which is killed after one of the workers."""
    require(RedisServer)
    out = tmp_path_factory.mktemp("killed_server")
    return private("redis", out, FEW_FILES)


@pytest.fixture(scope="module")
def killed_nats(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run the same on NATS."""
    require(NatsServer)
    return private("nats", tmp_path_factory.mktemp("killed_nats"), FEW_FILES)


@pytest.fixture(scope="module")
def killed_node(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run on three NATS servers that each keep everything; the one that leads most is killed for good."""
    require(NatsServer)
    return private("nats-cluster", tmp_path_factory.mktemp("killed_node"), FEWER_FILES, "--for-good", within=150)


@pytest.fixture(scope="module")
def killed_rabbit(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run on RabbitMQ, which has no store, with results and keys in a PostgreSQL beside it."""
    require(RabbitServer)
    require(PostgresServer)
    return private("rabbitmq", tmp_path_factory.mktemp("killed_rabbit"), FEW_FILES, "--store", "postgres", within=150)


def private(server: str, out: Path, limit: int, *more: str, within: float = 60) -> Run:
    """Run on a private broker, where a worker is killed and then a server."""
    options = ("--server", server, "--kill", "1", "--kill-server", "--limit", str(limit), "--out", str(out))
    return Run(start(*options, *more, within=within), out, limit)


@pytest.fixture(params=["killed_worker", "killed_server", "killed_nats", "killed_node", "killed_rabbit"])
def survivor(request: pytest.FixtureRequest) -> Run:
    """Choose each of the runs with trouble."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["killed_server", "killed_nats", "killed_rabbit"])
def revived(request: pytest.FixtureRequest) -> Run:
    """Choose each of the runs whose only server was killed."""
    return request.getfixturevalue(request.param)


@pytest.mark.timeout(LONG_TEST_TIMEOUT)
def test_injected_faults_lose_no_file(survivor):
    """Exit code 0, every file accounted for, each counted once, nothing left in the broker."""
    assert survivor.process.returncode == 0, survivor.process.stderr + survivor.process.stdout
    report = survivor.report
    total = report["submitted"]
    assert f"accounted for: {total:,} of {total:,} files" in survivor.process.stdout
    assert report["indexed"] + report["dead"] == total == survivor.limit + 8
    assert report["letters"] == report["dead"]
    assert report["letters_left"] == 0
    with closing(sqlite3.connect(survivor.out / "catalogue.sqlite")) as catalogue:
        [(rows,)] = catalogue.execute("select count(*) from file")
    assert rows == report["jobs"] - total  # every file that could be read has one row, however often it was begun


@pytest.mark.timeout(LONG_TEST_TIMEOUT)
def test_a_worker_was_really_killed_in_the_middle(survivor):
    """After a third of the files, before the end; its process is gone and never said that it was done."""
    [killed] = survivor.report["trouble"]["workers"]
    assert survivor.report["submitted"] // 3 <= killed["files_done"] < survivor.report["submitted"]
    with pytest.raises(ProcessLookupError):
        os.kill(killed["pid"], 0)
    ends = {number: (survivor.out / f"worker-{number}.log").read_text().count("done: ") for number in (1, 2)}
    assert ends == {killed["number"]: 0, 3 - killed["number"]: 1}
    assert f"killed worker {killed['number']} (pid {killed['pid']}) with" in survivor.process.stdout


@pytest.mark.timeout(LONG_TEST_TIMEOUT)
def test_repeated_starts_are_counted_from_the_journals(survivor):
    """The report has as many as the workers' own journals; what the killed one had under way is the most of it."""
    starts, explained, lost = Counter(), Counter(), 0
    text = "".join((survivor.out / f"journal-{number}").read_text() for number in (1, 2))
    for line in text.splitlines():
        name, job = line.split()
        starts[job] += name == "job.started"
        lost += name == "job.lost"  # on a machine so busy that a worker could not prolong its leases
        explained[job] += name in {"job.retried", "job.released", "job.deferred"}
    again = sum(starts[job] - explained[job] > 1 for job in starts)
    trouble = survivor.report["trouble"]
    assert trouble["begun_again"] == again
    if not trouble["servers"]:
        assert again <= trouble["workers"][0]["under_way"] + lost
    words = "1 job was begun a second time" if again == 1 else f"{again} jobs were begun a second time"
    assert words in survivor.process.stdout
    assert words in survivor.page


@pytest.mark.timeout(LONG_TEST_TIMEOUT)
def test_the_server_was_really_killed_and_came_back(revived):
    """The report says that the server was away for a while at two thirds."""
    [server] = revived.report["trouble"]["servers"]
    assert server["away"] >= 1.0
    assert server["of"] == 1
    assert server["files_done"] >= revived.report["submitted"] * 2 // 3
    assert f"killed the server ({server['server']})" in revived.process.stdout
    assert "started again on the same data" in revived.page


@pytest.mark.timeout(LONG_TEST_TIMEOUT)
def test_a_server_of_a_cluster_was_really_killed_and_did_not_come_back(killed_node):
    """At two thirds one of the three is gone for good; the report says so, and the others have done the rest."""
    [server] = killed_node.report["trouble"]["servers"]
    assert (server["away"], server["of"]) == (None, 3)
    assert server["files_done"] >= killed_node.report["submitted"] * 2 // 3
    assert f"killed one of 3 servers ({server['server']})" in killed_node.process.stdout
    assert "started the server again" not in killed_node.process.stdout
    assert "for good; the other 2 went on" in killed_node.page


@pytest.mark.timeout(LONG_TEST_TIMEOUT)
def test_results_and_keys_are_kept_where_it_was_asked_for(killed_rabbit):
    """The report names the store, and there is no file for one beside it."""
    assert killed_rabbit.report["conditions"]["store"].startswith("postgresql://")
    assert not list(killed_rabbit.out.glob("store.sqlite*"))
