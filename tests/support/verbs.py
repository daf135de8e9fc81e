"""The commands that must work with every kind of server, each with its exit code, where the log has a broken line."""

from __future__ import annotations

EVERY: tuple[tuple[tuple[str, ...], int], ...] = (
    (("import-history", "--dry-run"), 3), (("import-history",), 0), (("run", "--dual", "--once"), 0), (("status",), 0),
    (("parity",), 0), (("parity", "--all-hosts"), 4), (("tail", "-n", "2"), 0), (("locate", "messages.log:1"), 0), (("quarantine", "list"), 0),
    (("quarantine", "retry"), 3), (("trim",), 0), (("acl",), 0), (("journal",), 0), (("files",), 0),
    (("runbook",), 0), (("repair",), 0), (("snapshot", "hestai-message", "kept"), 0),
)  # fmt: skip
