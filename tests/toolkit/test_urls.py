"""Options in URLs: every adapter reads them in the same way."""

from __future__ import annotations

import pytest

from taskcore.errors import InvalidURL
from taskcore.toolkit import urls

READERS: dict[str, urls.Reader] = {
    "limit": urls.whole(1),
    "replicas": urls.whole(1, 5),
    "timeout": urls.seconds(),
    "age": urls.seconds(0, 60, above_zero=False),
    "max_bytes": urls.positive_size,
    "tls": urls.yes_or_no,
    "storage": urls.choice("file", "memory"),
    "prefix": urls.matching(r"[a-z]+", "small letters only"),
    "cafile": urls.readable_file,
    "domain": urls.text,
    "auth_token": urls.whole(),
}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", {}),
        ("limit=10&timeout=250ms", {"limit": 10, "timeout": 0.25}),
        ("age=0&replicas=5", {"age": 0.0, "replicas": 5}),
        ("max_bytes=1KiB&tls=yes&storage=file", {"max_bytes": 1024, "tls": True, "storage": "file"}),
        ("tls=no&prefix=tc&domain=a%26b", {"tls": False, "prefix": "tc", "domain": "a&b"}),
    ],
)
def test_options_are_read(query, found):
    """Each known option has the value that its reader makes of it."""
    problems: list[str] = []
    assert urls.read_options(query, READERS, problems) == found
    assert not problems


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("limti=1", "unknown option 'limti'; known are limit, replicas, "),
        ("limit=1&limit=1", "limit is given twice"),
        ("limit=0", "limit: expected a whole number of at least 1, got '0'"),
        ("limit=-1", "limit: expected a whole number, got '-1'"),
        ("limit=١", "limit: expected a whole number, got '١'"),
        ("replicas=6", "replicas: expected a whole number from 1 to 5, got '6'"),
        ("timeout=0", "timeout: expected a time above 0"),
        ("timeout=soon", "timeout: 'soon' is not a time"),
        ("age=2m", "age: expected a time from 0 s to 60 s, got '2m'"),
        ("max_bytes=0", "max_bytes: expected a size above 0"),
        ("tls=true", 'tls: expected "yes" or "no", got \'true\''),
        ("storage=tape", "storage: expected file or memory, got 'tape'"),
        ("prefix=TC", "prefix: expected small letters only, got 'TC'"),
        ("cafile=/nowhere.pem", "cafile: [Errno 2] No such file"),
        ("domain=", "domain: it is empty"),
    ],
)
def test_an_option_that_cannot_be_used_is_a_problem(query, problem):
    """An unknown, repeated or impossible option is one line that says what is expected."""
    problems: list[str] = []
    urls.read_options(query, READERS, problems)
    assert len(problems) == 1
    assert problems[0].startswith(problem)


def test_a_secret_does_not_appear_in_a_problem():
    """The value of an option whose name means a secret is not shown."""
    problems: list[str] = []
    urls.read_options("auth_token=hunter2", READERS, problems)
    assert problems == ["auth_token: not usable"]


def test_all_problems_are_reported_at_once():
    """A refused URL shows no secrets, every problem, and an example."""
    problems: list[str] = []
    urls.read_options("limit=no&tls=perhaps", READERS, problems)
    with pytest.raises(InvalidURL) as caught:
        urls.refuse_url("redis://ada:hunter2@host?limit=no&tls=perhaps", problems, example="redis://localhost")
    assert len(caught.value.facts) == 2
    assert "hunter2" not in str(caught.value)
    assert "for example redis://localhost" in str(caught.value)
