"""The client: sends calls, and answers questions about jobs."""

from taskcore.client.client import Client, store_required

__all__ = ["Client", "store_required"]
