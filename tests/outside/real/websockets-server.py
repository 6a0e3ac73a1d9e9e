"""The PyPI package `websockets` as a backend: compression on, and its keep-alive pings (on by default) made frequent.

Prints its port. Answers as ws-server.js does.
"""

import asyncio

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def converse(socket):
    try:
        await answer(socket)
    except ConnectionClosed:
        pass  # The other side is told the code; that is where it is looked at.


async def answer(socket):
    async for message in socket:
        word, *rest = message.split(" ") if isinstance(message, str) else [None]
        if word == "burst":
            for n in range(1, int(rest[0]) + 1):
                await socket.send(str(n) if n % 3 else str(n).encode())
        elif word == "pings":
            for _ in range(int(rest[0])):
                await asyncio.wait_for(await socket.ping(), 5)
            await socket.send(f"ponged {rest[0]}")
        elif word == "extensions":
            await socket.send(", ".join(extension.name for extension in socket.protocol.extensions) or "none")
        elif word == "close":
            await socket.close(int(rest[0]), " ".join(rest[1:]))
        else:
            await socket.send(message)


def first(_connection, offered):
    return offered[0] if offered else None


async def main():
    async with serve(
        converse, "127.0.0.1", 0, select_subprotocol=first, ping_interval=0.1, ping_timeout=5, max_size=2**22
    ) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


asyncio.run(main())
