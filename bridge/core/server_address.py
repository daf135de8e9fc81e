"""Reads where Redis is from its configured url: a server, a socket, Sentinels that know a master, a cluster. Pure."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from bridge.core.errors import ConfigError

SENTINEL_SCHEMES = {"sentinel": "redis", "sentinels": "rediss"}
"""The schemes by which Sentinels are named, each with that of the servers they know."""

CLUSTER_SCHEMES = {"cluster": "redis", "clusters": "rediss"}
"""The schemes by which a cluster's nodes are named, each with that of a node."""

SCHEMES = ("embedded", "redis", "rediss", "unix", *SENTINEL_SCHEMES, *CLUSTER_SCHEMES)
SENTINEL_PORT, CLUSTER_PORT = 26379, 6379
SENTINEL_FORM, CLUSTER_FORM = "sentinel://host1:26379,host2:26379/NAME/0", "cluster://host1:6379,host2:6379"
FORMS = f"embedded, redis://host:6379/0, rediss://…, unix:///path/to/socket, {SENTINEL_FORM} or {CLUSTER_FORM}"


@dataclass(frozen=True, slots=True)
class SentinelAddress:
    """The address of a master that Sentinels know: where they are, the master's name, and how it is dialled.

    `login`: user and password of the master as a url has them, with the `@` behind; `database` may be empty.
    """

    scheme: str
    login: str
    hosts: tuple[tuple[str, int], ...]
    name: str
    database: str
    query: str

    def master_url(self, host: str, port: int) -> str:
        """Makes the url of a server that a Sentinel named as the master."""
        return self._url(self.login, host, port, self.database)

    def sentinel_url(self, host: str, port: int, login: str) -> str:
        """Makes the url of a Sentinel, with its own user and password, as `user:password@`, where it has them."""
        return self._url(login, host, port, "")

    def _url(self, login: str, host: str, port: int, database: str) -> str:
        return _server_url(SENTINEL_SCHEMES[self.scheme], login, host, port, database, self.query)


@dataclass(frozen=True, slots=True)
class ClusterAddress:
    """The address of a cluster: some of its nodes, of which one that answers is enough to learn of the others.

    `login`: user and password of every node as a url has them, with the `@` behind.
    """

    scheme: str
    login: str
    hosts: tuple[tuple[str, int], ...]
    query: str

    def node_url(self, host: str, port: int) -> str:
        """Makes the url of one of the cluster's nodes."""
        return _server_url(CLUSTER_SCHEMES[self.scheme], self.login, host, port, "", self.query)

    @property
    def shown(self) -> str:
        """The cluster's url for people, with its password masked."""
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return masked(f"{self.scheme}://{self.login}{hosts}")


def _server_url(scheme: str, login: str, host: str, port: int, database: str, query: str) -> str:
    where = f"[{host}]" if ":" in host else host
    return urlunsplit((scheme, f"{login}{where}:{port}", f"/{database}", query, ""))


def masked(url: str) -> str:
    """Masks the password in a configured Redis URL as `***`, and drops the query, which may carry a password too."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    if not parts.netloc:
        return f"{parts.scheme}://{parts.path}"
    userinfo, at, host = parts.netloc.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    return urlunsplit((parts.scheme, f"{user}{':***' if colon else ''}{at}{host}", parts.path, "", ""))


def check_url(url: str, where: str) -> str:
    """Checks a configured Redis URL and returns it unchanged; raises ConfigError for one that the bridge cannot use.

    The scheme must be one the bridge speaks, database and port must be numbers.
    """
    scheme = "embedded" if url == "embedded" else url.partition("://")[0]
    if "://" not in url and difflib.get_close_matches(url, ["embedded"], 1):
        if url != "embedded":
            raise ConfigError(f"redis url {url!r} is not known", where=where, hint="did you mean embedded?")
        return url
    if "://" not in url and re.fullmatch(r"[\w.-]+(:\d+)?(/\d+)?", url) and url != "embedded":
        raise ConfigError(f"redis url {url!r} names no scheme", where=where, hint=f"did you mean redis://{url}?")
    if scheme not in SCHEMES or (scheme != "embedded" and "://" not in url):
        raise ConfigError(
            f"redis url {masked(url)!r}: scheme {scheme!r} is not supported yet", where=where, hint=f"use {FORMS}"
        )
    if sentinel_address(url, where) is not None or cluster_address(url, where) is not None:
        return url
    database = urlsplit(url).path.strip("/")
    if scheme in ("redis", "rediss") and database and not database.isdigit():
        raise ConfigError(f"redis url {masked(url)!r}: database {database!r} is no number", where=where)
    try:
        _ = urlsplit(url).port
    except ValueError as error:
        raise ConfigError(f"redis url {masked(url)!r} is not usable: {error}", where=where) from None
    return url


def sentinel_address(url: str, where: str = "") -> SentinelAddress | None:
    """Reads the address of a master that Sentinels know from its url; None: the url names no Sentinels.

    The form is `sentinel://user:password@host1:26379,host2:26379/NAME/0`. Raises ConfigError.
    """
    parts = urlsplit(url)
    if parts.scheme not in SENTINEL_SCHEMES:
        return None
    login, at, hosts = parts.netloc.rpartition("@")
    name, _, database = parts.path.strip("/").partition("/")
    if not name:
        raise _unusable(parts, "the master's name is missing", where, "sentinel://host1,host2/NAME/0")
    if not re.fullmatch("[0-9]*", database):
        raise _unusable(parts, f"database {database!r} is no number", where, "sentinel://host1,host2/NAME/0")
    if re.search(r"(?:^|&)db=", parts.query):
        raise _unusable(parts, "the database stands behind the name", where, "sentinel://host1,host2/NAME/0")
    found = tuple(_host_and_port(parts, host, SENTINEL_PORT, where, SENTINEL_FORM) for host in hosts.split(","))
    return SentinelAddress(parts.scheme, login + at, found, unquote(name), database, parts.query)


def cluster_address(url: str, where: str = "") -> ClusterAddress | None:
    """Reads the address of a cluster from its url; None: the url names no cluster.

    The form is `cluster://user:password@host1:6379,host2:6379`. Raises ConfigError.
    """
    parts = urlsplit(url)
    if parts.scheme not in CLUSTER_SCHEMES:
        return None
    login, at, hosts = parts.netloc.rpartition("@")
    database = parts.path.strip("/")
    if database.strip("0") or re.search(r"(?:^|&)db=0*[^0&]", parts.query):
        raise _unusable(parts, f"{parts.scheme}:// has database 0 only", where, CLUSTER_FORM)
    found = tuple(_host_and_port(parts, host, CLUSTER_PORT, where, CLUSTER_FORM) for host in hosts.split(","))
    return ClusterAddress(parts.scheme, login + at, found, parts.query)


def _host_and_port(parts: SplitResult, text: str, port: int, where: str, form: str) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\s:\[\]/]+))(?::(\d{1,5}))?", text.strip())
    if match is None or not 0 < int(match[3] or port) < 65536:
        raise _unusable(parts, f"{text!r} is no host and port", where, form)
    return match[1] or match[2], int(match[3] or port)


def _unusable(parts: SplitResult, why: str, where: str, form: str) -> ConfigError:
    return ConfigError(f"redis url {masked(urlunsplit(parts))!r}: {why}", where=where, hint=f"write {form}")
