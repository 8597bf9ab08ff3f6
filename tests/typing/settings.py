"""What type checkers must know about settings; read by them, never run."""

from __future__ import annotations

from typing import assert_type

from taskcore import App
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

App("memory://", concurrency=3, lease="1m30s", retry=Retry(attempts=2), queues=("mail", "default"), strict=True)
App(retry=8, payload_limit="256KiB")
App.from_config(grace=5.0)
App("memory://", concurency=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
App("memory://", concurrency="many")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
App.from_config(graec=5.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
