"""Anything may stand in the bridge's own keys: it is a trouble of its mapping, with the key named, and never a crash."""

from __future__ import annotations

import json

import pytest

from tests.support.rig import STREAM, Rig, wait_until

JUNK = [
    ("checkpoint", "messages.log", "{nope"),
    ("generations", "1.1", "[]"),
    ("mirror", "messages.log", '"x"'),
    ("sources", "messages.log", "x"),
    ("trimmed", "origins", "["),
    ("floor", "", "banana"),
    ("lease", "", "junk"),
    ("meta", "nonce", "zz"),
]


@pytest.mark.parametrize(("name", "field", "value"), JUNK, ids=[case[0] for case in JUNK])
def test_junk_in_a_key(rig: Rig, name: str, field: str, value: str) -> None:
    """A running bridge and one that starts live with it; once it is removed all goes on, with nothing lost or doubled."""
    rig.append("f-0")
    rig.add("r-0")
    child = rig.start()
    wait_until(lambda: rig.equal([b"f-0"], [b"r-0"]), rig.said)
    key = f"bridge:{{{STREAM}}}:{name}"
    spoil = ("HSET", key, field, value) if field else ("SET", key, value)
    rig.redis.call(*spoil)
    rig.append("f-1")
    rig.add("r-1")
    rig.stop(child)
    rig.redis.call(*spoil)  # the lease was given back, the checkpoint written anew
    child = rig.ready(rig.start())
    if name not in ("lease", "meta"):
        wait_until(lambda: f"{key}" in rig.said(), rig.said)
    told = json.loads(rig.run("parity", "--json", "--redis", rig.url).stdout)
    assert told["verdict"] in ("equal", "inconclusive"), told
    assert rig.run("status", "--redis", rig.url).returncode in (0, 3)
    assert child.poll() is None, rig.said()
    rig.redis.call(*(("HDEL", key, field) if field else ("DEL", key)))
    rig.settle([b"f-0", b"f-1"], [b"r-0", b"r-1"])
    rig.stop(child)
