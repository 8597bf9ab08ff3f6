"""BullMQ, on Redis, in Node: for how fast it can be outside of Python. Its roles are in ``bullmq.mjs``."""

from __future__ import annotations

import ruler

PEER = ruler.Peer(
    name="BullMQ (Node)",
    package="bullmq",
    requirements=["bullmq", "ioredis"],
    brokers=["redis"],
    command=["node", "{work}/bullmq.mjs", "work"],
    slots=100,
    settings="concurrency 100, removeOnComplete unless results are asked for, bulk by addBulk, results through QueueEvents.",
    source="https://docs.bullmq.io/guide/workers/concurrency",
    guarantee="at least once: a job is active under a lock until it has run; stalled ones are handed out again",
    tool="npm",
)
