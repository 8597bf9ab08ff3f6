"""RabbitMQ over AMQP 0-9-1: from a URL to connections and channels.

address        what a URL says                     channel    channels whose message frames bypass aio-pika
connection     connecting and reconnecting         frames     AMQP's bytes
admin_channel  declaring, counting, locking        frame_filter   the bypass itself
"""
