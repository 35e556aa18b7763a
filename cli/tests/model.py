"""Drives `rollcall mcp` by the official client: lists, reads, and is refused a write. Prints what it found as JSON."""

import asyncio
import json
import os
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client


async def drive(*flags):
    names = ("ROLLCALL_URL", "ROLLCALL_OPERATOR_TOKEN")
    server = StdioServerParameters(command=sys.argv[1], args=["mcp", *flags], env={name: os.environ[name] for name in names})
    async with stdio_client(server) as (reads, writes), ClientSession(reads, writes) as session:
        started = await session.initialize()
        await session.send_ping()
        tools = await session.list_tools()

        async def call(tool, **arguments):
            result = await session.call_tool(tool, arguments)
            return {"is_error": result.isError, "text": result.content[0].text}

        return {
            "server": started.serverInfo.name,
            "tools": [each.name for each in tools.tools],
            "read_only": [each.name for each in tools.tools if each.annotations.readOnlyHint],
            "fleet": await call("fleet"),
            "list_agents": await call("list_agents", name="mod"),
            "agent": await call("agent", agent="model"),
            "nobody": await call("agent", agent="nobody"),
            "timeline": await call("timeline", agent="model", limit=5),
            "alerts": await call("alerts"),
            "pause": await call("pause", agent="model", reason="a test"),
        }


async def main():
    print(json.dumps({"reads": await drive(), "writes": await drive("--allow-writes")}))


asyncio.run(main())
