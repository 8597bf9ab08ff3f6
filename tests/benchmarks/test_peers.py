"""Measuring peers: what their files say, environments, and a toy peer whose queue is a folder of files."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import environment
import measuring
import msgspec
import pytest
import ruler
from environment import Home, PeerFailed
from measuring import Effort, Measured

from benchmarks.compare.peers import wanted
from taskcore.bench import Figure

pytestmark = pytest.mark.timeout(90)  # a toy peer is several processes, each with a start of its own

ISSUED = {
    "arq", "bullmq", "celery", "dramatiq", "faststream", "huey",
    "procrastinate", "repid", "rq", "saq", "streaq", "taskiq",
}  # fmt: skip

TOY = '''
"""A peer whose queue is a file of lines."""
import os, sys, time
from pathlib import Path
import ruler

FILE = Path(ruler.URL.removeprefix("toy://")) / ruler.QUEUE

class Adapter(ruler.Adapter):
    async def one(self, data):
        with FILE.open("a") as file:
            file.write(data + "\\n")

    async def trip(self, data):
        answer = FILE.with_suffix(".answers")
        before = answer.stat().st_size if answer.exists() else 0  # first: the worker may answer at once
        await self.one(data)
        while not answer.exists() or answer.stat().st_size <= before:
            time.sleep(0.001)

def work():
    place = FILE.with_suffix(".place")  # what is done: written after the run, so that nothing is lost
    done = int(place.read_text()) if place.exists() and "LOSSY" not in os.environ else 0
    if "LOSSY" in os.environ and place.exists():
        done = int(place.read_text()) + 3
    while True:
        lines = FILE.read_text().splitlines() if FILE.exists() else []
        for data in lines[done:]:
            ruler.job(data)
            done += 1
            place.with_suffix(".new").write_text(str(done))
            place.with_suffix(".new").replace(place)
            if ruler.RESULTS:
                with FILE.with_suffix(".answers").open("a") as answers:
                    answers.write("x")
        time.sleep(0.001)

if sys.argv[1:] == ["work"]:
    work()
'''

RULER = """
import sys
sys.path.append({folder!r})
__file__ = {folder!r} + "/ruler.py"
exec(compile(open(__file__).read(), __file__, "exec"))
"""


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Measured:
    """Make the toy, to be measured."""
    (tmp_path / "toy_.py").write_text(TOY)
    (tmp_path / "ruler.py").write_text(RULER.format(folder=str(ruler.HERE)))
    monkeypatch.setattr(measuring, "HERE", tmp_path)
    monkeypatch.setattr(measuring, "BACK_WITHIN", 5.0)
    peer = ruler.Peer(
        name="Toy", package="toy", requirements=[], brokers=["files"], command=["{python}", "toy_.py", "work"], slots=1,
        settings="", source="",
    )  # fmt: skip
    home = Home(tmp_path, Path(sys.executable), "1")
    effort = Effort(rounds=2, seconds=0.1, arrivals=((100.0, 0.5), (1_000.0, 1.0)), lease=1.0)
    return Measured(peer, home, "files", f"toy://{tmp_path}", results_url="toy://", effort=effort)


def test_peers_are_chosen_by_name():
    """All, none or some peers are chosen; an unknown name is refused, and the error lists the peers."""
    assert set(wanted("all")) == ISSUED
    assert wanted("none") == []
    assert wanted("RQ, Celery") == ["celery", "rq"]
    with pytest.raises(LookupError, match="no peer is called repit; there are: arq, bullmq"):
        wanted("repit,rq")


def test_every_peer_is_described():
    """Every peer is described with what a reader needs to repeat its measurement."""
    assert set(environment.names()) == ISSUED
    for name in ISSUED:
        peer = environment.read(name)
        assert peer.settings.endswith(".")
        assert peer.source.startswith("https://")
        assert peer.requirements
        assert peer.slots >= 1
        assert set(peer.brokers) <= {"redis", "rabbitmq", "nats", "postgresql"}
        [part.format(python="p", work="w", queue="q", url="u") for part in peer.command]


def test_an_unknown_peer_is_refused():
    """An unknown peer is refused with the names of the known ones."""
    with pytest.raises(PeerFailed, match='no peer is called "nosuch"; there are: arq'):
        environment.read("nosuch")


@pytest.mark.timeout(120)  # it makes a virtual environment
def test_a_peer_that_cannot_be_installed_has_a_reason(tmp_path, monkeypatch):
    """The last line of the installer; nothing is left that looks finished."""
    monkeypatch.setenv("TASKCORE_BENCH_CACHE", str(tmp_path))
    peer = ruler.Peer("No", "no", [str(tmp_path / "nowhere")], ["redis"], [], 1, "", "")
    with pytest.raises(PeerFailed, match="nowhere"):
        environment.prepare(peer)
    assert not list(tmp_path.rglob("ready"))


def test_enqueueing_is_measured_in_rounds(toy):
    """Enqueueing gives two figures with one value a round."""
    one, bulk = toy.part("enqueue")
    assert (one["name"], bulk["name"]) == ("one awaited", "bulk")
    assert len(one["values"]) == len(bulk["values"]) == 2
    assert all(value > 0 for value in (*one["values"], *bulk["values"]))


def test_a_drain_counts_every_id(toy):
    """A drain gives rate, costs, and an account of every id."""
    drain, cpu, memory = toy.part("drain")
    assert drain["facts"]["lost"] == drain["facts"]["duplicated"] == 0
    assert drain["values"][0] > 0
    assert cpu["unit"] == "µs/job"
    assert memory["values"][0] > 1


def test_latency_counts_from_the_intended_time(toy):
    """Percentiles in order at each rate, as many values as jobs after the warm-up, p99.9 only of a thousand."""
    figures = toy.part("latency")
    low, high = (
        [f"100/s, p{percent}" for percent in (50, 90, 95, 99)],
        [f"1000/s, p{percent}" for percent in (50, 90, 95, 99, 99.9)],
    )
    assert [figure["name"] for figure in figures] == low + high
    assert [figure["facts"]["measured"] for figure in figures] == [50] * 4 + [1_000] * 5
    for names in (low, high):
        values = [figure["values"][0] for figure in figures if figure["name"] in names]
        assert values == sorted(values)


def test_round_trips(toy):
    """Round trips are measured singly and many at once."""
    p50, p99, many = toy.part("results")
    assert 0 < p50["values"][0] <= p99["values"][0]
    assert many["values"][0] > 0


def test_a_killed_worker_that_loses_nothing(toy):
    """A killed worker that repeats its running jobs loses none."""
    [figure] = toy.part("worker killed")
    assert figure["facts"]["lost"] == 0
    assert figure["facts"]["sent"] == 40


def test_a_killed_worker_that_loses_jobs_is_reported(toy, monkeypatch):
    """The same toy, which goes on a few jobs further on: they are missing, and it is said so."""
    monkeypatch.setenv("LOSSY", "1")
    [figure] = toy.part("worker killed")
    assert figure["facts"]["lost"] in (2, 3)  # 2 if it was killed after a job and before it noted that it was done
    assert figure["values"] == [5.0]


def test_a_worker_that_ends_is_a_failure_with_its_output(toy, monkeypatch):
    """A worker that ends is a failure with its own words as the reason."""
    monkeypatch.setattr(measuring, "COUNT_TIMEOUT", 5.0)
    (measuring.HERE / "toy_.py").write_text(TOY.replace("def work():", "def work():\n    raise OSError('no disk')"))
    with pytest.raises(PeerFailed, match="no disk"):
        toy.part("drain")


def test_a_part_that_takes_too_long_is_cancelled(toy):
    """A worker that never works cannot hold up a run."""
    (measuring.HERE / "toy_.py").write_text(TOY.replace("def work():", "def work():\n    time.sleep(600)"))
    with pytest.raises(PeerFailed, match="of 200 jobs after"):
        toy.part("drain", within=3.0)
    with pytest.raises(PeerFailed, match="its time was over"):
        toy.part("drain", within=0.0)


def test_one_peer_can_be_measured_by_itself(tmp_path, monkeypatch, capsys):
    """The command says what it measures, and refuses a broker that the peer does not know."""
    monkeypatch.setattr(sys, "argv", ["peers", "celery", "nats://127.0.0.1:1"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ruler.HERE), run_name="__main__")
    assert "Celery is measured on: redis, rabbitmq" in capsys.readouterr().err


def test_figures_of_peers_are_figures():
    """What comes from another environment is read as ours."""
    text = json.dumps(
        {
            "kind": "figure", "broker": "redis", "who": "Celery", "scenario": "drain", "name": "1 process",
            "unit": "jobs/s", "values": [1.0], "better": "more", "facts": {"lost": 0},
        }
    )  # fmt: skip
    assert msgspec.json.decode(text, type=Figure).who == "Celery"
