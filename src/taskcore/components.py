"""Components: the parts that an app builds once and shares between client, worker and tools."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from taskcore.backend import Backend
from taskcore.envelope import EnvelopeCodec
from taskcore.observe import Events
from taskcore.store import Store

if TYPE_CHECKING:  # most programs have none
    from taskcore.middleware import Middleware
    from taskcore.services import Service

__all__ = ["Components", "Services"]

#: Parts that run as long as a worker does.
Services: TypeAlias = "Sequence[Service]"


class Components(NamedTuple):
    """The parts of an app.

    :param clock: gives seconds since the epoch.
    :param services: run while the app is open; a feature adds its own before that.
    :param needs: why the app needs a store; a feature adds its own reasons.
    :param lifespan: entered around each worker; what it yields is the state of its jobs.
    :param overrides: functions that stand in for dependencies.
    """

    backend: Backend
    store: Store | None
    events: Events
    clock: Callable[[], float]
    codec: EnvelopeCodec
    middleware: Sequence[Middleware]
    services: list[Service]
    needs: list[str]
    lifespan: Callable[[], AbstractAsyncContextManager[Any]] | None
    overrides: Mapping[Callable[..., Any], Callable[..., Any]]
