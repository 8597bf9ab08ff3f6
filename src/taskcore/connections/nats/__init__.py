"""Connections to NATS: the URL, the protocol, one supervised connection, requests in batches, JetStream's API."""

from taskcore.connections.nats.address import NatsAddress, read_address
from taskcore.connections.nats.connection import Subscription
from taskcore.connections.nats.link import NatsLink
from taskcore.connections.nats.protocol import (
    Message,
    Reply,
    encode_message,
    header_of,
    number_of,
    plain_token,
    size_of,
)

__all__ = [
    "Message", "NatsAddress", "NatsLink", "Reply", "Subscription", "encode_message", "header_of", "number_of",
    "plain_token", "read_address", "size_of",
]  # fmt: skip
