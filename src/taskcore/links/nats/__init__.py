"""The link to NATS: addresses, one supervised connection, requests in batches, and the JetStream API."""

from taskcore.links.nats.address import Address, read_address
from taskcore.links.nats.line import Ear
from taskcore.links.nats.link import NatsLink
from taskcore.links.nats.wire import Answer, Parcel, headers_of

__all__ = ["Address", "Answer", "Ear", "NatsLink", "Parcel", "headers_of", "read_address"]
