"""The NATS JetStream store."""

from taskcore.stores.nats.store import NatsStore

__all__ = ["NatsStore"]
