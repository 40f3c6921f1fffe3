"""The rooms of a process, beside python-socketio's own manager."""

from __future__ import annotations

from typing import Any

import socketio
from hypothesis import given
from hypothesis import strategies as st

from anyio_sio_pg import AnyIOManager

SIDS = ("s1", "s2", "s3")
ROOMS = ("a", "b", 7)
NAMESPACES = ("/", "/n")

steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["connect", "enter", "leave", "close", "leaving", "disconnect", "callback"]
        ),
        st.sampled_from(NAMESPACES),
        st.sampled_from(SIDS),
        st.sampled_from((*ROOMS, *SIDS)),
    ),
    max_size=40,
)


def do(manager: Any, step: tuple[str, str, str, Any]) -> Any:
    kind, namespace, sid, room = step
    connected = sid in manager.rooms.get(namespace, {}).get(None, {})
    if connected == (kind == "connect") and kind != "close":
        # the server does not do that
        return None
    try:
        if kind == "connect":
            manager.basic_enter_room(sid, namespace, None, eio_sid=f"eio-{sid}")
            return manager.basic_enter_room(sid, namespace, sid, eio_sid=f"eio-{sid}")
        if kind == "enter":
            return manager.basic_enter_room(sid, namespace, room)
        if kind == "leave":
            return manager.basic_leave_room(sid, namespace, room)
        if kind == "close":
            return manager.basic_close_room(room, namespace)
        if kind == "leaving":
            return manager.pre_disconnect(sid, namespace)
        if kind == "callback":
            return manager._generate_ack_id(sid, print)
        return manager.basic_disconnect(sid, namespace)
    except (ValueError, KeyError) as exc:
        return type(exc)


@given(steps)
def test_they_are_those_of_the_stock_manager(script: list[tuple[str, str, str, Any]]) -> None:
    ours, stock = AnyIOManager(), socketio.AsyncManager()
    for step in script:
        assert do(ours, step) == do(stock, step)
        assert ours.rooms == stock.rooms
        for namespace in NAMESPACES:
            for sid in SIDS:
                assert set(ours.get_rooms(sid, namespace)) == set(stock.get_rooms(sid, namespace))
        assert ours.pending_disconnect == stock.pending_disconnect
        assert ours.callbacks.keys() == stock.callbacks.keys()
    for namespace in NAMESPACES:
        for sid in SIDS:
            do(ours, ("disconnect", namespace, sid, None))
    assert (ours.rooms, ours._rooms_by_sid) == ({}, {})
