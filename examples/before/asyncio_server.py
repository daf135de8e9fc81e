"""A server of tools in an event loop, as MCP servers are: a JSON call a line. It talks to others through a log file."""

import asyncio
import json
import sys
from datetime import UTC, datetime


async def main() -> None:
    """Answers each call, of which it tells the others, and says on stderr what they say."""
    log = "messages.log"

    async def listen() -> None:
        file = open(log)
        while True:
            if not (line := file.readline()):
                await asyncio.sleep(0.05)
                continue
            role, _, _, text = line.rstrip("\n").split("|", 3)
            if role != "ui":
                print(role, text, file=sys.stderr, flush=True)

    listening = asyncio.create_task(listen())
    calls = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(calls), sys.stdin)
    while line := await calls.readline():
        call = json.loads(line)
        with open(log, "a") as file:
            file.write(f"ui|{datetime.now(UTC).isoformat()}|tool_call|{call['tool']}\n")
        print(json.dumps({"id": call["id"], "result": "done"}), flush=True)
    listening.cancel()


asyncio.run(main())
