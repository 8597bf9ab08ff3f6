"""Components: the parts that an app builds once and shares between client, worker and tools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from taskcore.backend import Backend
from taskcore.envelope import EnvelopeCodec
from taskcore.observe import Events
from taskcore.store import Store

if TYPE_CHECKING:  # most programs have none
    from taskcore.middleware import Middleware

__all__ = ["Components"]


class Components(NamedTuple):
    """The parts of an app. ``clock`` gives seconds since the epoch."""

    backend: Backend
    store: Store | None
    events: Events
    clock: Callable[[], float]
    codec: EnvelopeCodec
    middleware: Sequence[Middleware] = ()
