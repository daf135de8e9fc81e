"""Carries append-only files into Redis Streams and back, exactly once, while both are in use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge import aio
    from bridge.client.component_log import Log
    from bridge.client.log_handler import BridgeHandler, BridgeQueueHandler
    from bridge.client.log_set import LogSet
    from bridge.client.message import Message
    from bridge.client.opening import open_log
    from bridge.client.rotation import Rotation

__version__ = "0.1.0"
__all__ = ["BridgeHandler", "BridgeQueueHandler", "Log", "LogSet", "Message", "Rotation", "aio", "open_log"]


def __getattr__(name: str) -> Any:
    """What a component imports, when it is asked for: the commands need none of it."""
    if name == "aio":
        return import_module("bridge.aio")
    rooms = {
        "BridgeHandler": "log_handler", "BridgeQueueHandler": "log_handler", "Log": "component_log",
        "LogSet": "log_set", "Message": "message", "Rotation": "rotation", "open_log": "opening",
    }  # fmt: skip
    if name not in rooms:
        raise AttributeError(f"module 'bridge' has no attribute {name!r}")
    return getattr(import_module(f"bridge.client.{rooms[name]}"), name)
