"""The log of an asyncio component: `bridge.aio.open_log` (DESIGN §6.6)."""

from bridge.client.async_log import AsyncFollower, AsyncLog, AsyncLogSet
from bridge.client.async_opening import open_log

__all__ = ["AsyncFollower", "AsyncLog", "AsyncLogSet", "open_log"]
