"""From a URL to an adapter, through entry points: the core knows no broker by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from inspect import isasyncgenfunction
from typing import TYPE_CHECKING, Any, TypeAlias

from taskcore.backend import Backend
from taskcore.components import Components, Services
from taskcore.config import NO_STORE, Settings
from taskcore.envelope import EnvelopeCodec
from taskcore.errors import AdapterMissing, InvalidSetting, InvalidURL
from taskcore.observe import Events, ObservedBackend, ObservedStore
from taskcore.store import Store
from taskcore.toolkit.units import shorten_repr
from taskcore.toolkit.urls import mask_url, scheme_of
from taskcore.toolkit.values import Door

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from taskcore.events import Subscribe
    from taskcore.middleware import Middleware

__all__ = [
    "EVENTS",
    "NO_STORE",
    "BackendOrURL",
    "Layers",
    "Services",
    "StoreOrURL",
    "build_components",
    "has_store",
    "open_backend",
    "open_store",
]

#: What an app is given: a URL, or the object that would be made of it.
BackendOrURL: TypeAlias = Backend | str
StoreOrURL: TypeAlias = Store | str
#: Code around sending, running and settling; the first is the outermost.
Layers: TypeAlias = "Sequence[Middleware]"
#: Makes ``app.events``.
EVENTS: Door[Subscribe] = Door("taskcore.events:Subscribe")

BACKENDS, STORES = "taskcore.backends", "taskcore.stores"

#: The extra that a scheme needs, for the exact install command.
EXTRAS = {
    "redis": "redis", "rediss": "redis", "unix": "redis", "redis+sentinel": "redis", "redis+cluster": "redis",
    "valkey": "redis", "valkeys": "redis",
    "amqp": "rabbitmq", "amqps": "rabbitmq",
    "nats": "nats", "tls": "nats",
    "postgresql": "sql", "postgres": "sql", "sqlite": "sql",
}  # fmt: skip


SCHEMES = (("memory", "memory"), *EXTRAS.items(), ("sqlite", "sqlite"))

#: Our own adapters, by extra or scheme: the same as the entry points of our package.
OWN = {
    BACKENDS: {
        "memory": "taskcore.backends.memory:MemoryBackend",
        "redis": "taskcore.backends.redis:RedisBackend",
        "rabbitmq": "taskcore.backends.rabbitmq:RabbitBackend",
        "nats": "taskcore.backends.nats:NatsBackend",
        "sql": "taskcore.backends.sql:PostgresBackend",
        "sqlite": "taskcore.backends.sql:SqliteBackend",
    },
    STORES: {
        "memory": "taskcore.stores.memory:MemoryStore",
        "redis": "taskcore.stores.redis:RedisStore",
        "nats": "taskcore.stores.nats:NatsStore",
        "sql": "taskcore.stores.sql:PostgresStore",
        "sqlite": "taskcore.stores.sql:SqliteStore",
    },
}


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
    *,
    url: Backend | None = None,
    store: Store | None = None,
    **additions: Any,
) -> Components:
    """Build the components of an app; nothing is connected yet.

    :param url: a backend object, instead of the URL in the settings.
    :param store: a store object, instead of the one in the settings.
    :param additions: the components that no setting names.
    """
    backend = open_backend(settings.url) if url is None else url
    if store is None and settings.store is not None:
        store = None if settings.store == NO_STORE else open_store(settings.store)
    elif store is None and url is None and has_store(settings.url):
        store = open_store(settings.url)
    observed = ObservedStore(store, events) if store is not None else None
    return Components(ObservedBackend(backend, events), observed, events, clock, codec, **additions)


def check_objects(
    adapters: Mapping[str, Any], *, clock: object, codec: object, middleware: Iterable[Any], lifespan: object
) -> tuple[Middleware, ...]:
    """Check what an app is given as objects, not as text; return the middleware.

    :raises InvalidSetting: an object cannot stand there (TC104).
    """
    problems = [
        f"{name}: expected a URL or a {'store' if name == 'store' else 'backend'}, got {shorten_repr(value)}"
        for name, value in adapters.items()
        if not all(hasattr(type(value), verb) or hasattr(value, verb) for verb in VERBS[name])
    ]
    if not callable(clock):
        problems.append(f"clock: expected a function that returns seconds, got {shorten_repr(clock)}")
    if codec is not None and not (hasattr(codec, "encode") and hasattr(codec, "decode")):
        problems.append(f"codec: expected an EnvelopeCodec, got {shorten_repr(codec)}")
    if lifespan is not None and (not callable(lifespan) or isasyncgenfunction(lifespan)):
        problems.append(f"lifespan: expected a function under @asynccontextmanager, got {shorten_repr(lifespan)}")
    layers = tuple(middleware) if isinstance(middleware, Iterable) else (middleware,)
    if layers:
        from taskcore.middleware import Middleware  # noqa: PLC0415 - most apps have none

        wrong = [layer for layer in layers if not isinstance(layer, Middleware)]
        problems += [f"middleware: expected objects of Middleware, got {shorten_repr(layer)}" for layer in wrong]
    if problems:
        raise InvalidSetting("an argument of App() is wrong", facts=problems, fix="see help(taskcore.App)")
    return layers


#: What an adapter needs to be one.
VERBS = {"url": ("admin", "consume", "features", "publish"), "store": ("delete", "get", "put", "watch")}


def has_store(url: str) -> bool:
    """Tell whether the broker of this URL can keep records too."""
    return _scheme(url) in _registered(STORES)


def _load(group: str, url: str) -> Any:
    scheme = _scheme(url)
    kind = "backend" if group == BACKENDS else "store"
    found = _registered(group)
    if scheme in found:
        try:
            return found[scheme].load()
        except ImportError as error:
            if isinstance(error, AdapterMissing) or scheme not in EXTRAS:
                raise
            raise _missing(scheme, str(error)) from error
    other = BACKENDS if group == STORES else STORES
    if scheme in _registered(other):
        raise _wrong_kind(scheme, kind)
    if scheme in EXTRAS:
        raise _missing(scheme, f"this installation has no {kind} for it")
    from difflib import get_close_matches  # noqa: PLC0415 - for this error only

    near = get_close_matches(scheme, [*found, *EXTRAS], n=1)
    raise InvalidURL(
        f"no {kind} is called {scheme}://",
        facts=[f"the URL is {mask_url(url)}", f"known: {', '.join(sorted(f'{name}://' for name in found))}"],
        fix=f"did you mean {near[0]}://?" if near else "use one of the known ones; some need an extra",
    )


def _wrong_kind(scheme: str, kind: str) -> InvalidURL:
    if kind == "backend":
        return InvalidURL(
            f"{scheme}:// keeps results and keys; it is a store and no broker",
            fix=f'name a broker, and this as its store: App("amqp://…", store="{scheme}://…"), or redis://…, nats://…',
        )
    return InvalidURL(
        f"{scheme}:// is a broker that keeps no records, and no store",
        fix='name a store: store="redis://…", "nats://…", "postgresql://…" or "sqlite:///…"',
    )


@cache
def _registered(group: str) -> Mapping[str, EntryPoint]:
    """Read the entry points of all installed packages: once, because it takes a while, and not at import.

    Frozen programs and copied folders have no metadata; our own adapters are there without it.
    """
    from importlib.metadata import EntryPoint, entry_points  # noqa: PLC0415 - a third of the time of `import taskcore`

    own = {scheme: EntryPoint(scheme, OWN[group][extra], group) for scheme, extra in SCHEMES if extra in OWN[group]}
    return {**own, **{entry.name: entry for entry in entry_points(group=group)}}


def _scheme(url: str) -> str:
    scheme = scheme_of(url)
    if not scheme:
        raise InvalidURL(
            "the address is not a URL",  # and is not shown: it may begin with a user and a password
            fix="for example memory:// or redis://localhost:6379/0",
            facts=["it has no scheme://"],
        )
    return scheme


def _missing(scheme: str, why: str) -> AdapterMissing:
    extra = EXTRAS[scheme]
    return AdapterMissing(
        f"{scheme}:// needs the {extra} extra",
        facts=[why],
        fix=f'pip install "taskcore-framework[{extra}]"',
    )
