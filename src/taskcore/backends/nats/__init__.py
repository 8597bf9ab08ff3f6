"""The NATS JetStream backend."""

from taskcore.backends.nats.backend import NatsBackend

__all__ = ["NatsBackend"]
