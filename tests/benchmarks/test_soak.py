"""The soak: its parts, and one short run with real processes on a real Redis."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.soak.__main__ import main
from benchmarks.soak.addresses import endpoint_through, target_of
from benchmarks.soak.app import Spec
from benchmarks.soak.kinds import BLOCK, KINDS, LEASE
from benchmarks.soak.ledger import Ledger, read_all
from benchmarks.soak.plan import REST, REST_EACH, plan
from benchmarks.soak.progress import Progress
from taskcore.faults import RedisServer
from taskcore.worker.signals import CLEANUP_TIMEOUT
from tests.support import real

ROOT = Path(__file__).parents[2]


def test_a_ledger_is_read_up_to_the_line_that_a_kill_cut_short(tmp_path):
    """Whole lines of all processes come in the order of times; half a line is left out."""
    one, two = Ledger(tmp_path / "b.jsonl", "b"), Ledger(tmp_path / "a.jsonl", "a")
    one.write("started", "fast-1", run="x")
    two.write_many([("sending", "fast-2", {}), ("sending", "fast-3", {"delay": 1.0})])
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('[1.0, "a", "sta')
    lines = read_all(tmp_path)
    assert [(line.who, line.what, line.job, line.facts) for line in lines] == [
        ("b", "started", "fast-1", {"run": "x"}),
        ("a", "sending", "fast-2", {}),
        ("a", "sending", "fast-3", {"delay": 1.0}),
    ]


@pytest.mark.parametrize("lease", [1.0, LEASE, 15.0, 60.0])
def test_a_blocked_loop_fits_into_a_stop(lease):
    """A worker that is asked to stop while a job blocks its loop ends in order, before the last resort ends it."""
    spec = Spec(url="memory://", store=None, queue="q", seed=1, keep=60.0, lease=lease)
    assert spec.grace + CLEANUP_TIMEOUT >= BLOCK * lease + 2.0


def test_a_seed_repeats_its_faults():
    """The same seed plans the same faults, another one plans others."""
    assert plan(7, 120.0, ["net"], ["broker"], lease=4.0) == plan(7, 120.0, ["net"], ["broker"], lease=4.0)
    assert plan(7, 120.0, ["net"], ["broker"], lease=4.0) != plan(8, 120.0, ["net"], ["broker"], lease=4.0)


def test_a_plan_has_faults_of_every_kind_within_its_time():
    """In two minutes every process, connection and server is hit, and no fault begins at the very end."""
    faults = plan(1, 120.0, ["net"], ["broker"], lease=4.0)
    done = Counter((fault.kind, fault.target.partition("-")[0]) for fault in faults)
    wanted = {(kind, who) for who in ("worker", "sender") for kind in ("kill", "pause", "stop")}
    wanted |= {("kill", "batch"), ("stop", "batch"), ("cut", "net"), ("black hole", "net")}
    wanted |= {("kill", "broker"), ("restart", "broker")}
    wanted |= {(kind, "worker") for kind in ("kill one", "pause one", "orphan", "reload", "broken reload")}
    assert wanted <= set(done)
    assert all(0 < fault.at < 120.0 - REST for fault in faults)


def test_a_plan_spares_the_worker_whose_size_is_judged():
    """The veteran and the scaled supervisor are never ended, in however long a run."""
    ends = {(fault.kind, fault.target) for fault in plan(1, 3600.0, [], [], lease=4.0) if "pause" not in fault.kind}
    assert not {target for _, target in ends} & {"worker-veteran"}
    assert {kind for kind, target in ends if target == "worker-scaled"} == {"kill one"}


def test_a_plan_has_times_of_rest():
    """No fault begins in the rests: what is doubled there has no fault as its cause."""
    times = [fault.at for fault in plan(1, 3600.0, ["net"], ["broker"], lease=4.0)]
    assert not [at for at in times if at % REST_EACH > REST_EACH - REST]


def test_longer_leases_have_longer_freezes():
    """A process is frozen for longer than its lease, also where that is the default one."""
    longest = max(fault.seconds for fault in plan(1, 3600.0, [], [], lease=15.0) if "pause" in fault.kind)
    assert longest > 1.5 * 15.0


def test_a_plan_spares_the_servers_that_it_is_not_given():
    """Without servers and connections the faults are those of processes."""
    kinds = {"kill", "kill one", "orphan", "pause", "pause one", "stop", "reload", "broken reload"}
    assert {fault.kind for fault in plan(1, 300.0, [], [], lease=4.0)} == kinds


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["memory://"], "one process"),
        (["memory"], "one process"),
        (["rabbitmq"], "--store sqlite"),
        (["redis", "--store", "memory://"], "outlive a process"),
        (["postgres"], "neither a URL nor one of"),
        (["redis", "--minutes", "0"], "--minutes 0"),
        (["redis", "--lease", "long"], "--lease long"),
    ],
)
def test_what_cannot_be_soaked_is_a_wrong_usage(arguments, why, capsys):
    """A broker that lives in one process, a missing store and a wrong name end with exit code 2 and a reason."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert why in capsys.readouterr().err


def test_a_proxy_stands_before_one_plain_server_only():
    """Several hosts and TLS are reached directly; else the URL keeps its login, path and options."""
    assert target_of("redis://u:p@one:7000/3?prefix=x") == ("one", 7000)
    assert endpoint_through("redis://u:p@one:7000/3?prefix=x", 9) == "redis://u:p@127.0.0.1:9/3?prefix=x"
    assert target_of("amqp://one/") == ("one", 5672)
    assert target_of("nats://one:4222,two:4222") is None
    assert target_of("rediss://one:7000") is None


def test_progress_is_one_plain_line_now_and_then_where_there_is_no_terminal():
    """A log gets the first line and no control characters."""
    out = io.StringIO()
    progress = Progress(out)
    progress.show("begins", always=True)
    progress.show("and goes on")
    progress.close()
    assert out.getvalue() == "0:00  begins\n"


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_a_short_soak_on_redis_is_clean():
    """Half a minute with a killed worker: each kind was sent, nothing is lost or left, and the report says so."""
    real.require(RedisServer)
    command = [
        sys.executable,
        "-m",
        "benchmarks.soak",
        "redis",
        "--minutes",
        "0.6",
        "--seed",
        str(WITH_A_KILL),
        "--json",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["clean"]
    assert [name for name in report["faults"] if name.startswith("worker") and name.endswith(": kill")]
    assert set(report["sizes"]) == {"worker-veteran", "broker"}
    assert set(report["verdict"].values()) == {0}
    assert report["findings"] == []
    assert set(report["kinds"]) == set(KINDS)
    assert all(counts["confirmed"] for counts in report["kinds"].values())
    assert report["kinds"]["poison"]["dead"] >= 1


#: A seed whose first twenty seconds have the kill of a worker.
WITH_A_KILL = next(
    seed
    for seed in range(100)
    if any(
        fault.kind == "kill" and fault.target.startswith("worker")
        for fault in plan(seed, 20.4, ["workers' connections", "senders' connections"], ["broker"], lease=4.0)
    )
)
