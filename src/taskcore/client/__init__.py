"""The client: sends calls, and answers questions about jobs."""

from taskcore.client.client import Client

__all__ = ["Client"]
