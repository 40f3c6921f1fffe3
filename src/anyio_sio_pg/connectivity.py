"""Whether a node is connected, and hears what it sends."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio

from .errors import ConnectionLostError
from .postgres.listener import Listener
from .postgres.presence import deaf
from .postgres.publisher import Publisher
from .status import Status


@dataclass(eq=False)
class _Probe:
    namespace: str
    put_at: float
    committed_at: float | None = None
    heard: anyio.Event | None = None


class Connectivity:
    """A node's two sessions and its own heartbeats, which are to come back from one to the other.

    ``timeout`` is the seconds after which a node that is not connected, or does not hear itself,
    is isolated.
    """

    def __init__(
        self,
        cluster: str,
        uid: str,
        publisher: Publisher,
        listener: Listener,
        timeout: float,
        start_soon: Callable[[Callable[..., Awaitable[Any]], object], None],
    ):
        self._cluster = cluster
        self._uid = uid
        self._publisher = publisher
        self._listener = listener
        self._timeout = timeout
        self._start_soon = start_soon
        self._probes: dict[int, _Probe] = {}
        self._last_number = 0
        self._outage: object | None = None
        self._steady_since = -math.inf
        self._isolated = False
        self._unheard = False
        self._deaf = False
        self._doubting = False

    @property
    def status(self) -> Status:
        """Connected, reconnecting or isolated."""
        if self._deaf or self._unheard:
            return Status.ISOLATED
        if self._listener.connected and self._publisher.connected:
            return Status.CONNECTED
        return Status.ISOLATED if self._isolated else Status.RECONNECTING

    @property
    def steady(self) -> bool:
        """Whether the last outage, if any, is over for as long as the others may need, too."""
        since = anyio.current_time() - self._steady_since
        return self._outage is None and since >= self._timeout

    def behind(self, now: float, delay: float) -> bool:
        """Whether a heartbeat of this node's own takes more than ``delay`` seconds to come back.

        What the others sent since may be on its way as well.
        """
        sent = (probe.committed_at for probe in self._probes.values())
        return any(at is not None and now - at >= delay for at in sent)

    def look(self) -> None:
        """Take note of whether both sessions are there."""
        if self._listener.connected and self._publisher.connected:
            if self._outage is not None:
                self._steady_since = anyio.current_time()
            self._outage = None
            self._isolated = False
        elif self._outage is None:
            self._outage = object()
            self._start_soon(self._note_isolation, self._outage)

    async def _note_isolation(self, outage: object) -> None:
        # the status itself is also asked for from other threads, which have no loop's clock
        await anyio.sleep(self._timeout)
        if self._outage is outage:
            self._isolated = True

    def listening(self) -> None:
        """Take note that the listener has (re)connected: what was sent before does not come."""
        self._deaf = self._unheard = False
        self.look()
        for number in [n for n, probe in self._probes.items() if probe.heard is None]:
            del self._probes[number]

    def expect(self, namespace: str, heard: anyio.Event | None = None) -> int:
        """Return the number of a heartbeat that is to come back; ``heard`` is set when it does."""
        self._last_number += 1
        self._probes[self._last_number] = _Probe(namespace, anyio.current_time(), heard=heard)
        return self._last_number

    def committed(self, number: int) -> None:
        """Take note that a heartbeat is on its way."""
        if number in self._probes:
            self._probes[number].committed_at = anyio.current_time()

    def heard(self, number: int | None) -> None:
        """Take note that a heartbeat of this node's own has come back."""
        self._unheard = False
        probe = None if number is None else self._probes.pop(number, None)
        if probe is not None and probe.heard is not None:
            probe.heard.set()

    def forget(self, number: int) -> None:
        """Expect a heartbeat no more."""
        self._probes.pop(number, None)

    def forget_namespace(self, namespace: str) -> None:
        """Expect nothing more in a namespace."""
        for number in [n for n, probe in self._probes.items() if probe.namespace == namespace]:
            del self._probes[number]

    def listen_for_silence(self, now: float) -> None:
        """Reconnect the listener when it does not hear what this node has sent."""
        self._unheard = any(
            probe.heard is None and now - probe.put_at >= self._timeout
            for probe in self._probes.values()
        )
        if not self._listener.connected:
            return
        for probe in self._probes.values():
            sent = probe.committed_at
            if sent is not None and now - sent >= self._timeout:
                reason = (
                    f"it is deaf: a heartbeat of its own in namespace {probe.namespace} has not"
                    f" come back for {now - sent:.1f} s"
                )
                if now - self._listener.active_at >= self._timeout:
                    self._reconnect(reason)
                elif not self._doubting:
                    self._doubting = True
                    self._start_soon(self._doubt, reason)
                return

    async def _doubt(self, reason: str) -> None:
        """Reconnect the listener unless it is only behind with what it hears.

        What it hears may be of another server, where this node's own does not come.
        """
        try:
            elsewhere = await self._publisher.execute(
                partial(deaf, cluster=self._cluster, uids=[self._uid])
            )
        except ConnectionLostError:
            # what cannot be sent cannot come back either
            return
        finally:
            self._doubting = False
        if elsewhere:
            self._reconnect(reason)

    def _reconnect(self, reason: str) -> None:
        self._deaf = True
        self._listener.reconnect(reason)
