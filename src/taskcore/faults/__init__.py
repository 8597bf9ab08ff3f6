"""What goes wrong, on command: calls that fail, networks that break, servers and workers that die.

FlakyBackend · FlakyStore     fail, delay, lose the reply, do it twice, out of order
ChaosProxy                    between client and server: cut, hang, slow down, byte by byte
RedisServer, NatsServer, …    private servers to kill, stop, restart
RedisReplicated, RedisSentinel, RedisCluster    several of them, to partition, fail over, rearrange
RabbitCluster                 three nodes that know each other
NatsCluster                   several of them that know each other
WorkerProcess                 a real worker in a process of its own
"""

from taskcore.faults.calls import Delay, DropReply, Fail, Hang, LateReply, Reorder, Twice
from taskcore.faults.clusters import NatsCluster
from taskcore.faults.flaky import FlakyBackend, FlakyStore
from taskcore.faults.postgres import PostgresServer
from taskcore.faults.processes import WorkerProcess
from taskcore.faults.proxy import ChaosProxy
from taskcore.faults.rabbit_cluster import RabbitCluster
from taskcore.faults.rabbitmq import RabbitServer
from taskcore.faults.redis_cluster import RedisCluster
from taskcore.faults.redis_sets import RedisReplicated, RedisSentinel
from taskcore.faults.servers import NatsServer, RedisServer, Server, ServerMissing, ValkeyServer

__all__ = [
    "ChaosProxy",
    "Delay",
    "DropReply",
    "Fail",
    "FlakyBackend",
    "FlakyStore",
    "Hang",
    "LateReply",
    "NatsCluster",
    "NatsServer",
    "PostgresServer",
    "RabbitCluster",
    "RabbitServer",
    "RedisCluster",
    "RedisReplicated",
    "RedisSentinel",
    "RedisServer",
    "Reorder",
    "Server",
    "ServerMissing",
    "Twice",
    "ValkeyServer",
    "WorkerProcess",
]
