"""Carries append-only files into Redis Streams and back, exactly once, while both are in use."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge.client.component_log import Log, open_log
    from bridge.client.message import Message

__version__ = "0.1.0"
__all__ = ["Log", "Message", "open_log"]


def __getattr__(name: str) -> Any:
    """What a component imports, when it is asked for: the commands need none of it."""
    if name in ("Log", "open_log"):
        from bridge.client import component_log

        return getattr(component_log, name)
    if name == "Message":
        from bridge.client.message import Message

        return Message
    raise AttributeError(f"module 'bridge' has no attribute {name!r}")
