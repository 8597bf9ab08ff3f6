"""A log line is one line, whatever is in it."""

from __future__ import annotations

import io
import logging
import logging.config

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskcore.toolkit.logging import logger, visible

FORGED = "1\nERROR root forged \x1b[31m\r\x00\x9b\u202e\u2028end"


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_visible(text: str) -> None:
    """Control characters, bidi marks and line ends become escapes; every other text stays as it is."""
    assert visible(text).isprintable()
    assert visible(text) == text or not text.isprintable()


@pytest.mark.parametrize("argument", [FORGED, ValueError(FORGED), [FORGED]])
@pytest.mark.parametrize("template", ["job %s failed", "job %r failed"])
def test_one_call_writes_one_line(argument: object, template: str, caplog: pytest.LogCaptureFixture) -> None:
    """Texts and errors in a line are escaped; numbers keep their format."""
    logger("taskcore.test").warning(f"{template} after %.1f s, %d times", argument, 1.25, 3)
    [record] = caplog.records
    assert record.getMessage().isprintable()
    assert "forged" in record.getMessage()
    assert record.getMessage().endswith("after 1.2 s, 3 times")


def test_a_long_argument_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    """A text of megabytes does not fill a log."""
    logger("taskcore.test").warning("%s", "x" * 1_000_000)
    assert len(caplog.records[0].getMessage()) < 5_000


def test_a_configuration_that_disables_existing_loggers_leaves_the_library_heard() -> None:
    """``disable_existing_loggers`` is the default of ``dictConfig`` and ``fileConfig``."""
    log, out = logger("taskcore.test_disabled"), io.StringIO()
    before = logging.root.handlers[:], logging.root.level
    disabled = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    enabled = [each for each in disabled if not each.disabled]
    try:
        logging.config.dictConfig({"version": 1})
        logging.root.addHandler(handler := logging.StreamHandler(out))
        log.warning("heard")
        logging.root.removeHandler(handler)
    finally:
        logging.root.handlers[:], logging.root.level = before
        for each in enabled:
            each.disabled = False
    assert out.getvalue() == "heard\n"


def test_a_broken_handler_raises_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """What a handler raises is printed, and the caller goes on (C25)."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("the disk is full")

    logging.getLogger("taskcore.test").addHandler(handler := Broken())
    try:
        logger("taskcore.test").warning("hello")
    finally:
        logging.getLogger("taskcore.test").removeHandler(handler)
    assert "the disk is full" in capsys.readouterr().err
