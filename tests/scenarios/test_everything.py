"""One bridge carries every kind of source at once, and parity says equal for each of them."""

from __future__ import annotations

import hashlib
import json
from threading import Event, Thread
from typing import Any

from tests.support.inbox import document
from tests.support.rig import Rig, wait_until

MAPPINGS = (
    "hestai-message", "hestai-roles", "hestai-debates", "hestai-inbox", "hestai-context", "hestai-state",
    "hestai-artifacts",
)  # fmt: skip


def write(rig: Rig, stop: Event) -> None:
    """All the programs of a workstation, in one thread."""
    root, n = rig.root, 0
    for name in ("inbox", "inbox/done", "debates", "context", "state", "artifacts/wind"):
        (root / name).mkdir(parents=True, exist_ok=True)

    def append(name: str, raw: bytes) -> None:
        with (root / name).open("ab") as file:
            file.write(raw)

    def save(name: str, raw: bytes) -> None:
        hidden = (root / name).with_name(".new")
        hidden.write_bytes(raw)
        hidden.rename(root / name)

    while not stop.wait(0.02):
        stamp = f"2026-03-02T09:{n // 60 % 60:02}:{n % 60:02}Z"
        append("messages.log", f"agent|{stamp}|turn|message {n}\n".encode())
        append("wind.out", f"{stamp}|turn|of wind {n}\n".encode())
        event = {"id": str(n), "event_type": "turn", "timestamp": stamp, "payload": {"role": "wall"}}
        append("debates/one.events.jsonl", json.dumps(event).encode() + b"\n")
        append("context/wind.ctx", "tökens … ".encode())
        if n % 5 == 0:
            save(f"inbox/{n}.json", document(f"m-{n}", at=n % 3600))
            save("state/phase.txt", b"%d" % n)
        if n % 10 == 0:
            save(f"artifacts/wind/{n}.txt", b"artifact %d" % n)
            append("messages.log", f"agent|{stamp}|artifact_saved|artifacts/wind/{n}.txt\n".encode())
        if n % 20 == 15:
            save(f"inbox/{n - 5}.json", document(f"m-{n - 5}", at=n % 3600, status="done"))
        rig.add(f"from ui {n}")
        rig.redis.call("XADD", "hestai:roles", "*", "role", "ui", "timestamp", stamp, "type", "say", "data", f"{n}")
        data = document(f"r-{n}", at=n % 3600)
        facts = json.loads(data)
        rig.redis.call("XADD", "hestai:inbox", "*", "role", facts["role"], "timestamp", facts["timestamp"], "type",
                       facts["doc_type"], "data", data)  # fmt: skip
        n += 1
        if n % 7 == 0:
            Event().wait(0.08)  # a pause ends a chunk


def standing(rig: Rig) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(rig.run("status", "--json", "--redis", rig.server.socket_url).stdout)
    return told


def test_all_kinds_at_once(one_rig: Rig) -> None:
    """Logs, role files, debates, an inbox, growing context, a latest value and artifacts, both ways, through a kill."""
    rig, stop = one_rig, Event()
    names = json.dumps(list(MAPPINGS))[1:-1].strip('"')
    rig.write_config(mapping=names.replace('", "', '", "'), extra='[components.ui]\nroles = ["ui"]\n')
    child = rig.ready(rig.start())
    writer = Thread(target=write, args=(rig, stop))
    writer.start()
    Event().wait(1.0)
    child.kill()
    child.wait()
    child = rig.ready(rig.start())
    Event().wait(1.0)
    stop.set()
    writer.join()
    last = (rig.root / "state" / "phase.txt").read_bytes()

    def verdicts() -> dict[str, tuple[str, int]]:
        told = json.loads(rig.run("parity", "--json", "--redis", rig.server.socket_url).stdout)
        return {mapping["mapping"]: (mapping["verdict"], mapping["in_flight"]) for mapping in told["mappings"]}

    wait_until(lambda: set(verdicts().values()) == {("equal", 0)}, lambda: f"{verdicts()} {rig.said()[-3000:]}")
    assert set(verdicts()) == set(MAPPINGS)
    # Parity reads both sides themselves; the ledger, which status reads, is told of a batch a moment after it landed.
    wait_until(lambda: standing(rig)["level"] == "good", lambda: json.dumps(standing(rig), indent=1))
    assert [mapping["mapping"] for mapping in standing(rig)["mappings"] if mapping["error"]] == []
    rig.stop(child)
    stored = rig.redis.call("HGETALL", "bridge:{hestai:state}:state:state/phase.txt")
    facts = dict(zip(stored[0::2], stored[1::2], strict=True))
    assert (facts[b"data"], facts[b"sha256"].decode()) == (last, hashlib.sha256(last).hexdigest())
    inbox = [json.loads(path.read_bytes())["uuid"] for path in (rig.root / "inbox").glob("*.json")]
    assert len(inbox) == len(set(inbox)) == int(rig.redis.call("XLEN", "hestai:inbox"))
    told = rig.redis.call("HGETALL", "bridge:{hestai:messages}:artifacts")
    assert len(told) // 2 == len([*(rig.root / "artifacts" / "wind").iterdir()])
    loses_its_ledger(rig)
    assert set(verdicts().values()) == {("equal", 0)}


def loses_its_ledger(rig: Rig) -> None:
    """Repair rebuilds it, and of no kind of source is anything carried again."""

    def lengths() -> list[int]:
        keys = [f"hestai:{name}" for name in ("messages", "roles", "debates", "inbox", "context", "state", "artifacts")]
        return [int(rig.redis.call("XLEN", key)) for key in keys]

    before, files = lengths(), len(rig.lines()) + len([*(rig.root / "inbox").iterdir()])
    for path in rig.state.glob("ledger.db*"):
        path.unlink()
    args = ("--redis", rig.server.socket_url)
    assert rig.run("run", "--once", "--dual", *args).returncode == 1
    done = rig.run("repair", "--execute", *args)
    assert done.returncode == 0, done.stdout + done.stderr
    done = rig.run("run", "--once", "--dual", *args)
    assert done.returncode == 0, done.stdout + done.stderr
    assert lengths() == before
    assert len(rig.lines()) + len([*(rig.root / "inbox").iterdir()]) == files
