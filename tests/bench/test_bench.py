"""``taskcore bench`` and what it measures with: the rulers, the account, the display, the table; on memory, quickly."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import msgspec
import pytest

import taskcore
from taskcore.bench import (
    BROKERS,
    QUICK,
    SCENARIOS,
    BenchEnvironment,
    Contestant,
    Figure,
    MachineInfo,
    NotHere,
    Skipped,
    chosen,
    decode_lines,
    describe_machine,
    encode_line,
    measure,
    measure_one,
    printed,
    private_environment,
    show,
    table_of,
)
from taskcore.bench import brokers as brokers_module
from taskcore.bench.figures import percentile
from taskcore.bench.latency import arrive
from taskcore.bench.ledger import JobLedger, reconcile
from taskcore.bench.proc import cpu_of, folder_size, has_proc, memory_of
from taskcore.bench.tally import Tally, number_of, payload

TINY = msgspec.structs.replace(
    QUICK, seconds=0.01, arrivals=((500.0, 0.1),), scheduled=20, idle=0.1, payloads=(100,), backlog=0
)


@pytest.fixture
def anyio_backend() -> str:
    """Measure on the loop that programs use."""
    return "asyncio"


class Silent:
    """A display that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str]] = []

    def begins(self, broker, scenario, done, all):
        """Do nothing."""

    def ends(self, broker, scenario, seconds, outcome):
        """Remember how a scenario ended."""
        self.lines.append((broker, scenario, outcome))


def figure(**changes: object) -> Figure:
    """Make a figure."""
    usual = {"broker": "redis", "who": "taskcore", "scenario": "drain", "name": "1 process", "unit": "jobs/s"}
    return Figure(**{**usual, "values": (100.0, 120.0, 110.0), **changes})


# ── the rulers ───────────────────────────────────────────────────────────────────────────────────


def test_a_payload_has_its_size_its_number_and_its_time():
    """Peers and taskcore read the same text."""
    data = payload(42, 200, due=81234.567891)
    assert len(data) == 200
    assert number_of(data) == 42
    assert float(data[10:27]) == pytest.approx(81234.567891)


def test_a_tally_counts_times_and_reports(tmp_path):
    """What another process reads is what was marked."""
    tally = Tally(timed=True)
    for number in (0, 1, 1):
        tally.mark(payload(number))
    tally.pulse(tmp_path / "count")
    tally.write(tmp_path / "report")
    report = json.loads((tmp_path / "report").read_text())
    assert (tmp_path / "count").read_text() == "3"
    assert report["numbers"] == [0, 1, 1]
    assert len(report["latencies"]) == 3
    assert report["last"] >= report["first"] > 0
    assert report["rss"] > 1_000_000


def test_the_rulers_need_no_taskcore(tmp_path):
    """Peers load both files by their paths, in environments that have nothing but Python."""
    folder = Path(taskcore.__file__).parent / "bench"
    program = f"""
import importlib.util, sys
for name in ("tally", "ledger"):
    spec = importlib.util.spec_from_file_location(name, {str(folder)!r} + "/" + name + ".py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
assert not any(name.split(".")[0] in ("taskcore", "anyio", "msgspec") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-I", "-c", program], check=True, cwd=tmp_path)


def test_an_account_has_lost_duplicated_restarted_and_unknown(tmp_path):
    """Each is counted from ids, and none hides another."""
    ledger = JobLedger(tmp_path / "ledger")
    for what, number in [
        ("start", 1), ("end", 1),
        ("start", 2), ("start", 2), ("end", 2), ("end", 2),
        ("start", 3),
        ("start", 4), ("start", 4), ("end", 4),
        ("start", 9), ("end", 9),
    ]:  # fmt: skip
        ledger.write(what, number)
    found = reconcile([1, 2, 3, 4, 5], ledger.read())
    assert ledger.ended() == 4
    ledger.close()
    assert found == (5, 2, 1, 2, 1)


def test_a_ledger_is_shared_and_survives_a_killed_writer(tmp_path):
    """A ledger keeps what was signed before SIGKILL."""
    program = """
import os, signal, sys
from taskcore.bench.ledger import JobLedger
ledger = JobLedger(sys.argv[1])
for number in range(100):
    ledger.write("end", number)
