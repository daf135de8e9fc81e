"""A cluster of three masters with a replica each, on loopback, for tests."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from redis.crc import key_slot

from bridge.core.errors import BridgeError
from bridge.core.server_address import cluster_address
from bridge.streams.cluster import Cluster, Node
from bridge.streams.connect import Connection
from bridge.streams.embedded.binary import Binary
from tests.support.rig import wait_until
from tests.support.server_group import ServerGroup, free_port

NODE_TIMEOUT_MS = 1500
"""After how long without an answer the others take a node for dead."""

MASTERS = 3


class ClusterGroup(ServerGroup):
    """See the module. The masters are the first three ports; each has one of the others as its replica at first."""

    def __init__(self, binary: Binary, *, password: str = "", switchboard: bool = False) -> None:
        super().__init__(binary, password=password)
        self.ports = [free_port() for _ in range(2 * MASTERS)]
        self.buses: dict[int, int] = {port: port + 10_000 for port in self.ports}
        if switchboard:
            self.put_between()
            assert self.board is not None
            self.buses = {port: self.board.front(bus, port) for port, bus in self.buses.items()}
        self.ids = dict[int, str]()
        self.bring_up(self._begin)

    def _begin(self) -> None:
        for port in self.ports:
            self.start_server(port)
        self.ids = {port: self.says(port, "CLUSTER", "MYID") for port in self.ports}
        share = 16384 // MASTERS
        for n, port in enumerate(self.ports[:MASTERS]):
            end = 16383 if n == MASTERS - 1 else (n + 1) * share - 1
            self.ask(port, "CLUSTER", "ADDSLOTSRANGE", n * share, end)
            self.ask(port, "CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        for port in self.ports[1:]:
            self.ask(self.ports[0], "CLUSTER", "MEET", "127.0.0.1", self.front(port), self.buses[port])
        wait_until(lambda: all(self._knows_all(port) for port in self.ports), self.told)
        for master, replica in zip(self.ports[:MASTERS], self.ports[MASTERS:], strict=False):
            self.ask(replica, "CLUSTER", "REPLICATE", self.ids[master])
        wait_until(self.healed, self.told)

    def start_server(self, port: int) -> None:
        """Starts a node, which remembers its place in the cluster."""
        folder = self.folder / str(port)
        folder.mkdir(exist_ok=True)
        args = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--appendonly", "yes", "--save", "",
                "--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS),
                "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]  # fmt: skip
        if self.password:
            args += ["--requirepass", self.password, "--masterauth", self.password]
        if self.board is not None:
            args += ["--cluster-announce-ip", "127.0.0.1", "--cluster-announce-port", str(self.front(port)),
                     "--cluster-announce-bus-port", str(self.buses[port])]  # fmt: skip
        self.run(port, args)

    def _knows_all(self, port: int) -> bool:
        return f"cluster_known_nodes:{len(self.ports)}\r" in self.says(port, "CLUSTER", "INFO")

    def healed(self) -> bool:
        """Whether every node says that all slots are served, and all replicas are linked."""
        for port in self.ports:
            told = self.says(port, "CLUSTER", "INFO")
            if "cluster_state:ok" not in told or "cluster_slots_ok:16384" not in told:
                return False
            if self.info(port, "role") == "slave" and not self.is_linked(port):
                return False
        return sum(self.info(port, "role") == "master" for port in self.ports) == MASTERS

    @property
    def url(self) -> str:
        """The url by which a bridge finds the cluster."""
        login = f":{self.password}@" if self.password else ""
        return f"cluster://{login}" + ",".join(f"127.0.0.1:{self.front(port)}" for port in self.ports[:MASTERS])

    def cluster(self) -> Cluster:
        """The cluster, as the bridge knows it."""
        address = cluster_address(self.url)
        assert address is not None
        return Cluster(address)

    def connect(self, key: str = "hestai:messages") -> Connection:
        """A connection to the master of a key."""
        return self.cluster().dial(key.encode())

    def master(self, key: str = "hestai:messages") -> int:
        """The port of the master that serves a key, as the nodes that answer name it; 0 where none does."""
        try:
            parts = self.cluster().slots()
        except BridgeError:
            return 0
        found = next((part.master for part in parts if part.first <= key_slot(key.encode()) <= part.last), None)
        return self.behind(found.port) if isinstance(found, Node) else 0

    def master_now(self) -> int:
        """The port of the stream's master that takes commands; 0 where there is none at this moment."""
        try:
            with closing(self.connect()) as connection:
                return self.behind(int(connection.shown.rpartition(":")[2].strip("/")))
        except BridgeError:
            return 0

    def replicas_of(self, master: int) -> list[int]:
        """The ports of a master's replicas."""
        parts = self.cluster().slots()
        mine = [part for part in parts if part.master is not None and self.behind(part.master.port) == master]
        return [self.behind(node.port) for part in mine for node in part.replicas]

    def plan_failover(self, master: int) -> bool:
        """Asks a replica to take over from its master; False: it does not want to just now."""
        return any(self.ask(port, "CLUSTER", "FAILOVER") == b"OK" for port in self.replicas_of(master))

    def restart_dead(self) -> None:
        """Starts the nodes that were killed."""
        for port in self.ports:
            if self.processes[port].poll() is not None:
                self.start_server(port)

    def length(self, key: str = "hestai:messages") -> int:
        """How many entries a stream has; 0 where nobody serves it."""
        try:
            with closing(self.connect(key)) as connection:
                return int(connection.call("XLEN", key))
        except BridgeError:
            return 0

    def move_slot(self, key: str, *, pause: Callable[[], object] = lambda: None) -> int:
        """Moves the slot of a key to another master, key by key, as `redis-cli --cluster reshard` does.

        `pause` is called between two keys. Returns the new master's port.
        """
        source, target, _ = self.begin_move(key)
        self.end_move(key, source, target, pause)
        return target

    def end_move(self, key: str, source: int, target: int, pause: Callable[[], object] = lambda: None) -> None:
        """Moves all keys of a slot that are left, and makes the move final; `pause` is called between two keys."""
        slot = key_slot(key.encode())
        masters = [port for port in self.ports if self.info(port, "role") == "master"]
        with closing(Connection(self.url_of(source), timeout=10)) as connection:
            login = ("AUTH", self.password) if self.password else ()
            while True:
                names = connection.call("CLUSTER", "GETKEYSINSLOT", slot, 1)
                if not names:
                    break
                connection.call("MIGRATE", "127.0.0.1", target, "", 0, 10_000, *login, "KEYS", names[0])
                pause()
        for port in (target, source, *(other for other in masters if other not in (target, source))):
            self.ask(port, "CLUSTER", "SETSLOT", slot, "NODE", self.ids[target])

    def begin_move(self, key: str) -> tuple[int, int, list[int]]:
        """Begins to move the slot of a key to another master; returns the two masters' ports, and those of all."""
        slot, source = key_slot(key.encode()), self.master(key)
        masters = [port for port in self.ports if self.info(port, "role") == "master"]
        target = next(port for port in masters if port != source)
        self.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.ids[source])
        self.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.ids[target])
        return source, target, masters

    def move_slot_at_once(self, key: str) -> int:
        """Moves the slot of a key to another master atomically; returns the new master's port."""
        slot, source = key_slot(key.encode()), self.master(key)
        target = next(port for port in self.ports if self.info(port, "role") == "master" and port != source)
        with closing(Connection(self.url_of(source), timeout=10)) as connection:
            connection.call("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", self.ids[target])
        wait_until(lambda: self.master(key) == target, self.told)
        return target
