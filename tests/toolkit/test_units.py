"""Times, sizes and URLs as people write and read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskcore.errors import InvalidSetting
from taskcore.toolkit.units import duration, show_duration, show_rounded, show_size, size
from taskcore.toolkit.urls import mask_url


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1h30m", 5400.0),
        ("250ms", 0.25),
        ("14d", 1_209_600.0),
        ("1 h 30 m", 5400.0),
        ("1.5h", 5400.0),
        ("2w", 1_209_600.0),
        ("0", 0.0),
        ("90", 90.0),
        (90, 90.0),
        (0.5, 0.5),
    ],
)
def test_duration(text, seconds):
    """A time is a number of seconds, or numbers with units."""
    assert duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "soon", "h", "1h30", "-1", "1x", "nan", "inf", -1, float("nan"), float("inf"), "١"]
)
def test_not_a_duration(text):
    """Whatever is not a time is refused with an example of one."""
    with pytest.raises(InvalidSetting, match="1h30m"):
        duration(text)


@given(st.integers(0, 10**9))
def test_shown_durations_can_be_read(seconds):
    """Whole seconds survive showing and reading."""
    assert duration(show_duration(seconds)) == seconds


@given(st.integers(1, 999))
def test_shown_milliseconds_can_be_read(milliseconds):
    """Milliseconds survive showing and reading."""
    assert duration(show_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@pytest.mark.parametrize(
    ("text", "number"), [("256KiB", 262_144), ("1 MB", 10**6), ("1gib", 2**30), ("0.5KB", 500), ("17", 17), (17, 17)]
)
def test_size(text, number):
    """A size is a number of bytes, or a number with a unit."""
    assert size(text) == number


@pytest.mark.parametrize("text", ["", "much", "-1", "1 apple", "1ib", "KiB"])
def test_not_a_size(text):
    """Whatever is not a size is refused with an example of one."""
    with pytest.raises(InvalidSetting, match="256KiB"):
        size(text)


@given(st.integers(1, 2**50))
def test_shown_sizes_can_be_read(number):
    """Sizes survive showing and reading."""
    assert size(show_size(number)) == number


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("memory://", "memory://"),
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://ada:hunter2@host:6379/0", "redis://****@host:6379/0"),
        ("redis://:hunter2@host", "redis://****@host"),
        ("redis://ada:hun@ter2@host", "redis://****@host"),
        ("redis://ada:hun/ter2@host", "redis://****"),
        ("redis://ada:123#ter2@host", "redis://****"),
        ("redis://ada:123/ter2@host", "redis://****"),
        ("amqp://guest@host/vhost", "amqp://****@host/vhost"),
        ("nats://s3cr3t@host:4222", "nats://****@host:4222"),
        ("nats://a:b@one:4222,nats://c:d@two:4222", "nats://****@two:4222"),
        ("nats://one:4222,nats://c:d@two:4222", "nats://****@two:4222"),
        ("NATS://s3cr3t@one,tls://s3cr3t@two", "NATS://****@two"),
        ("redis://:Q://@host", "redis://****"),
        ("redis://:Q,y://@host", "redis://****"),
        ("postgresql://host/db?user=ada&password=hunter2", "postgresql://host/db?user=****"),
        ("postgresql://host/db?sslmode=require&password=a&b", "postgresql://host/db?sslmode=require&password=****"),
        ("redis://host?auth_token=x#y", "redis://host?auth_token=****#****"),
        ("redis://one:1,two:2/0", "redis://one:1,two:2/0"),
        ("redis://localhost:6379/0?name=a@b", "redis://****"),
        ("sqlite:///srv/a@b.db", "sqlite://****"),
        ("soon", "****"),
        ("ada:hunter2@host", "****"),
        ("redis://ada:hunter2", "redis://****"),
        ("redis://a\nb@host", "redis://****"),
    ],
)
def test_mask_url(url, masked):
    """Logins and options that may be secret are hidden; where a login has no certain end, all but the scheme is."""
    assert mask_url(url) == masked


@given(user=st.text("abcdef", max_size=5), secret=st.text("xyzXYZ0123456789@:/?#%&=,. ", min_size=3).map("Q{}".format))
def test_no_password_survives(user, secret):
    """Whatever characters a password is made of, sloppily quoted or not, it is not shown."""
    assert secret not in mask_url(f"redis://{user}:{secret}@host:6379/0")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1_234_567, "1.18 MiB"), (999 * 1024**2, "999 MiB"),
        (1023 * 1024**2, "1,023 MiB"), (1024**3, "1 GiB"), (5_000 * 1024**3, "5,000 GiB"),
    ],
)  # fmt: skip
def test_sizes_for_people(number, text):
    """A size that a person reads has a unit and about three digits."""
    assert show_rounded(number) == text