os.kill(os.getpid(), signal.SIGKILL)
"""
    where = {**os.environ, "PYTHONPATH": str(Path(taskcore.__file__).parents[1])}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", program, tmp_path / "ledger"], check=False, env=where)
    ledger = JobLedger(tmp_path / "ledger")
    assert len(ledger.read()) == 200
    assert reconcile(range(100), ledger.read()).duplicated == 100
    ledger.close()


def test_percentiles_are_values_that_were_measured():
    """Nearest rank: p50 of two is the lower, p100 the greatest, p99.9 of a few the greatest."""
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, one) for one in (1, 50, 99, 99.9, 100)] == [1.0, 50.0, 99.0, 100.0, 100.0]
    assert percentile([3.0], 50) == 3.0


@pytest.mark.skipif(not has_proc(), reason="no /proc here")
def test_costs_of_a_process_group_include_its_children(tmp_path):
    """A server that consists of several processes is counted whole, also where they lead groups of their own."""
    busy = "import time\nwhile time.process_time() < 0.3: pass\nprint(1, flush=True)\ntime.sleep(30)"
    program = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {busy!r}], process_group=0, stdout=subprocess.PIPE)
child.stdout.readline()
print("done", flush=True)
time.sleep(30)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, process_group=0) as parent:
        try:
            assert parent.stdout is not None
            parent.stdout.readline()
            assert cpu_of(parent.pid) >= 0.25
            assert memory_of(parent.pid) > 5_000_000
        finally:
            children = subprocess.run(["pgrep", "-P", str(parent.pid)], capture_output=True, text=True, check=False)
            for pid in [*children.stdout.split(), str(parent.pid)]:
                os.kill(int(pid), 9)


def test_folder_size(tmp_path):
    """Blocks on disk, of everything below."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "file").write_bytes(os.urandom(100_000))
    assert 90_000 < folder_size(tmp_path) < 200_000


# ── scenarios ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.anyio
@pytest.mark.parametrize("name", [name for name in SCENARIOS if "killed" not in name and name != "storage"])
async def test_each_scenario_on_memory(name):
    """Each gives figures of its own, and loses nothing."""
    size = msgspec.structs.replace(TINY, backlog=2_000)
    records: list[Figure | Skipped] = []
    scenarios = {name: SCENARIOS[name]}
    await measure({"memory": lambda: private_environment("memory", size)}, scenarios, Silent(), records.append)
    assert records
    for record in records:
        assert isinstance(record, Figure), record
        assert record.broker == "memory"
        assert record.lost == 0
        assert all(value >= 0 for value in record.values)


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["worker killed", "broker killed", "storage"])
async def test_scenarios_without_memory_support_are_skipped_with_a_reason(name):
    """A scenario that memory cannot have is skipped with a reason."""
    records: list[Figure | Skipped] = []
    silent = Silent()
    await measure(
        {"memory": lambda: private_environment("memory", TINY)}, {name: SCENARIOS[name]}, silent, records.append
    )
    [record] = records
    assert isinstance(record, Skipped)
    assert "lives in this process" in record.why
    assert silent.lines == [("memory", name, f"skipped: {record.why}")]


@pytest.mark.anyio
async def test_a_scenario_that_fails_is_reported_and_the_next_goes_on(caplog):
    """Nor does one failure end a run of a quarter of an hour."""

    async def failing(environment: BenchEnvironment) -> list[Figure]:
        raise TimeoutError("only 3 of 5 jobs have run within 1 s")

    async def working(environment: BenchEnvironment) -> list[Figure]:
        return [environment.figure("fine", "x", "jobs/s", (1.0,))]

    records: list[Figure | Skipped] = []
    environments = {"memory": lambda: private_environment("memory", TINY)}
    await measure(environments, {"bad": failing, "fine": working}, Silent(), records.append)
    assert [type(record) for record in records] == [Skipped, Figure]
    assert isinstance(records[0], Skipped)
    assert records[0].why == "failed: only 3 of 5 jobs have run within 1 s"
    assert "bad on memory failed" in caplog.text


@pytest.mark.anyio
async def test_a_scenario_that_does_not_end_is_ended_and_reported():
    """A scenario beyond its limit is a failure like any other, and the run goes on."""

    async def endless(environment: BenchEnvironment) -> list[Figure]:
        await anyio.sleep_forever()
        return []

    async with private_environment("memory", TINY) as environment:
        [record] = await measure_one(environment, "endless", endless, within=0.01)
    assert isinstance(record, Skipped)
    assert record.why == "failed: it was not done after 0.01 s, and was ended"


class Nowhere:
    """An app whose tasks are sent nowhere."""

    tasks: ClassVar[dict[str, Nowhere]] = {}

    async def enqueue(self, data: str) -> None:
        """Take a moment."""
        await anyio.lowlevel.checkpoint()


