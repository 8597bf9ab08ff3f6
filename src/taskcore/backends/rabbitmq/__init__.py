"""The RabbitMQ backend: ``amqp://`` and ``amqps://``.

options    what a URL may say          names      every name and argument on the broker, in one table
topology   making what is missing      messages   a job as a message, and back
publisher  sending, confirmed          source     receiving, settling, leases
stream     one queue of a source       browsing   looking at a queue without taking anything away
admin      counts, purging, letters    diagnosis  what the server says about itself
"""

from taskcore.backends.rabbitmq.backend import RabbitBackend

__all__ = ["RabbitBackend"]
