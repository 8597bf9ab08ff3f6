"""From a URL to an adapter, through entry points: the core knows no broker by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from taskcore.backend import Backend
from taskcore.components import Components
from taskcore.config import Settings
from taskcore.envelope import EnvelopeCodec
from taskcore.errors import AdapterMissing, InvalidURL
from taskcore.observe import Events, ObservedBackend, ObservedStore
from taskcore.store import Store
from taskcore.toolkit.urls import mask_url

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

    from taskcore.middleware import Middleware
    from taskcore.services import Service

__all__ = ["NO_STORE", "BackendOrURL", "StoreOrURL", "build_components", "has_store", "open_backend", "open_store"]

#: What an app is given: a URL, or the object that would be made of it.
BackendOrURL: TypeAlias = Backend | str
StoreOrURL: TypeAlias = Store | str

NO_STORE = "none"  #: the setting that means: no store, although the broker has one
BACKENDS, STORES = "taskcore.backends", "taskcore.stores"

#: The extra that a scheme needs, for the exact install command.
EXTRAS = {
    "redis": "redis", "rediss": "redis", "unix": "redis", "redis+sentinel": "redis", "redis+cluster": "redis",
    "valkey": "redis", "valkeys": "redis",
    "amqp": "rabbitmq", "amqps": "rabbitmq",
    "nats": "nats", "tls": "nats",
    "postgresql": "sql", "postgres": "sql", "sqlite": "sql",
}  # fmt: skip


def open_backend(url: str) -> Backend:
    """Make the backend for a URL, not yet connected.

    :raises InvalidURL: no scheme, an unknown scheme or option (TC103).
    :raises AdapterMissing: the scheme's adapter is not installed; the text has the install command (TC102).
    """
    backend: Backend = _load(BACKENDS, url)(url)
    return backend


def open_store(url: str) -> Store:
    """Make the store for a URL, not yet connected; raises as :func:`open_backend`."""
    store: Store = _load(STORES, url)(url)
    return store


def build_components(
    settings: Settings,
    events: Events,
    clock: Callable[[], float],
    codec: EnvelopeCodec,
    middleware: Sequence[Middleware],
    services: list[Service],
    *,
    url: Backend | None = None,
    store: Store | None = None,
) -> Components:
    """Build the components of an app; nothing is connected yet.

    :param url: a backend object, instead of the URL in the settings.
    :param store: a store object, instead of the one in the settings.
    """
    backend = open_backend(settings.url) if url is None else url
    if store is None and settings.store is not None:
        store = None if settings.store == NO_STORE else open_store(settings.store)
    elif store is None and url is None and has_store(settings.url):
        store = open_store(settings.url)
    observed = ObservedStore(store, events) if store is not None else None
    return Components(ObservedBackend(backend, events), observed, events, clock, codec, middleware, services)


def has_store(url: str) -> bool:
    """Tell whether the broker of this URL can keep records too."""
    return _scheme(url) in _registered(STORES).names


def _load(group: str, url: str) -> Any:
    scheme = _scheme(url)
    kind = "backend" if group == BACKENDS else "store"
    found = _registered(group)
    if scheme in found.names:
        entry = next(iter(found.select(name=scheme)))
        try:
            return entry.load()
        except ImportError as error:
            if isinstance(error, AdapterMissing) or scheme not in EXTRAS:
                raise
            raise _missing(scheme, str(error)) from error
    if scheme in EXTRAS:
        raise _missing(scheme, f"this installation has no {kind} for it")
    from difflib import get_close_matches  # noqa: PLC0415 - for this error only

    near = get_close_matches(scheme, [*found.names, *EXTRAS], n=1)
    raise InvalidURL(
        f"no {kind} is called {scheme}://",
        facts=[f"the URL is {mask_url(url)}", f"installed: {', '.join(sorted(f'{name}://' for name in found.names))}"],
        fix=f"did you mean {near[0]}://?" if near else "use one of the installed ones",
    )


@cache
def _registered(group: str) -> EntryPoints:
    """Read the entry points of all installed packages: once, because it takes a while, and not at import."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - a third of the time of `import taskcore`

    return entry_points(group=group)


def _scheme(url: str) -> str:
    scheme = urlsplit(url).scheme if "://" in url else ""
    if not scheme:
        raise InvalidURL(
            f"{mask_url(url)!r} is not a URL",
            fix="for example memory:// or redis://localhost:6379/0",
            facts=["it has no scheme://"],
        )
    return scheme.lower()


def _missing(scheme: str, why: str) -> AdapterMissing:
    extra = EXTRAS[scheme]
    return AdapterMissing(
        f"{scheme}:// needs the {extra} extra",
        facts=[why],
        fix=f'pip install "taskcore-framework[{extra}]"',
    )
