"""Settings: which layer wins, what is refused, and that every answer names its source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from taskcore.config import AppSettings, Loaded, Settings, load, show
from taskcore.errors import InvalidSetting
from taskcore.policy import Retry


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Make an empty project directory."""
    return tmp_path


def loaded(place: Path, arguments: dict[str, Any] | None = None, **environ: str) -> Loaded:
    """Load the settings of this place, with these variables and no others."""
    return load(arguments=arguments or {}, environ=environ, directory=place)


def refused(place: Path, arguments: dict[str, Any] | None = None, **environ: str) -> InvalidSetting:
    """Return the error that loading ends in."""
    with pytest.raises(InvalidSetting) as caught:
        loaded(place, arguments, **environ)
    return caught.value


# ── layers ───────────────────────────────────────────────────────────────────────────────────────


def test_defaults(place):
    """Without any word from outside all settings are the defaults, and say so."""
    everything = loaded(place)
    assert everything.settings == Settings()
    assert set(everything.sources.values()) == {"default"}


def test_every_setting_has_a_source(place):
    """The sources name every field, and the parts of ``retry`` one by one."""
    fields = set(Settings.__struct_fields__) - {"retry"}
    parts = {f"retry.{part}" for part in ("attempts", "base", "factor", "cap", "jitter")}
    assert set(loaded(place).sources) == fields | parts


def test_pyproject(place):
    """The table [tool.taskcore] counts, and the source is file and line."""
    (place / "pyproject.toml").write_text(
        '[project]\nname = "shop"\n\n[tool.taskcore]\nconcurrency = 8\nlease = "2m"\n'
    )
    here = loaded(place)
    assert (here.settings.concurrency, here.settings.lease) == (8, 120.0)
    assert (here.sources["concurrency"], here.sources["lease"]) == ("pyproject.toml:5", "pyproject.toml:6")


def test_own_file_beats_pyproject(place):
    """Setting by setting, taskcore.toml wins over pyproject.toml beside it."""
    (place / "pyproject.toml").write_text("[tool.taskcore]\nconcurrency = 8\nthreads = 2\n")
    (place / "taskcore.toml").write_text("concurrency = 9\n")
    here = loaded(place)
    assert (here.settings.concurrency, here.settings.threads) == (9, 2)
    assert (here.sources["concurrency"], here.sources["threads"]) == ("taskcore.toml:1", "pyproject.toml:3")


def test_environment_beats_files(place):
    """A variable wins over both files."""
    (place / "taskcore.toml").write_text("concurrency = 9\n")
    here = loaded(place, TASKCORE_CONCURRENCY="10")
    assert (here.settings.concurrency, here.sources["concurrency"]) == (10, "env TASKCORE_CONCURRENCY")


def test_arguments_beat_all(place):
    """What the program says wins over everything; None means that it says nothing."""
    here = loaded(place, {"url": "redis://a", "store": None}, TASKCORE_URL="redis://b", TASKCORE_STORE="redis://c")
    assert (here.settings.url, here.sources["url"]) == ("redis://a", "argument")
    assert (here.settings.store, here.sources["store"]) == ("redis://c", "env TASKCORE_STORE")


def test_nearest_directory(place):
    """The first directory upwards that says something counts, and none above it."""
    below = place / "shop" / "mail"
    below.mkdir(parents=True)
    (place / "taskcore.toml").write_text("threads = 3\nconcurrency = 3\n")
    (place / "shop" / "pyproject.toml").write_text("[tool.taskcore]\nconcurrency = 4\n")
    here = loaded(below)
    assert (here.settings.concurrency, here.settings.threads) == (4, 16)
    assert here.sources["concurrency"] == str(Path("../pyproject.toml:2"))


def test_a_pyproject_without_our_table_is_ignored(place):
    """A pyproject.toml without our table is not the place; even a broken one is none of our business."""
    below = place / "shop"
    below.mkdir()
    (place / "taskcore.toml").write_text("threads = 3\n")
    (below / "pyproject.toml").write_text("[project\n")
    assert loaded(below).settings.threads == 3


