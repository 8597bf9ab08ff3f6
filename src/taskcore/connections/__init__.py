"""Links: from a URL to connections, one module a broker, used by its backend and by its store.

Here are addresses, credentials, TLS, time limits, and the translation of a client library's errors; nothing about
queues or records. Backends and stores do not know each other, so what both need stands below them.
"""
