"""A master, its replicas and the Sentinels that watch them, on loopback, for tests of failovers."""

from __future__ import annotations

from functools import partial

from bridge.core.errors import BridgeError
from bridge.core.server_address import sentinel_address
from bridge.streams.connect import Connection
from bridge.streams.embedded.binary import Binary
from bridge.streams.sentinel import Sentinels
from tests.support.rig import wait_until
from tests.support.server_group import ServerGroup, free_port

NAME = "shop"
DOWN_MS = 1000
"""After how long without an answer the Sentinels take the master for dead."""


class SentinelGroup(ServerGroup):
    """See the module. `password`: what the servers want, and no Sentinel."""

    def __init__(
        self, binary: Binary, *, replicas: int = 2, sentinels: int = 3, password: str = "", switchboard: bool = False
    ) -> None:
        super().__init__(binary, password=password)
        self.ports = [free_port() for _ in range(1 + replicas)]
        if switchboard:
            self.put_between()
        self.sentinel_ports = [free_port() for _ in range(sentinels)]
        self.bring_up(self._begin)

    def _begin(self) -> None:
        for port in self.ports:
            self.start_server(port, of=self.ports[0] if port != self.ports[0] else 0)
        for port in self.ports[1:]:
            wait_until(partial(self.is_linked, port), "a replica")
        for port in self.sentinel_ports:
            self._start_sentinel(port)
        wait_until(self._agree, "the Sentinels")

    def _agree(self) -> bool:
        """Whether every Sentinel knows all replicas and all other Sentinels."""
        for port in self.sentinel_ports:
            told = self.ask(port, "SENTINEL", "MASTER", NAME)
            facts = dict(zip(told[0::2], told[1::2], strict=True)) if isinstance(told, list) else {}
            if facts.get(b"num-slaves") != b"%d" % (len(self.ports) - 1):
                return False
            if facts.get(b"num-other-sentinels") != b"%d" % (len(self.sentinel_ports) - 1):
                return False
        return True

    def start_server(self, port: int, *, of: int = 0) -> None:
        """Starts a server, as the replica of another one where `of` names it."""
        folder = self.folder / str(port)
        folder.mkdir(exist_ok=True)
        args = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--appendonly", "yes", "--save", "",
                "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]  # fmt: skip
        if self.password:
            args += ["--requirepass", self.password, "--masterauth", self.password]
        if of:
            args += ["--replicaof", "127.0.0.1", str(self.front(of))]
        if self.board is not None:
            args += ["--replica-announce-ip", "127.0.0.1", "--replica-announce-port", str(self.front(port))]
        self.run(port, args)

    def _start_sentinel(self, port: int) -> None:
        folder = self.folder / str(port)
        folder.mkdir()
        rows = [f"port {port}", "bind 127.0.0.1", f'dir "{folder}"',
                f"sentinel monitor {NAME} 127.0.0.1 {self.front(self.ports[0])} {len(self.sentinel_ports) // 2 + 1}",
                f"sentinel down-after-milliseconds {NAME} {DOWN_MS}", f"sentinel failover-timeout {NAME} 2000",
                f"sentinel parallel-syncs {NAME} 4"]  # fmt: skip
        if self.password:
            rows.append(f"sentinel auth-pass {NAME} {self.password}")
        config = folder / "sentinel.conf"
        config.write_text("\n".join(rows) + "\n")
        self.run(port, [str(config), "--sentinel"])

    @property
    def url(self) -> str:
        """The url by which a bridge finds the master."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinel_ports)
        login = f":{self.password}@" if self.password else ""
        return f"sentinel://{login}{hosts}/{NAME}/0"

    def master(self) -> int:
        """The port of the master, as the Sentinels name it now."""
        address = sentinel_address(self.url)
        assert address is not None
        return self.behind(Sentinels(address).master()[1])

    def connect(self) -> Connection:
        """A connection to the master, as the bridge makes one."""
        address = sentinel_address(self.url)
        assert address is not None
        return Sentinels(address).dial()

    def _serving(self) -> int:
        """The port of a master that is elected and knows it; 0 where there is none."""
        try:
            port = self.master()
        except BridgeError:
            return 0
        return port if self.info(port, "role") == "master" else 0

    def master_now(self) -> int:
        """The port of the master that takes commands; 0 where there is none at this moment."""
        return self._serving()

    def replicas_of(self, master: int) -> list[int]:
        """The ports of the other servers."""
        return [port for port in self.ports if port != master]

    def plan_failover(self, _: int) -> bool:
        """Asks for another master; False: the Sentinels do not want to just now."""
        return self.ask(self.sentinel_ports[0], "SENTINEL", "FAILOVER", NAME) == b"OK"

    def restart_dead(self) -> None:
        """Starts the servers that were killed, as replicas of the master."""
        for port in self.ports:
            if self.processes[port].poll() is not None:
                self.start_server(port, of=self._serving())

    def healed(self) -> bool:
        """Whether there is a master and all other servers are linked to it, whichever the Sentinels elected last."""
        master = self._serving()
        return bool(master) and all(self.is_linked(port) for port in self.ports if port != master)
