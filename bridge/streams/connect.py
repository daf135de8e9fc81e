"""Connects to Redis: redis-py dials, authenticates and speaks TLS; after that the bridge owns the socket.

redis-py would retry a write on its own and so write it twice, and a silent reconnect would lose a WATCH. So a
connection here is used once, read with hiredis directly, and closed after any exception.
"""

from __future__ import annotations

import math
import re
import secrets
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import hiredis
import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError
from redis.retry import Retry

from bridge.core.errors import ConfigError, RedisLost, RedisRefused, Unfit
from bridge.core.server_address import masked
from bridge.streams.entry_budget import EntryBudget
from bridge.streams.resp import pack

Reply = Any
Refusal = hiredis.ReplyError

HINTS = {
    "OOM": "the server's maxmemory is reached: free memory or raise it; the bridge goes on by itself",
    "MISCONF": "the server cannot write its disk: make room there; the bridge goes on by itself",
    "READONLY": "this is a replica: it is waited for until a primary is found; is the url right?",
    "NOREPLICAS": "the server wants replicas it does not have: start them, or lower min-replicas-to-write",
    "LOADING": "the server is reading its data: wait",
    "NOAUTH": "the server wants a password: put it into the url, redis://:password@host",
    "WRONGPASS": "user or password in the url are wrong",
    "NOPERM": "the ACL user lacks a right: `bridge acl` prints the rules that are enough",
    "WRONGTYPE": "the key holds something that is not a stream: rename it, or give stream.key another name",
    "CLUSTERDOWN": "the cluster is not serving this slot: wait, or look at its nodes",
    "MOVED": "another node serves this slot now: it is looked for, where the url is cluster://…",
    "ASK": "the slot is being moved to another node: wait until it is there",
    "TRYAGAIN": "the slot is being moved to another node: wait until it is there",
    "NOSCRIPT": "the server lost a script: run again",
    "EXECABORT": "the server refused a command of the transaction",
}

ELSEWHERE = ("READONLY", "CLUSTERDOWN", "MOVED", "ASK", "TRYAGAIN")
"""The errors of a server that does not serve a key, or not yet: another connection may reach the server that does."""

SMALL, LARGE = 1 << 14, 1 << 18
"""Bytes asked of the socket at once: `LARGE` only while replies fill `SMALL`, as so large a buffer costs time."""

RENEWED_AFTER = 0.8
"""The part of a password's time after which a connection is replaced by one with a new password."""

CLIENT_NAME = "hestai-bridge"
"""The name of every connection of the bridge, in the server's list of clients and in its slow log."""

EXACT = ("WATCH", "MULTI", "EXEC", "EVAL")
"""Commands without which nothing can be carried exactly once."""

UNKNOWN = re.compile(r"(?:err )?unknown (?:redis )?command[:,]? ['`\"]?(\w+)")
"""The beginning of the error of a server that does not know a command, in small letters."""

NOT_HERE = "use Redis 7.0+ or Valkey; some services and proxies have no transactions or scripts"

NEEDED = ("XADD", "XREAD", "XRANGE", "XREVRANGE", "XINFO", "WATCH", "MULTI", "EXEC", "EVAL", "HSET", "HGETALL")


def refused(error: Exception | str, where: str) -> RedisRefused | RedisLost | Unfit:
    """Turns an error reply of Redis into a RedisRefused, with its code and a hint what to do.

    It is a RedisLost where another server serves the key: the connection is of no use any more. It is Unfit where the
    server has not the commands without which nothing can be carried exactly once.
    """
    text = str(error)
    if text.startswith("EXECABORT"):  # its cause matters: memory may have run out between queueing and EXEC
        text = text.partition("because of: ")[2] or text
    code = text.split(" ", 1)[0].rstrip(":")
    lowered = text.lower()
    for name, sign in (("WRONGPASS", "invalid username-password"), ("NOAUTH", "authentication required"),
                       ("LOADING", "loading the dataset"), ("NOPERM", "no permissions")):  # fmt: skip
        if sign in lowered:
            code = name
    unknown = UNKNOWN.match(lowered)
    if unknown is not None and unknown[1].upper() in EXACT:
        return Unfit(
            f"the server has no {unknown[1].upper()}: {text.partition(', with args')[0]}", where=where, hint=NOT_HERE
        )
    if code in ELSEWHERE:
        return RedisLost(f"Redis refused: {text}", where=where, hint=HINTS[code])
    return RedisRefused(f"Redis refused: {text}", code=code, where=where, hint=HINTS.get(code, ""))


