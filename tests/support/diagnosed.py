"""Backends and stores that say whatever a test wants of the settings of their server."""

from __future__ import annotations

from typing import Self

import anyio
import msgspec

from taskcore.backend import Features
from taskcore.backends.memory import MemoryBackend
from taskcore.errors import BrokerUnavailable
from taskcore.stores.memory import MemoryStore
from taskcore.toolkit.diagnostics import Diagnosis, DiagnosticCheck

__all__ = [
    "EVICTS",
    "SLOW",
    "DiagnosedBackend",
    "DiagnosedStore",
    "DumbBackend",
    "DumbStore",
    "UncountingBackend",
    "UnreachableBackend",
]

EVICTS = DiagnosticCheck(
    name="eviction",
    level="warn",
    text="maxmemory-policy is allkeys-lru, so jobs may vanish",
    fix="CONFIG SET maxmemory-policy noeviction",
    clauses=("C1",),
)
SLOW = DiagnosticCheck(name="latency", level="warn", text="the disk is slow", fix="get another one")


class DiagnosedBackend(MemoryBackend):
    """A broker with these facts; an error is raised instead, and a number of seconds passes before the answer."""

    def __init__(self, *facts: DiagnosticCheck, error: BrokerUnavailable | None = None, takes: float = 0.0) -> None:
        super().__init__()
        self.asked = 0
        self.open = False
        self._facts, self._error, self._takes = facts, error, takes

    async def __aenter__(self) -> Self:
        self.open = True
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.open = False

    async def diagnose(self) -> Diagnosis:
        """Answer what the test wants."""
        self.asked += 1
        await anyio.sleep(self._takes)
        if self._error is not None:
            raise self._error
        return Diagnosis(server="Fake 1.2", durability="survives a restart", checks=self._facts)


class DiagnosedStore(MemoryStore):
    """A store with these facts."""

    def __init__(self, *facts: DiagnosticCheck) -> None:
        super().__init__()
        self._facts = facts

    async def diagnose(self) -> Diagnosis:
        """Answer what the test wants."""
        return Diagnosis(server="Fake 1.2", durability="survives a restart", checks=self._facts)


class DumbBackend(MemoryBackend):
    """A broker that cannot say how it is set up."""

    diagnose = None


class DumbStore(MemoryStore):
    """A store that cannot say how it is set up."""

    diagnose = None


class UncountingBackend(DiagnosedBackend):
    """A broker that does not count how often it hands a job out."""

    @property
    def features(self) -> Features:
        """No count."""
        return msgspec.structs.replace(super().features, redeliveries="absent")


class UnreachableBackend(MemoryBackend):
    """A broker that is not there; or one that never answers, if it hangs."""

    def __init__(self, *, hangs: bool = False) -> None:
        super().__init__()
        self._hangs = hangs

    async def __aenter__(self) -> Self:
        if self._hangs:
            await anyio.sleep_forever()
        raise BrokerUnavailable(
            "cannot reach the broker", facts=["connection refused by 127.0.0.1:6399"], fix="is it running?"
        )
