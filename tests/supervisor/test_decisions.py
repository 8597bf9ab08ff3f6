"""The decisions of a supervisor, which are pure: how many processes, which step next, why one died, when the next."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from taskcore.supervisor.autoscale import QUIET_LOOKS, Load, Trend, decide
from taskcore.supervisor.decide import ProcessView, ScalingStep, next_step
from taskcore.supervisor.exits import FIRST_DELAY, LONGEST_DELAY, OutOfMemory, Restarts, describe

STARTING, SETTLED, LEAVING = (
    ProcessView(is_settled=False),
    ProcessView(is_settled=True),
    ProcessView(is_settled=False, is_leaving=True),
)
WORN = ProcessView(is_settled=True, is_worn=True)
WAIT = ScalingStep("wait")

IDLE = Load(ready=0, oldest=None, running=0, utilisation=0.0)
STEADY = Load(ready=0, oldest=None, running=10, utilisation=0.6)
OLD = Load(ready=3, oldest=1.5, running=1, utilisation=0.1)
FULL = Load(ready=3, oldest=None, running=10, utilisation=1.0)
FLOOD = Load(ready=1_000, oldest=5.0, running=10, utilisation=1.0)


# ── how many processes ──


@pytest.mark.parametrize(
    ("now", "load", "trend", "wanted"),
    [
        (2, OLD, Trend(), 2),  # once may be a burst
        (2, OLD, Trend(busy=1), 3),  # jobs wait for more than a second
        (2, FULL, Trend(busy=1), 3),  # the broker does not tell ages
        (2, FLOOD, Trend(busy=1), 4),  # more waits than all can begin
        (3, FLOOD, Trend(busy=1), 4),  # never above the bound
        (4, FLOOD, Trend(busy=9), 4),
        (2, STEADY, Trend(busy=1), 2),
        (2, Load(3, 0.2, 4, 0.4), Trend(busy=1), 2),  # jobs that are about to begin
        (3, IDLE, Trend(quiet=QUIET_LOOKS - 2), 3),
        (3, IDLE, Trend(quiet=QUIET_LOOKS - 1), 2),
        (1, IDLE, Trend(quiet=99), 1),  # never below the bound
        (3, STEADY, Trend(quiet=99), 3),  # two would be 90% busy
        (3, Load(0, None, 25, 0.1), Trend(quiet=99), 3),  # never below what runs: 25 jobs need three processes of ten
        (3, Load(0, None, 20, 0.1), Trend(quiet=99), 2),
    ],
)
def test_the_number_of_processes(now, load, trend, wanted):
    """Each row is a state and what follows from it, for one to four processes of ten slots."""
    assert decide(now, 1, 4, 10, load, trend)[0] == wanted


@pytest.mark.parametrize("load", [OLD, FULL, FLOOD, IDLE])
def test_a_change_starts_the_count_anew(load):
    """After a change the same load has to be seen again before the next change."""
    trend, now, changes = Trend(), 2, []
    for look in range(60):
        wanted, trend = decide(now, 1, 64, 10, load, trend)
        if wanted != now:
            changes.append(look)
            now = wanted
    gaps = [later - earlier for earlier, later in pairwise(changes)]
    assert min(gaps, default=2) >= 2


def test_a_steady_load_leads_to_a_steady_number():
    """A load that so many processes can carry changes nothing, from above or from below."""
    for now in (2, 3):
        trend, seen = Trend(), set()
        for _ in range(100):
            number, trend = decide(now, 1, 8, 10, Load(0, None, 9, 0.8 * 1.5 / now), trend)
            seen.add(number)
        assert seen == {now}


# ── the next step ──


@pytest.mark.parametrize(
    ("views", "wanted", "step"),
    [
        ([], 2, ScalingStep("start")),
        ([STARTING], 2, WAIT),  # the first starts alone
        ([SETTLED], 2, ScalingStep("start")),
        ([SETTLED, STARTING], 3, ScalingStep("start")),
        ([SETTLED, SETTLED], 2, WAIT),
        ([SETTLED, WORN], 2, ScalingStep("start")),  # the substitute first …
        ([SETTLED, WORN, STARTING], 2, WAIT),
        ([SETTLED, WORN, SETTLED], 2, ScalingStep("retire", 1)),  # … and when it works, the worn one
        ([WORN, LEAVING, SETTLED], 2, WAIT),  # one at a time
        ([WORN, WORN], 2, ScalingStep("start")),
        ([LEAVING], 1, ScalingStep("start")),
        ([SETTLED, SETTLED], 1, ScalingStep("retire", 0)),
        ([SETTLED._replace(running=5), SETTLED._replace(running=1)], 1, ScalingStep("retire", 1)),  # the idlest
        ([SETTLED, STARTING], 1, WAIT),
    ],
)
def test_the_next_step(views, wanted, step):
    """Each row is how the processes are and how many there should be, and what follows."""
    assert next_step(views, wanted) == step


# ── deaths and restarts ──


def test_a_death_is_described():
    """Exit codes and signals have names; SIGKILL has a probable sender, and a certain one if the kernel counted it."""
    assert describe(3, 0, out_of_memory=False) == "exited with code 3"
    assert describe(-11, 0, out_of_memory=False) == "was killed by SIGSEGV (signal 11)"
    probable = describe(-9, 300 * 2**20, out_of_memory=False)
    assert "probably by the kernel for lack of memory" in probable
    assert "it last occupied 300MiB" in probable
    assert "because the memory of its cgroup was used up" in describe(-9, 0, out_of_memory=True)


def test_the_kernel_counts_its_kills(tmp_path: Path):
    """The counter of the cgroup tells a kill for lack of memory from another one."""
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom 1\noom_kill 1\n")
    kills = OutOfMemory(events)
    assert not kills.has_struck()
    events.write_text("low 0\noom 2\noom_kill 2\n")
    assert kills.has_struck()
    assert not kills.has_struck()
    assert not OutOfMemory(tmp_path / "none").has_struck()


def test_restarts_slow_down_and_give_up():
    """Each death in a row doubles the wait, a long life resets it, and five failed starts are enough."""
    restarts = Restarts()
    delays = [restarts.ended(0.0, lived=1.0, was_ready=True) for _ in range(12)]
    assert delays[:3] == [FIRST_DELAY, FIRST_DELAY * 2, FIRST_DELAY * 4]
    assert delays[-1] == LONGEST_DELAY
    assert restarts.ended(0.0, lived=3600.0, was_ready=True) == FIRST_DELAY
    assert not restarts.is_hopeless
    for number in range(5):
        assert not restarts.is_hopeless, number
        restarts.ended(0.0, lived=1.0, was_ready=False)
    assert restarts.is_hopeless


def test_an_outage_is_not_a_failed_start():
    """A process that cannot reach its broker is tried again without end."""
    restarts = Restarts()
    for _ in range(50):
        restarts.ended(0.0, lived=1.0, was_ready=False, counts=False)
    assert not restarts.is_hopeless
