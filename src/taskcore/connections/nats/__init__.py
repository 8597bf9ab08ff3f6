"""The link to NATS: addresses, one supervised connection, requests in batches, and the JetStream API."""

from taskcore.connections.nats.address import Address, read_address
from taskcore.connections.nats.connection import Ear
from taskcore.connections.nats.link import NatsLink
from taskcore.connections.nats.wire import Answer, Parcel, headers_of

__all__ = ["Address", "Answer", "Ear", "NatsLink", "Parcel", "headers_of", "read_address"]
