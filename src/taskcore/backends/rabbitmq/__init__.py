"""The RabbitMQ backend: ``amqp://`` and ``amqps://``.

backend    connections, features          layout     names and arguments on the broker, declaring
publish    sending with confirms          messages   a job as a message, and back
source     receiving                      consumer   one queue of a source, receipts
settle     leases and verdicts            letters    browsing: dead letters, names of queues
admin      counts, purging, deleting      diagnose   what the server says about itself
"""

from taskcore.backends.rabbitmq.backend import RabbitBackend

__all__ = ["RabbitBackend"]
