"""Queues in this process's memory: ``memory://``."""

from taskcore.backends.memory.backend import FEATURES, MemoryBackend

__all__ = ["FEATURES", "MemoryBackend"]
