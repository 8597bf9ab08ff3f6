"""RabbitMQ over AMQP 0.9.1: from a URL to connections and channels."""
