"""A private RabbitMQ node, with an ``epmd`` of its own, for tests that kill, freeze and wipe it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import anyio

from taskcore.faults.binaries import find_binary
from taskcore.faults.servers import Server
from taskcore.faults.sockets import HOST, ask, free_port

__all__ = ["RabbitServer", "epmd_of", "rabbit_version"]


class RabbitServer(Server):
    """RabbitMQ: one node, with an ``epmd`` of its own, so that nothing stays behind.

    :param advanced: numbers of the application ``rabbit`` that only ``advanced.config`` can set.
    """

    program = "rabbitmq-server"
    ready_within = 120.0
    stops_within = 30.0

    def __init__(
        self,
        *,
        version: str = "",
        config: Mapping[str, str | int] | None = None,
        advanced: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(version=version, config=config)
        self._advanced = dict(advanced or {})

    @classmethod
    def find(cls, version: str = "") -> Path:
        """Find the program itself, not the wrapper on the PATH that changes the user.

        :raises ServerMissing: it is not on this machine, or not in this version.
        """
        return find_binary(cls.program, version=version, folders=["/usr/lib/rabbitmq/bin"], ask=rabbit_version)

    @property
    def version(self) -> str:
        """The version of the installed package."""
        return rabbit_version(self.binary)

    @property
    def url(self) -> str:
        """``amqp://…``, as guest, who may come from this machine only."""
        return f"amqp://guest:guest@{HOST}:{self.port}/"

    def _prepare(self) -> None:
        cookie = self._folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text("TASKCORETESTS")
            cookie.chmod(0o400)
            self._epmd_port, self._dist_port = free_port(), free_port()
        settings = {"listeners.tcp.default": f"{HOST}:{self.port}"} | self.config
        (self._folder / "rabbitmq.conf").write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
        advanced = ", ".join(f"{{{name}, {number}}}" for name, number in self._advanced.items())
        (self._folder / "advanced.config").write_text(f"[{{rabbit, [{advanced}]}}].\n")
        (self._folder / "enabled_plugins").write_text("[].\n")

    def _command(self) -> Sequence[str | Path]:
        # epmd first, in our process group: the node would start one that outlives it.
        epmd = f'"{epmd_of(self.binary)}" -address {HOST} -port {self._epmd_port} & exec "{self.binary}"'
        return ["/bin/sh", "-c", epmd]

    def _environment(self) -> Mapping[str, str]:
        folder = self._folder
        return {
            "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "RUNNING_UNDER_SYSTEMD": "1",  # the script becomes the node, so that signals reach it
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_MNESIA_BASE": str(self.data),
            "RABBITMQ_LOG_BASE": str(folder / "logs"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }

    async def control(self, *command: str, within: float = 120.0) -> str:
        """Run ``rabbitmqctl`` on this node; what it prints.

        :param within: seconds; the command starts a machine of Erlang, which takes half a minute on a busy one.
        :raises RuntimeError: it failed; the text has what it printed.
        """
        program = self.binary.with_name("rabbitmqctl")
        with anyio.fail_after(within):
            done = await anyio.run_process(
                [str(program), "-n", self.node, *command], env=self._environment(), check=False
            )
        if done.returncode:
            raise RuntimeError(f"rabbitmqctl {' '.join(command)} failed: {(done.stderr or done.stdout).decode()}")
        return done.stdout.decode()

    @property
    def node(self) -> str:
        """What it is called among nodes."""
        return f"t{self.port}@localhost"

    async def _answers(self) -> bool:
        return (await ask(self.port, b"AMQP\0\0\x09\x01")).startswith(b"\x01\0\0")  # a method frame: connection.start


@cache
def rabbit_version(binary: Path) -> str:
    """Read the version of a RabbitMQ from the name of its own library: asking it would start a node."""
    home = binary.resolve().parent.parent
    folders = (binary.parent / "plugins", home / "plugins", *home.glob("lib/*/plugins"))
    names = [path.name for folder in folders for path in folder.glob("rabbit-[0-9]*")]
    return next((name.removeprefix("rabbit-").removesuffix(".ez") for name in names), "?")


def epmd_of(binary: Path) -> str:
    """Find the daemon by which nodes find each other: the one beside the program, or that of the system."""
    beside = binary.with_name("epmd")
    return str(beside) if beside.exists() else "epmd"
