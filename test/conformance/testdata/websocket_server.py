# Echoes what it gets, with Debian's python3-websockets. "close CODE REASON"
# makes it close the connection so. Prints its port.
import asyncio
import websockets


async def serve(ws):
    async for message in ws:
        if isinstance(message, str) and message.startswith("close "):
            _, code, reason = message.split(" ", 2)
            await ws.close(int(code), reason)
            return
        await ws.send(message)


async def main():
    async with websockets.serve(serve, "127.0.0.1", 0, max_size=2**25) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Future()


asyncio.run(main())
