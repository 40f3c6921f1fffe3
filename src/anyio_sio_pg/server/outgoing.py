"""Packets on their way to one client."""

from __future__ import annotations

import anyio
from engineio.packet import Packet


class Outgoing:
    """What one client has not been sent yet, taken by one transport at a time.

    A put never waits and never yields, so that the frames of one event stay together.
    """

    __slots__ = ("_packets", "_wakeup", "closed")

    def __init__(self) -> None:
        self._packets: list[Packet] = []
        self._wakeup: anyio.Event | None = None
        self.closed = False

    def put_nowait(self, packet: Packet) -> None:
        """Add a packet; nothing once it is closed."""
        if self.closed:
            return
        self._packets.append(packet)
        if self._wakeup is not None:
            self._wakeup.set()

    async def put(self, packet: Packet) -> None:
        """Add a packet."""
        self.put_nowait(packet)

    def take(self) -> list[Packet]:
        """Return all the packets, which are then no longer here."""
        packets, self._packets = self._packets, []
        return packets

    def __len__(self) -> int:
        return len(self._packets)

    def close(self) -> None:
        """Accept no more; what is here can still be taken."""
        self.closed = True
        self.wake()

    def wake(self) -> None:
        """Let the one that waits look again."""
        if self._wakeup is not None:
            self._wakeup.set()

    async def wait(self) -> None:
        """Return when there may be something to do."""
        if self._packets or self.closed:
            return
        wakeup = self._wakeup = anyio.Event()
        try:
            await wakeup.wait()
        finally:
            # unless another transport waits by now
            if self._wakeup is wakeup:
                self._wakeup = None
