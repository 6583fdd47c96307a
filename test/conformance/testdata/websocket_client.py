# Talks to the echo server with Debian's python3-autobahn, and prints a line
# for each case: "ok NAME" or "failed NAME: WHY". Arguments: URL [CA].
import asyncio
import os
import ssl
import sys

from autobahn.asyncio.websocket import WebSocketClientFactory, WebSocketClientProtocol
from autobahn.websocket.compress import (
    PerMessageDeflateOffer,
    PerMessageDeflateResponse,
    PerMessageDeflateResponseAccept,
)

SIZES = [0, 1, 125, 126, 127, 128, 65535, 65536, 1 << 20]


class Client(WebSocketClientProtocol):
    def __init__(self):
        super().__init__()
        self.opened = asyncio.Future()
        self.messages = asyncio.Queue()
        self.pongs = asyncio.Queue()
        self.closed = asyncio.Future()

    def onOpen(self):
        self.opened.set_result(self.websocket_extensions_in_use)

    def onMessage(self, payload, isBinary):
        self.messages.put_nowait((payload, isBinary))

    def onPong(self, payload):
        self.pongs.put_nowait(payload)

    def onClose(self, wasClean, code, reason):
        if not self.closed.done():
            self.closed.set_result((wasClean, code, reason))


async def connect(url, tls, deflate=False):
    factory = WebSocketClientFactory(url)
    factory.protocol = Client
    if deflate:
        factory.setProtocolOptions(
            perMessageCompressionOffers=[PerMessageDeflateOffer()],
            perMessageCompressionAccept=lambda r: PerMessageDeflateResponseAccept(r)
            if isinstance(r, PerMessageDeflateResponse)
            else None,
        )
    _, client = await asyncio.get_running_loop().create_connection(
        factory, factory.host, factory.port, ssl=tls, server_hostname="shop.test" if tls else None
    )
    await client.opened
    return client


async def echo(client, payload, binary, fragment=None):
    client.sendMessage(payload, isBinary=binary, fragmentSize=fragment)
    got = await client.messages.get()
    assert got == (payload, binary), "got %d bytes, binary %s" % (len(got[0]), got[1])


def payload(size, binary):
    return os.urandom(size) if binary else ("grüße" * (size // 5 + 1)).encode()[:size].decode(errors="ignore").encode()


def echoes(size, binary, fragment, deflate):
    async def case(url, tls):
        client = await connect(url, tls, deflate)
        if deflate:
            assert client.websocket_extensions_in_use, "the extension was not agreed on"
        for _ in range(3):
            await echo(client, payload(size, binary), binary, fragment)
        client.sendClose(1000)
        clean, code, _ = await client.closed
        assert clean and code == 1000, (clean, code)

    return case


def pings(size, within):
    async def case(url, tls):
        client = await connect(url, tls)
        data = os.urandom(size)
        if within:
            client.beginMessage(isBinary=True)
            client.sendMessageFrame(b"first half, ")
        client.sendPing(data)
        assert await client.pongs.get() == data
        if within:
            client.sendMessageFrame(b"second half")
            client.endMessage()
            assert await client.messages.get() == (b"first half, second half", True)
        client.sendClose(1000)
        assert (await client.closed)[0]

    return case


def client_closes(code, reason):
    async def case(url, tls):
        client = await connect(url, tls)
        client.sendClose(code, reason)
        clean, got, _ = await client.closed
        assert clean and got == code, (clean, got)

    return case


def server_closes(code, reason):
    async def case(url, tls):
        client = await connect(url, tls)
        client.sendMessage(("close %d %s" % (code, reason)).encode())
        clean, got, why = await client.closed
        assert clean and got == code and why == reason, (clean, got, why)

    return case


def refused(name, send, code):
    async def case(url, tls):
        client = await connect(url, tls)
        send(client)
        _, got, _ = await client.closed
        assert got == code, got

    return case


async def many(url, tls):
    async def one(i):
        client = await connect(url, tls)
        for n in range(20):
            await echo(client, b"%d/%d" % (i, n), False)
        client.sendClose(1000)
        assert (await client.closed)[0]

    await asyncio.gather(*[one(i) for i in range(50)])


async def unasked_pong(url, tls):
    client = await connect(url, tls)
    client.sendPong(b"nobody asked")
    await echo(client, b"and on it goes", False)
    client.sendClose(1000)
    assert (await client.closed)[0]


def cases():
    for deflate in (False, True):
        for binary in (False, True):
            for size in SIZES:
                for fragment in (None, 64, 1000) if size in (127, 65536) else (None,):
                    name = "%s of %d bytes" % ("binary" if binary else "text", size)
                    name += ", frames of %d" % fragment if fragment else ""
                    name += ", compressed" if deflate else ""
                    yield name, echoes(size, binary, fragment, deflate)
    for size in (0, 1, 125):
        yield "ping of %d bytes" % size, pings(size, False)
        yield "ping of %d bytes between two frames of a message" % size, pings(size, True)
    yield "pong that nobody asked for", unasked_pong
    for code in (1000, 3000, 3999, 4000, 4999):
        yield "client closes with %d" % code, client_closes(code, "enough")
        yield "server closes with %d" % code, server_closes(code, "the reason")
    for code in (1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011):
        yield "server closes with %d" % code, server_closes(code, "the reason")
    yield "text that is not UTF-8", refused("utf8", lambda c: c.sendMessage(b"\xff\xfe"), 1007)
    yield "reserved opcode", refused("opcode", lambda c: c.sendFrame(opcode=5, payload=b"x"), 1002)
    yield "reserved bit", refused("rsv", lambda c: c.sendFrame(opcode=1, payload=b"x", rsv=4), 1002)
    yield "ping of 126 bytes", refused("long ping", lambda c: c.sendFrame(opcode=9, payload=b"x" * 126), 1002)
    yield "continuation of nothing", refused("cont", lambda c: c.sendFrame(opcode=0, payload=b"x"), 1002)
    yield "50 connections at once", many


async def main(url, ca=None):
    tls = ssl.create_default_context(cafile=ca) if ca else None
    for name, case in cases():
        try:
            await asyncio.wait_for(case(url, tls), 30)
            print("ok", name, flush=True)
        except Exception as e:
            print("failed %s: %r" % (name, e), flush=True)


asyncio.run(main(*sys.argv[1:]))
