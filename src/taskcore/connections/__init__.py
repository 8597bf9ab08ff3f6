"""From a URL to connections: one package a server, used by its backend and by its store.

Here are addresses, credentials, TLS, time limits, and the translation of a client library's errors; nothing about
queues or records. Backends and stores do not import each other, so what both need is here, below them.
"""
