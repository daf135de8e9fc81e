"""A server of tools in an event loop, as MCP servers are: a JSON call a line. It talks to others through a log file."""

import asyncio
import json
import sys

import bridge


async def main() -> None:
    """Answers each call, of which it tells the others, and says on stderr what they say."""
    log = await bridge.aio.open_log("hestai-message", component="ui")

    async def listen() -> None:
        async for message in log.follow():
            role, text = message.role, message.text
            if role != "ui":
                print(role, text, file=sys.stderr, flush=True)

    listening = asyncio.create_task(listen())
    calls = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(calls), sys.stdin)
    while line := await calls.readline():
        call = json.loads(line)
        await log.append("tool_call", call["tool"])
        print(json.dumps({"id": call["id"], "result": "done"}), flush=True)
    listening.cancel()
    await log.close()


asyncio.run(main())