def test_an_empty_file_is_a_place(place):
    """An empty taskcore.toml says: look no further."""
    below = place / "shop"
    below.mkdir()
    (place / "taskcore.toml").write_text("threads = 3\n")
    (below / "taskcore.toml").write_text("")
    assert loaded(below).settings.threads == 16


def test_empty_variables_are_absent(place):
    """An empty variable is how a compose file says "not set"."""
    assert loaded(place, TASKCORE_STORE="").settings.store is None


# ── values ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("variable", "raw", "setting", "value"),
    [
        ("TASKCORE_QUEUES", "mail, default", "queues", ("mail", "default")),
        ("TASKCORE_GRACE", "1m30s", "grace", 90.0),
        ("TASKCORE_PAYLOAD_LIMIT", "1MiB", "payload_limit", 1_048_576),
        ("TASKCORE_KEEP_RESULT", "14d", "keep_result", 1_209_600.0),
        ("TASKCORE_PROCESSES", "4", "processes", 4),
        ("TASKCORE_APP", "shop.tasks:app", "app", "shop.tasks:app"),
        ("TASKCORE_SOURCE", "shop", "source", "shop"),
    ],
)
def test_variables(place, variable, raw, setting, value):
    """Text from the environment becomes a value of the setting's own type."""
    assert getattr(loaded(place, **{variable: raw}).settings, setting) == value


def test_retry_from_a_table(place):
    """The retry policy is a table in a file, and single variables change single parts of it."""
    (place / "pyproject.toml").write_text('[tool.taskcore.retry]\nattempts = 8\ncap = "1h"\njitter = "none"\n')
    here = loaded(place, TASKCORE_RETRY_ATTEMPTS="9")
    assert here.settings.retry == Retry(attempts=9, cap=3600.0, jitter="none")
    assert here.sources["retry.attempts"] == "env TASKCORE_RETRY_ATTEMPTS"
    assert here.sources["retry.cap"] == "pyproject.toml:3"
    assert here.sources["retry.base"] == "default"


def test_retry_as_an_argument(place):
    """A whole policy from the program wins in all its parts and keeps its error classes."""
    policy = Retry(attempts=2, give_up_on=(KeyError,))
    here = loaded(place, {"retry": policy}, TASKCORE_RETRY_CAP="1h")
    assert here.settings.retry == policy
    assert here.sources["retry.cap"] == "argument"


def test_retry_as_a_number(place):
    """``retry = 8`` means eight attempts, wherever it is written."""
    (place / "taskcore.toml").write_text("retry = 8\n")
    here = loaded(place)
    assert here.settings.retry == Retry(attempts=8)
    assert here.sources["retry.attempts"] == "taskcore.toml:1"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[tool.taskcore]\nthreads = 2\n", 2),
        ("[ tool . taskcore ]\n\n# threads = 9\n  'threads' = 2\n", 4),
        ("[tool]\ntaskcore.threads = 2\n", 2),
        ("[tool]\ntaskcore = { threads = 2 }\n", 2),
        ("[other]\nthreads = 2\n[tool.taskcore]\nthreads = 2\n", 4),
        ("[[other]]\nthreads = 9\n[tool.taskcore]\nthreads = 2\n[[more]]\nthreads = 9\n", 4),
        ('[tool.taskcore]\nsource = """\nthreads = 9\n"""\nthreads = 2\n', 5),
        ("[tool.taskcore]\r\nthreads = 2\r\n", 2),
    ],
)
def test_lines(place, text, line):
    """The line is the one where the key stands, however the table is written."""
    (place / "pyproject.toml").write_text(text, newline="")
    here = loaded(place)
    assert (here.settings.threads, here.sources["threads"]) == (2, f"pyproject.toml:{line}")


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────


def test_unknown_key(place):
    """A key that does not exist is refused where it stands, with a suggestion."""
    (place / "taskcore.toml").write_text("\nconcurency = 3\n")
    assert refused(place).facts == ('taskcore.toml:2: there is no setting "concurency", did you mean "concurrency"?',)


def test_unknown_part_of_retry(place):
    """The retry table is checked like the others."""
    (place / "taskcore.toml").write_text("[retry]\natempts = 3\n")
    assert refused(place).facts == (
        'taskcore.toml:2: there is no setting "retry.atempts", did you mean "retry.attempts"?',
    )


