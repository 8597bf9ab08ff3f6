"""What ``--log-level`` means: it holds for the app and the library, and client libraries log nothing below info."""

from __future__ import annotations

import logging

import pytest

from taskcore.cli.logs import LIBRARIES, configure_logging


@pytest.fixture
def fresh_logging(monkeypatch):
    """Give what takes the handlers from the root logger; every level is as before afterwards."""
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, LIBRARIES)]
    before = [(one, one.level) for one in loggers]
    for one in loggers[1:]:
        one.setLevel(logging.NOTSET)
    yield lambda: monkeypatch.setattr(root, "handlers", [])  # in the test: pytest adds its own between the two
    for one, level in before:
        one.setLevel(level)


@pytest.mark.parametrize("name", ["aiormq.connection", "aio_pika.queue", "redis", "nats", "psycopg.pool", "asyncio"])
def test_debug_shows_no_frames_of_client_libraries(fresh_logging, name):
    """``debug`` is the app's and the library's own; the bytes and frames of client libraries stay out of it."""
    fresh_logging()
    configure_logging("debug")
    assert logging.getLogger("taskcore.worker").isEnabledFor(logging.DEBUG)
    assert logging.getLogger("shop.mails").isEnabledFor(logging.DEBUG)
    assert not logging.getLogger(name).isEnabledFor(logging.DEBUG)
    assert logging.getLogger(name).isEnabledFor(logging.INFO)


def test_a_higher_level_holds_for_client_libraries_too(fresh_logging):
    """``warning`` silences the lines of client libraries below it, as those of the library."""
    fresh_logging()
    configure_logging("warning")
    assert not logging.getLogger("aiormq.connection").isEnabledFor(logging.INFO)
    assert not logging.getLogger("taskcore.worker").isEnabledFor(logging.INFO)