@pytest.mark.anyio
@pytest.mark.parametrize("works_here", [False, True])
async def test_the_open_loop_lets_the_jobs_run_that_it_has_started(works_here):
    """A sender that only looks at the clock measures itself: the first job would begin when the last one is due."""
    app: Any = Nowhere()
    app.tasks["bench.noop"] = app
    late = await arrive(app, 2_000.0, 2_000, works_here=works_here)
    assert len(late) == 2_000
    assert late[0] < 0.9  # and not the whole second; a hundredth is usual on a machine that does much else


@pytest.mark.anyio
async def test_a_broker_that_is_not_installed_is_skipped_with_a_reason(monkeypatch):
    """A missing adapter or server is one record with its reason, and the other brokers are measured."""

    def no_server():
        raise brokers_module.ServerMissing("redis-server is not on this machine")

    monkeypatch.setitem(brokers_module.BROKERS, "redis", BROKERS["redis"]._replace(server=no_server))
    monkeypatch.setitem(brokers_module.BROKERS, "nats", BROKERS["nats"]._replace(scheme="amqps+nowhere", server=None))
    with pytest.raises(NotHere, match="redis-server is not on this machine"):
        async with private_environment("redis", TINY):
            pass


@pytest.mark.anyio
async def test_a_drain_that_loses_jobs_says_so(monkeypatch):
    """The figure of a lossy broker has its losses beside it: here a worker that drops every tenth mark."""
    marks = Tally.mark

    def forgetful(self, data):
        if number_of(data) % 10:
            marks(self, data)
        else:
            self.numbers.append(1)  # counted, under a number that has run already

    monkeypatch.setattr(Tally, "mark", forgetful)
    records: list[Figure | Skipped] = []
    environments = {"memory": lambda: private_environment("memory", TINY)}
    await measure(environments, {"retries": SCENARIOS["retries"]}, Silent(), records.append)
    assert any(isinstance(record, Figure) and record.lost > 0 for record in records)
    assert "LOST" in table_of(records)


def test_names_choose_scenarios():
    """A word is enough; a wrong one is an error that lists them."""
    assert list(chosen(["killed"], backlog=0)) == ["worker killed", "broker killed"]
    assert "backlog" not in chosen([], backlog=0)
    assert "backlog" in chosen([], backlog=10)
    with pytest.raises(LookupError, match='no scenario is called "nosuch"; there are: enqueue'):
        chosen(["nosuch"], backlog=0)


# ── what comes out ───────────────────────────────────────────────────────────────────────────────


def test_records_are_encoded_as_json_lines():
    """Each kind comes back as it was, and a line that is none is refused."""
    records = [
        figure(facts={"lost": 0, "jobs": 100}),
        Skipped(broker="nats", who="Celery", scenario="all", why="no such broker"),
        Contestant(who="Celery", version="5.7.0", settings="solo", source="https://docs.celeryq.dev"),
        anyio.run(describe_machine, "taskcore bench"),
    ]
    lines = [encode_line(record) for record in records]
    assert list(decode_lines(lines)) == records
    assert {json.loads(line)["kind"] for line in lines} == {"figure", "skipped", "contestant", "machine"}
    with pytest.raises(msgspec.ValidationError):
        list(decode_lines([b'{"kind": "figure"}']))


def test_the_table_has_brokers_side_by_side():
    """Median and spread of each, a dash where there is none, losses in capitals, reasons at the end."""
    machine = MachineInfo(
        when="",
        command="",
        cpu="Abacus",
        cores=2,
        memory=1,
        system="",
        python="CPython 3.11",
        loop="asyncio",
        taskcore="0",
    )
    text = table_of(
        [
            machine,
            figure(facts={"lost": 0, "jobs": 100}),
            figure(broker="nats", values=(2_000_000.0,), facts={"lost": 3, "jobs": 100}),
            figure(scenario="idle", name="worker CPU", unit="%", values=(0.123,)),
            Skipped(broker="rabbitmq", who="taskcore", scenario="all", why="not installed"),
        ]
    )
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert rows[0] == "redis nats"
    assert rows[1] == "drain: 1 process jobs/s 110 ±9% 2,000,000"
    assert rows[2] == "idle: worker CPU % 0.123 –"
    assert "LOST: 3 jobs on nats, drain: 1 process" in rows
    assert "Abacus, 2 cores, CPython 3.11, asyncio, load 0 at the start" in rows
    assert rows[-1] == "rabbitmq, all: not installed"