def kept(connection: Connection) -> bool:
    """Takes no connection to Redis back: whoever closes one that nobody lent hangs up."""
    return False


class Connection:
    """A connected socket to Redis, with hiredis as its parser.

    `timeout` bounds every read and write, in seconds; `budget` bounds every page of entries. `in_cluster`: the server
    is a node of a cluster, and has only the keys of its slots. `password` takes the place of the url's; `lasts`: the
    seconds for which it is good, 0: for ever.
    """

    def __init__(
        self, url: str, *, timeout: float = 5.0, budget: EntryBudget | None = None, in_cluster: bool = False,
        password: str | None = None, lasts: float = 0.0,
    ) -> None:  # fmt: skip
        self.budget = budget or EntryBudget()
        self.in_cluster = in_cluster
        self._renew_at = time.monotonic() + RENEWED_AFTER * lasts if lasts else math.inf
        self.shown = masked(url)
        try:
            pool = redis.ConnectionPool.from_url(url)
        except ValueError as error:
            raise ConfigError(f"redis url {self.shown!r} is not usable: {error}") from None
        # Set here and not as arguments: options in the URL's query would win over arguments.
        pool.connection_kwargs.update(
            protocol=2,
            health_check_interval=0,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=timeout,
            socket_connect_timeout=min(timeout, 5.0),
            decode_responses=False,
            driver_info=None,  # CLIENT SETINFO is unknown to Redis 7.0, whose ACL can then give no right to it
        )
        if password is not None:
            pool.connection_kwargs["password"] = password
        self._dialled = cast(Any, pool.make_connection())
        try:
            self._dialled.connect()
        except BusyLoadingError as error:
            raise refused(f"LOADING {error}", self.shown) from None
        except AuthenticationError as error:
            raise refused(error, self.shown) from None
        except redis.ConnectionError as error:
            unknown = "Name or service" in str(error) or "nodename" in str(error)
            hint = "is the host's name right?" if unknown else "is the server running?"
            raise RedisLost(f"cannot connect: {error}", where=self.shown, hint=hint) from None
        except redis.TimeoutError as error:
            raise RedisLost(f"no answer: {error}", where=self.shown, hint="is the server reachable?") from None
        except RedisError as error:
            raise refused(error, self.shown) from None
        sock = self._dialled._get_socket()
        if sock is None:
            raise RedisLost("the connection closed at once", where=self.shown)
        self._sock: socket.socket = sock
        self._reader = hiredis.Reader()
        self._unfed = bytearray()
        self._at_once = SMALL
        self._foreseen: dict[bytes, deque[list[Reply]]] = {}
        self._answers: deque[Reply] = deque()
        self.received = 0
        """Bytes read from the connection so far."""
        self.give_back: Callable[[Connection], bool] = kept
        """Takes the connection when it is closed, once, to lend it again; False: it does not."""
        self.replaced: Callable[[], bool] = lambda: False
        """Whether another master was elected since; `look`, called now and then, finds out."""
        self.look: Callable[[], object] = lambda: None
        try:
            self.send(pack("CLIENT", "SETNAME", CLIENT_NAME))
            self.read()  # may be refused: then nobody can tell in the server's list of clients who we are
        except RedisLost as error:
            self.close()
            wants = (
                "does the server want a certificate of its clients? ssl_certfile and ssl_keyfile in the url name one"
            )
            hint = wants if url.startswith("rediss:") else "is it the right port, and has the server room for us?"
            raise RedisLost(error.what, where=self.shown, hint=hint) from None

    def close(self) -> None:
        """Closes the socket of the connection to Redis, or gives the connection back to its lender; never raises."""
        give_back, self.give_back = self.give_back, kept
        if not give_back(self):
            self.hang_up()

    def hang_up(self) -> None:
        """Closes the socket of the connection to Redis; never raises."""
        self._dialled.disconnect()

    def be_as_new(self) -> bool:
        """Whether the connection to Redis is as a new one: nothing is watched, queued, subscribed to or unread."""
        mark = secrets.token_bytes(8).hex()
        try:
            if self.aged or self._unfed or self._reader.has_data() or self.closed():
                return False
            self.send(pack("UNWATCH") + pack("PING", mark))
            return bool(self.read() == b"OK" and self.read() == mark.encode())
        except RedisLost:
            return False

    @property
    def aged(self) -> bool:
        """Whether the password of the connection to Redis ends soon: between two messages it is time for a new one."""
        return time.monotonic() >= self._renew_at

    def closed(self) -> bool:
        """Whether the server closed the connection to Redis while nothing was asked, or sent something unasked."""
        poll = select.poll()
        try:
            poll.register(self._sock, select.POLLIN)
        except ValueError:
            return True
        return bool(poll.poll(0))

    def interrupt(self) -> None:
        """Wakes another thread that is blocked in reading from Redis, by shutting the socket down.

        The connection is of no use afterwards.
        """
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def foresee(self, writes: Iterable[Sequence[bytes]]) -> None:
        """Asks Redis in one write for what will be asked for soon: each of these writes costs no round trip then.

        For a command that only looks, as an answer may be a moment old. A write is a sequence of packed commands, and
        may stand there several times. Answers that nobody took are forgotten with the next call. Raises RedisLost.
        """
        self.forget_foreseen()
        asked = [(b"".join(write), len(write)) for write in writes]
        self.send(b"".join(buffer for buffer, _ in asked))
        for buffer, replies in asked:
            found = [self.read() for _ in range(replies)]
            self._foreseen.setdefault(buffer, deque()).append(found)

    def forget_foreseen(self) -> None:
        """Forgets foreseen answers of Redis that nobody took: whoever asks from now on is answered by the server."""
        self._foreseen.clear()

    def send(self, buffer: bytes) -> None:
        """Writes packed commands to the Redis server. Raises RedisLost."""
        if self._foreseen and (foreseen := self._foreseen.get(buffer)):
            self._answers.extend(foreseen.popleft())
            return
        try:
            self._sock.sendall(buffer)
        except OSError as error:
            raise self._lost("while writing", error) from None

    def read(self) -> Reply:
        """Reads the next reply of the Redis server: bytes, int, list, None; an error reply is returned as a `Refusal`.

        Raises RedisLost.
        """
        if self._answers:
            return self._answers.popleft()
        reply = self._reader.gets()
        while reply is False:
            self._reader.feed(bytes(self._unfed or self._receive()))
            self._unfed.clear()
            reply = self._reader.gets()
        return reply

    def pushes(self) -> list[Reply]:
        """Reads the pushes that the Redis server sent unasked, as far as they have arrived, without waiting.

        Raises RedisLost.
        """
        found: list[Reply] = []
        while self.closed():
            self._reader.feed(self._receive())
            while (push := self._reader.gets()) is not False:
                found.append(push)
        return found

    def read_small(self) -> Reply:
        """Reads the next reply of the Redis server, parsing no byte beyond that reply.

        For the few replies that stand before those that `read_expected` compares.
        """
        if self._reader.has_data():
            return self.read()
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            if rest == b"-1":
                return None
            size = int(rest)
            while len(self._unfed) < size + 2:
                self._unfed += self._receive()
            value = bytes(self._unfed[:size])
            del self._unfed[: size + 2]
            return value
        if kind == b"*":
            return None if rest == b"-1" else [self.read_small() for _ in range(int(rest))]
        if kind == b":":
            return int(rest)
        return rest if kind == b"+" else Refusal(rest.decode(errors="replace"))

    def read_array_lines(self, bulks: int, lines: int) -> list[bytes] | None:
        """Reads an array reply of Redis, `bulks` short bulk strings and then `lines` integers, as unparsed lines.

        None, with nothing taken, when the reply is another or holds an error: `read_small` tells what it is.
        """
        if self._reader.has_data():
            return None
        total = 1 + 2 * bulks + lines
        head = b"*%d\r\n" % (bulks + lines)
        while self._unfed.count(b"\r\n") < total:  # with fewer lines, all bytes here are of this array
            if not head.startswith(self._unfed[: len(head)]) or b"\r\n-" in self._unfed or b"$-1" in self._unfed:
                return None
            self._unfed += self._receive()
        parts = self._unfed.split(b"\r\n", total)
        whole = self._unfed[: len(self._unfed) - len(parts[-1])]
        if parts[0] != head[:-2] or b"\r\n-" in whole or b"$-1" in whole:
            return None
        self._unfed = bytearray(parts.pop())
        return [bytes(part) for part in parts]

    def _line(self) -> bytes:
        while (end := self._unfed.find(b"\r\n")) < 0:
            self._unfed += self._receive()
        line = bytes(self._unfed[:end])
        del self._unfed[: end + 2]
        return line

    def read_expected(self, expected: bytes, replies: int) -> list[Refusal]:
        """Reads `replies` status replies of Redis that should be `expected` to the byte; returns the errors among them.

        Comparing bytes costs a fifth of parsing 400 `+QUEUED`.
        """
        if not self._reader.has_data():
            while len(self._unfed) < len(expected) and expected.startswith(self._unfed):
                self._unfed += self._receive()
            if self._unfed.startswith(expected):
                del self._unfed[: len(expected)]
                return []
        return [reply for reply in (self.read() for _ in range(replies)) if isinstance(reply, Refusal)]

    def call(self, *args: bytes | str | int) -> Reply:
        """Sends one command to Redis and returns its reply.

        Raises RedisRefused for an error reply, RedisLost for a lost connection.
        """
        return self.calls(pack(*args))[0]

    def calls(self, *packed: bytes) -> list[Reply]:
        """Sends several packed commands to Redis in one write and returns their replies.

        Raises RedisRefused for the first error reply, after reading all.
        """
        self.send(b"".join(packed))
        replies = [self.read() for _ in packed]
        for reply in replies:
            if isinstance(reply, Refusal):
                raise refused(reply, self.shown)
        return replies

    def probe(self) -> None:
        """Asks the Redis server whether it has the commands that the bridge needs.

        Raises Unfit where one is missing.
        """
        try:
            rows = self.call("COMMAND", "INFO", *NEEDED)
        except RedisRefused:
            return  # COMMAND itself may be forbidden or unknown: the first use will tell
        missing = [name for name, row in zip(NEEDED, rows or (), strict=False) if row is None]
        if missing:
            raise Unfit(f"the server lacks {', '.join(missing)}", where=self.shown, hint=NOT_HERE)

    def _receive(self) -> bytes:
        try:
            data = self._sock.recv(self._at_once)
        except OSError as error:
            raise self._lost("while reading", error) from None
        if not data:
            raise RedisLost("the connection was closed by the server", where=self.shown)
        self.received += len(data)
        self._at_once = LARGE if len(data) >= SMALL else SMALL
        return data

    def _lost(self, doing: str, error: OSError) -> RedisLost:
        what = "no answer in time" if isinstance(error, TimeoutError) else str(error)
        return RedisLost(f"the connection was lost {doing}: {what}", where=self.shown)
