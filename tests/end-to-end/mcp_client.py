"""Makes calls of an MCP server with the official client, and prints what came of them.

One JSON object comes in on standard input:
  {"server": {"command": [...], "env": {...}} | {"url": "...", "key": "..."},
   "calls": [{"tool": "...", "arguments": {...}, "cancel_on": "text" | null}, ...]}
An argument that is the text "$N.field" stands for that field of call N's structured content.
One JSON object goes out: {"server", "protocol", "instructions", "tools": [...], "results": [...]}.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

# Seconds until a call is given up.
PATIENCE = 120.0


def resolved(arguments: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, Any]:
    def value(given: Any) -> Any:
        if isinstance(given, str) and given.startswith("$"):
            number, field = given[1:].split(".", 1)
            return results[int(number)]["structured"][field]
        return given

    return {name: value(given) for name, given in arguments.items()}


async def call(client: Client, asked: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, Any]:
    progress: list[str] = []
    seen = asyncio.Event()

    async def on_progress(amount: float, total: float | None, message: str | None) -> None:
        progress.append(message or "")
        if asked.get("cancel_on") and asked["cancel_on"] in (message or ""):
            seen.set()

    arguments = resolved(asked.get("arguments", {}), results)
    task = asyncio.create_task(client.call_tool(asked["tool"], arguments, progress_callback=on_progress))
    if asked.get("cancel_on"):
        await asyncio.wait_for(seen.wait(), PATIENCE)
        task.cancel()
        await asyncio.wait([task], timeout=PATIENCE)
        return {"cancelled": task.cancelled(), "progress": progress, "structured": {}}
    try:
        result = await asyncio.wait_for(task, PATIENCE)
    except Exception as error:  # what the protocol refuses
        return {"refused": f"{type(error).__name__}: {error}", "structured": {}}
    return {
        "is_error": bool(result.is_error),
        "structured": result.structured_content or {},
        "content": [part.model_dump(mode="json", by_alias=True, exclude_none=True) for part in result.content],
        "progress": progress,
    }


async def converse(client: Client, calls: list[dict[str, Any]]) -> dict[str, Any]:
    tools = (await client.list_tools()).tools
    results: list[dict[str, Any]] = []
    for asked in calls:
        results.append(await call(client, asked, results))
    info = client.server_info
    return {
        "server": info.name if info else None,
        "protocol": client.protocol_version,
        "instructions": client.instructions,
        "tools": [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in tools],
        "results": results,
    }


async def main() -> None:
    order = json.load(sys.stdin)
    server = order["server"]
    if "command" in server:
        program, *args = server["command"]
        parameters = StdioServerParameters(command=program, args=args, env=server.get("env"))
        async with Client(parameters, mode=order.get("mode", "auto")) as client:
            told = await converse(client, order["calls"])
    else:
        headers = {"Authorization": f"Bearer {server['key']}"}
        async with httpx2.AsyncClient(headers=headers, timeout=PATIENCE) as http:
            transport = streamable_http_client(server["url"], http_client=http)
            async with Client(transport, mode=order.get("mode", "auto")) as client:
                told = await converse(client, order["calls"])
    print(json.dumps(told))


asyncio.run(main())
