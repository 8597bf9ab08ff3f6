"""What an app is made of: the parts that clients and workers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from taskcore.backend import Backend
from taskcore.middleware import Middleware
from taskcore.observe import Events
from taskcore.store import Store

__all__ = ["Components"]


class Components(NamedTuple):
    """What an app is made of. ``clock`` gives seconds since the epoch."""

    backend: Backend
    store: Store | None
    events: Events
    clock: Callable[[], float]
    middleware: Sequence[Middleware] = ()