def test_unknown_argument(place):
    """A program with a typo gets an error too."""
    assert refused(place, {"frobnicate": 1}).facts == ('argument: there is no setting "frobnicate"',)


def test_variable_with_a_typo(place):
    """A variable that is nearly one of ours is refused."""
    error = refused(place, TASKCORE_CONCURENCY="3")
    assert "env TASKCORE_CONCURENCY" in error.facts[0]
    assert "concurrency" in error.facts[0]


@pytest.mark.parametrize("variable", ["TASKCORE_TEST_REDIS_URL", "TASKCORE_DEPLOYMENT", "TASKCORE_LOG", "TASKCORED"])
def test_foreign_variables(place, variable):
    """A variable that is far from all of ours belongs to another program."""
    assert loaded(place, **{variable: "x"}).settings == Settings()


@pytest.mark.parametrize(
    ("setting", "raw"),
    [
        ("url", 5),
        ("url", "  "),
        ("concurrency", "many"),
        ("concurrency", 0),
        ("concurrency", 2.5),
        ("concurrency", True),
        ("threads", -1),
        ("processes", "0"),
        ("grace", "soon"),
        ("grace", -1),
        ("grace", True),
        ("lease", 0),
        ("lease", float("nan")),
        ("lease", float("inf")),
        ("send_timeout", [1]),
        ("payload_limit", "256 apples"),
        ("payload_limit", 0),
        ("queues", []),
        ("queues", ["Mail!"]),
        ("queues", {"mail": 1}),
        ("queues", 7),
        ("retry", "often"),
        ("retry", {"factor": 0.5}),
        ("retry", {"factor": "inf"}),
        ("retry", {"jitter": "some"}),
        ("retry", {"base": "1 fortnight"}),
    ],
)
def test_impossible_values(place, setting, raw):
    """An impossible value is refused with its source, what is expected, and what came."""
    (fact,) = refused(place, {setting: raw}).facts
    assert fact.startswith(f"argument: {setting}")
    assert "expected " in fact
    assert ", got " in fact


def test_all_problems_at_once(place):
    """One error lists every problem of the settings."""
    (place / "pyproject.toml").write_text('[tool.taskcore]\nlease = "soon"\nthread = 3\n')
    error = refused(place, {"grace": -1}, TASKCORE_CONCURRENCY="many")
    assert len(error.facts) == 4
    text = str(error)
    for part in ("pyproject.toml:2: lease", "pyproject.toml:3", "env TASKCORE_CONCURRENCY", "argument: grace"):
        assert part in text


def test_an_overridden_value_is_not_judged(place):
    """What is overridden has no effect, so it cannot stop a program."""
    assert loaded(place, {"threads": 2}, TASKCORE_THREADS="many").settings.threads == 2


def test_broken_file(place):
    """A file that is not TOML is named, with the place of the mistake."""
    (place / "taskcore.toml").write_text("threads = \n")
    error = refused(place)
    assert "taskcore.toml" in error.what
    assert "line 1" in error.facts[0]


def test_no_secret_in_an_error(place):
    """A refusal never prints a password."""
    assert "hunter2" not in str(refused(place, {"lease": "redis://ada:hunter2@host"}))


# ── for people ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("setting", "value", "shown"),
    [
        ("url", "redis://ada:hunter2@host", "redis://****@host"),
        ("store", None, "the broker's own"),
        ("queues", ("mail", "default"), "mail,default"),
        ("queues", None, "every queue of the app's tasks"),
        ("lease", 60.0, "1m"),
        ("payload_limit", 262_144, "256KiB"),
        ("retry.factor", 2.0, "2"),
        ("concurrency", 100, "100"),
    ],
)
def test_show(setting, value, shown):
    """Values are shown as people write them, without secrets."""
    assert show(setting, value) == shown


def test_an_app_takes_every_setting():
    """Type checkers know each setting as a keyword argument of an app."""
    given = {*AppSettings.__annotations__, "url", "store"}
    assert given == set(Settings.__struct_fields__)