@pytest.mark.parametrize(
    ("value", "text"), [(0.01234, "0.0123"), (1.5, "1.5"), (123.4, "123"), (12345.6, "12,300"), (0.0, "0")]
)
def test_numbers_have_three_digits(value, text):
    """A number has three digits, because more would claim more than was measured."""
    assert show(value) == text


def test_progress_in_a_log_is_plain_lines():
    """No carriage returns, no colours, one line when a scenario has ended."""
    out = io.StringIO()
    progress = printed(out)
    progress.begins("redis", "drain", 0, 3)
    progress.ends("redis", "drain", 1.25, "1 process 100 jobs/s")
    assert out.getvalue() == "redis · drain · 1.2 s · 1 process 100 jobs/s\n"


def test_progress_on_a_terminal_is_a_bar_that_goes_away(monkeypatch):
    """The bar is overwritten by the line that stays."""
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    progress = printed(out)
    progress.begins("redis", "drain", 1, 2)
    progress.ends("redis", "drain", 1.25, "x" * 200)
    bar, line = out.getvalue().split("\r\033[K")[1:]
    assert "██████████░░░░░░░░░░ 1/2" in bar
    assert "\n" not in bar
    assert line.endswith("\n")
    assert len(line) <= 100


# ── the command ──────────────────────────────────────────────────────────────────────────────────


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run(
        [sys.executable, "-m", "taskcore", "bench", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(Path(taskcore.__file__).parents[1])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


@pytest.mark.timeout(90)
def test_the_command_measures_and_reports(tmp_path):
    """Results on stdout, progress on stderr, each line of --json a record, exit code 0."""
    answer = run(tmp_path, "memory://", "--quick", "--only", "enqueue,retries", "--json")
    assert answer.returncode == 0, answer.stderr
    records = list(decode_lines(answer.stdout.splitlines()))
    assert {record.scenario for record in records if isinstance(record, Figure)} == {"enqueue", "retries"}
    assert isinstance(records[-1], MachineInfo)
    assert records[-1].command == "taskcore bench memory:// --quick --only enqueue,retries --json"
    assert [line.split(" · ")[1] for line in answer.stderr.splitlines()] == ["enqueue", "retries"]


@pytest.mark.timeout(90)
def test_the_command_prints_a_table(tmp_path):
    """The command prints a table for people."""
    answer = run(tmp_path, "memory://", "--quick", "--only", "retries")
    assert answer.returncode == 0, answer.stderr
    assert "retries: each fails twice, then succeeds" in answer.stdout
    assert "lost: none of" in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--only", "nosuch"], 2, 'no scenario is called "nosuch"'),
        (["nosuch://"], 2, "no backend is called nosuch://"),
        (["memory://?nosuch=1"], 2, "TC103"),
        (["redis://127.0.0.1:1", "--only", "enqueue", "--quick"], 4, "TC201"),
        (["--rounds", "0"], 2, "rounds"),
    ],
)
def test_the_command_refuses(tmp_path, arguments, code, says):
    """Exit codes and texts as of every command, and no traceback."""
    answer = run(tmp_path, *arguments)
    assert answer.returncode == code, answer.stderr
    assert says in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.timeout(90)
def test_a_failed_scenario_is_an_exit_code(tmp_path):
    """A lost job or a failed scenario is an exit code for scripts."""
    (tmp_path / "sitecustomize.py").write_text(
        "from taskcore.bench import draining\n"
        "async def failing(environment):\n    raise TimeoutError('too slow')\n"
        "from taskcore.bench import scenarios\n"
        "scenarios.SCENARIOS['retries'] = failing\n"
    )
    where = os.pathsep.join([str(tmp_path), str(Path(taskcore.__file__).parents[1])])
    answer = subprocess.run(
        [sys.executable, "-m", "taskcore", "bench", "memory://", "--only", "retries"],
        env={**os.environ, "PYTHONPATH": where}, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert answer.returncode == 1
    assert "failed: too slow" in answer.stdout


def test_client_libraries_are_quiet_and_our_failures_are_not():
    """A broker that is killed on purpose makes its client log; a scenario that fails is still reported."""
    program = """
import logging
from taskcore.bench import quiet_logs
quiet_logs()
logging.getLogger("aiormq").error("connection refused")
logging.getLogger("taskcore.bench").error("drain failed")
"""
    where = {**os.environ, "PYTHONPATH": str(Path(taskcore.__file__).parents[1])}
    ran = subprocess.run([sys.executable, "-c", program], env=where, capture_output=True, text=True, check=True)
    assert ran.stderr == "drain failed\n"
