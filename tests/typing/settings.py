"""What type checkers must know about settings; read by them, never run."""

from __future__ import annotations

from typing import assert_type

from taskcore.config import Loaded, Settings, load
from taskcore.policy import Retry
from taskcore.toolkit.units import duration
from taskcore.toolkit.urls import mask_url

assert_type(load(), Loaded)
assert_type(load(arguments={"url": "memory://"}, environ={}, directory=".").settings, Settings)
assert_type(load().settings.queues, tuple[str, ...] | None)
assert_type(load().settings.retry, Retry)
assert_type(load().sources["url"], str)
assert_type(duration("1h30m"), float)
assert_type(mask_url("redis://ada:secret@host"), str)

load().settings.url = "redis://"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]  # frozen
Settings("memory://")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # by keyword only
