"""A door on the bridge that containers see, to servers that listen on loopback only. It passes bytes on as they are, to
the first of its servers that takes the connection, as a load balancer would; it knows nothing of what they say."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress


class Forwarder:
    """Listens on `host` and a free port from `start` to `stop`; `ports` are of servers on this machine."""

    def __init__(self, host: str, ports: Sequence[int]):
        self._host = host
        self._ports = ports
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="forwarder", daemon=True)
        self.port = 0

    def start(self) -> None:
        self._thread.start()
        opened = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._pass_on, self._host, 0), self._loop)
        self._server = opened.result(10)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        mine = asyncio.current_task()
        open_now = [task for task in asyncio.all_tasks() if task is not mine]
        for task in open_now:
            task.cancel()
        await asyncio.gather(*open_now, return_exceptions=True)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            behind = await self._connect()
            if behind is not None:
                await asyncio.gather(_pump(reader, behind[1]), _pump(behind[0], writer))
        except asyncio.CancelledError:
            pass  # the end of the test: nobody waits for this connection any more
        finally:
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for port in self._ports:
            with suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", port)
        return None


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the reader's end, which is passed on as well; a connection that breaks ends both ways."""
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()
