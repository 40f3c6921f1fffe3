"""The Engine.IO protocol, version 4: a class for each section of its document.

What the document leaves open is as in the reference implementation.
"""

from __future__ import annotations

import base64
import gzip
import json
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing
from functools import partial
from http.client import HTTPConnection
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import quote

import engineio
import pytest

from anyio_sio_pg import AnyIOEngineServer
from raw_clients import (
    TIMEOUT,
    Log,
    Polling,
    Response,
    Site,
    Sites,
    Socket,
    handshake,
    sites,
    until,
)
from serving import HOST, KINDS

Start = Callable[..., Site]
"""Starts the server that has these options, or returns the one that runs already."""

HEARTBEAT = {"ping_interval": 0.3, "ping_timeout": 0.2}
"""For clients that do not answer."""
PATIENT_HEARTBEAT = {"ping_interval": 0.3, "ping_timeout": 10}
"""For clients that answer, on a busy machine, too."""
LOST_HEARTBEAT = {"ping_interval": 0.3, "ping_timeout": 2}
"""For clients that do something, and do not answer afterwards."""
SMALL = {"max_http_buffer_size": 1_000}


@asynccontextmanager
async def make_app(log: Log, **options: Any) -> AsyncIterator[Any]:
    """Serve echoes."""
    async with AnyIOEngineServer(shutdown_timeout=5, **options) as server:

        @server.on("connect")
        async def connect(sid: str, environ: dict[str, Any]) -> bool:
            log.add(sid, "connect")
            return "refuse=1" not in environ["QUERY_STRING"]

        @server.on("message")
        async def message(sid: str, data: Any) -> None:
            log.add(sid, "message", data)
            await server.send(sid, data)
            log.add(sid, "echoed", data)
            if data == "goodbye":
                await server.disconnect(sid)

        @server.on("disconnect")
        async def disconnect(sid: str, reason: str) -> None:
            log.add(sid, "disconnect", reason)

        yield log.watching(engineio.ASGIApp(server))
        # the sessions that the tests have left do not poll any more
        server.shutdown_timeout = 0.2


@pytest.fixture(scope="module", params=KINDS, ids=str)
def servers(request: pytest.FixtureRequest) -> Iterator[Sites]:
    with sites(request.param, make_app, "/engine.io/") as started:
        yield started


@pytest.fixture
def start(servers: Sites) -> Iterator[Start]:
    with ExitStack() as clients:
        yield partial(servers, clients)


@pytest.fixture
def site(start: Start) -> Site:
    return start()


def goes_on(session: Polling | Socket) -> bool:
    """Whether a session still carries messages, and nothing else has come before this one."""
    if isinstance(session, Polling):
        session.say("4still there")
        return session.poll().packets == ["4still there"]
    session.send("4still there")
    return session.read() == "4still there"


def goes_on_after_noops(session: Polling) -> bool:
    """Whether a session goes on; an upgrade that was given up may have left it NOOPs."""
    session.say("4still there")
    packets: list[str] = []
    until(lambda: packets.extend(without_noops(session.poll().packets)) or packets)
    return packets == ["4still there"]


def without_noops(packets: Iterable[Any]) -> list[Any]:
    return [packet for packet in packets if packet != "6"]


def without_close(packets: Iterable[Any]) -> list[Any]:
    """Leave the CLOSE packet out: that the connection ends says as much."""
    return [packet for packet in packets if packet != "1"]


def assert_closed(site: Site, session: Polling) -> None:
    site.log.wait(session.sid, "disconnect")
    assert session.is_closed()


class TestHandshake:
    def test_polling(self, site: Site) -> None:
        response = site.get()
        assert response.status == 200
        assert response.headers["content-type"].lower() == "text/plain; charset=utf-8"
        details = handshake(response.text)
        sid = details.pop("sid")
        assert isinstance(sid, str)
        assert sid
        assert details == {
            "upgrades": ["websocket"],
            "pingInterval": 25_000,
            "pingTimeout": 20_000,
            "maxPayload": 1_000_000,
        }
        site.log.wait(sid, "connect")

    def test_websocket(self, site: Site) -> None:
        _, details = site.websocket()
        sid = details.pop("sid")
        assert isinstance(sid, str)
        assert sid
        assert details == {
            "upgrades": [],
            "pingInterval": 25_000,
            "pingTimeout": 20_000,
            "maxPayload": 1_000_000,
        }
        site.log.wait(sid, "connect")

    def test_session_ids_differ(self, site: Site) -> None:
        assert len({site.polling().sid for _ in range(5)}) == 5

    def test_fractions_of_a_second_are_announced(self, start: Start) -> None:
        site = start(**HEARTBEAT)
        for details in (site.polling().details, site.websocket()[1]):
            assert details["pingInterval"] == 300
            assert details["pingTimeout"] == 200

    def test_the_maximum_payload_is_announced(self, start: Start) -> None:
        site = start(**SMALL)
        assert site.polling().details["maxPayload"] == 1_000
        assert site.websocket()[1]["maxPayload"] == 1_000

    def test_upgrades_that_are_not_allowed_are_not_announced(self, start: Start) -> None:
        assert start(allow_upgrades=False).polling().details["upgrades"] == []

    @pytest.mark.parametrize("version", [None, "abc", "3", "5"])
    def test_an_invalid_version(self, site: Site, version: str | None) -> None:
        assert site.get(EIO=version).status == 400
        assert site.refuses(EIO=version)

    @pytest.mark.parametrize("transport", [None, "abc", "webtransport"])
    def test_an_invalid_transport(self, site: Site, transport: str | None) -> None:
        assert site.get(transport=transport).status == 400
        assert site.refuses(transport=transport)

    def test_a_transport_that_is_turned_off(self, start: Start) -> None:
        only_polling = start(transports=["polling"])
        assert only_polling.polling().details["upgrades"] == []
        assert only_polling.refuses()
        only_websocket = start(transports=["websocket"])
        assert only_websocket.get().status == 400
        only_websocket.websocket()

    def test_a_transport_that_is_not_the_connections(self, site: Site) -> None:
        assert site.get(transport="websocket").status == 400
        assert site.refuses(transport="polling")

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
    def test_an_invalid_method(self, site: Site, method: str) -> None:
        assert site.request(method, site.target(), "4hello").status == 400

    def test_refused_by_the_application(self, site: Site) -> None:
        assert site.get(refuse="1").status in (401, 403)
        assert site.refuses(refuse="1")


class TestHTTPLongPolling:
    """The transport: what requests there are, and how they are answered."""

    def test_sending_is_answered_with_ok(self, site: Site) -> None:
        response = site.polling().post("4hello")
        assert (response.status, response.text) == (200, "ok")

    def test_receiving_waits_for_packets(self, site: Site) -> None:
        session = site.polling()
        poll = session.start_poll()
        session.say("4hello")
        response = poll.response()
        assert response is not None
        assert (response.status, response.text) == (200, "4hello")
        assert response.headers["content-type"].lower() == "text/plain; charset=utf-8"

    def test_an_unknown_session(self, site: Site) -> None:
        assert site.get(sid="unknown").status == 400
        assert site.request("POST", site.target(sid="unknown"), "4hello").status == 400
        assert site.refuses(sid="unknown")

    def test_a_session_without_its_transport(self, site: Site) -> None:
        session = site.polling()
        session.say("4hello")
        target = site.target(sid=session.sid, transport=None)
        assert site.request("GET", target).status == 400
        assert site.request("POST", target, "4hello").status == 400
        assert session.poll().packets == ["4hello"]

    def test_a_session_without_its_version(self, site: Site) -> None:
        session = site.polling()
        session.say("4hello")
        target = site.target(sid=session.sid, EIO=None)
        assert site.request("GET", target).status == 400
        assert site.request("POST", target, "4hello").status == 400
        assert session.poll().packets == ["4hello"]

    def test_another_transport_without_an_upgrade(self, site: Site) -> None:
        session = site.polling()
        assert site.get(sid=session.sid, transport="websocket").status == 400
        assert goes_on(session)

    @pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
    def test_an_invalid_method(self, site: Site, method: str) -> None:
        session = site.polling()
        assert site.request(method, session.target, "4hello").status == 400
        assert goes_on(session)

    def test_two_polls_at_once_close_the_session(self, site: Site) -> None:
        session = site.polling()
        first = session.start_poll()
        second = session.start_poll()
        answer = first.response()
        assert answer is not None
        assert (answer.status, answer.text) == (200, "1")
        answer = second.response()
        assert answer is not None
        assert answer.status == 400
        assert_closed(site, session)

    def test_two_posts_at_once_close_the_session(self, site: Site) -> None:
        session = site.polling()
        first = session.start_post(b"4he", length=6)
        assert session.post("4world").status == 400
        first.send(b"llo")
        answer = first.response()
        # its connection may have been cut
        assert answer is None or answer.status == 400
        assert_closed(site, session)
        assert site.log.of(session.sid, "message") == []

    def test_two_posts_at_once_end_a_pending_poll(self, site: Site) -> None:
        session = site.polling()
        poll = session.start_poll()
        session.start_post(b"4he", length=6)
        assert session.post("4world").status == 400
        answer = poll.response()
        assert answer is not None
        assert (answer.status, answer.text) == (200, "1")

    def test_a_cancelled_poll_closes_the_session(self, site: Site) -> None:
        session = site.polling()
        session.start_poll().abort()
        assert_closed(site, session)

    def test_a_cancelled_post_closes_the_session(self, site: Site) -> None:
        session = site.polling()
        session.start_post(b"4he", length=6).abort()
        assert_closed(site, session)
        assert site.log.of(session.sid, "message") == []

    def test_many_requests_on_one_connection(self, site: Site) -> None:
        session = site.polling()
        with closing(HTTPConnection(HOST, site.port, timeout=TIMEOUT)) as connection:
            for number in range(10):
                connection.request("POST", session.target, f"4{number}th")
                assert connection.getresponse().read() == b"ok"
                connection.request("GET", session.target)
                assert connection.getresponse().read() == b"4%dth" % number

    def test_sessions_do_not_disturb_each_other(self, site: Site) -> None:
        one, two = site.polling(), site.polling()
        polls = one.start_poll(), two.start_poll()
        two.say("4to two")
        one.say("4to one")
        answers = [poll.response() for poll in polls]
        assert [answer and answer.text for answer in answers] == ["4to one", "4to two"]

    def test_a_post_without_a_length(self, site: Site) -> None:
        session = site.polling()
        answer = post_in_chunks(session, [b"4hel", b"lo\x1e4wor", b"ld"])
        assert (answer.status, answer.text) == (200, "ok")
        assert session.hear(2) == ["4hello", "4world"]


class TestWebSocket:
    """The transport: which connections there are."""

    def test_a_second_connection_of_a_session(self, site: Site) -> None:
        client, details = site.websocket()
        assert site.refuses(sid=details["sid"])
        assert goes_on(client)

    def test_http_requests_with_its_session(self, site: Site) -> None:
        client, details = site.websocket()
        assert site.get(sid=details["sid"]).status == 400
        assert site.request("POST", site.target(sid=details["sid"]), "4hello").status == 400
        assert goes_on(client)

    def test_a_lost_connection_closes_the_session(self, site: Site) -> None:
        client, details = site.websocket()
        client.drop()
        site.log.wait(details["sid"], "disconnect")

    def test_a_closed_connection_closes_the_session(self, site: Site) -> None:
        client, details = site.websocket()
        client.close()
        site.log.wait(details["sid"], "disconnect")


class TestHeartbeat:
    @pytest.fixture
    def site(self, start: Start) -> Site:
        return start(**PATIENT_HEARTBEAT)

    def test_polling(self, site: Site) -> None:
        session = site.polling()
        for _ in range(3):
            assert session.poll().packets == ["2"]
            session.say("3")

    def test_websocket(self, site: Site) -> None:
        client, _ = site.websocket()
        for _ in range(3):
            assert client.read() == "2"
            client.send("3")

    def test_the_interval_is_kept(self, site: Site) -> None:
        started = time.monotonic()
        client, _ = site.websocket()

        def next_ping() -> float:
            assert client.read() == "2"
            client.send("3")
            return time.monotonic()

        pings = [next_ping() for _ in range(2)]
        # an interval that was cut to whole seconds would be 0 or 1 s
        assert pings[-1] - started > 0.5
        while pings[-1] - pings[-2] > 0.9:
            assert len(pings) < 10, pings
            pings.append(next_ping())

    def test_after_an_upgrade(self, site: Site) -> None:
        client = site.polling().upgrade()
        client.send("5")
        for _ in range(3):
            assert client.read() == "2"
            client.send("3")


class TestPingTimeout:
    @pytest.fixture
    def site(self, start: Start) -> Site:
        return start(**HEARTBEAT)

    @pytest.fixture
    def late_site(self, start: Start) -> Site:
        return start(**LOST_HEARTBEAT)

    def test_while_nobody_polls(self, site: Site) -> None:
        session = site.polling()
        assert site.log.wait(session.sid, "disconnect") == ["ping timeout"]
        assert session.is_closed()

    def test_answers_a_pending_poll(self, late_site: Site) -> None:
        session = late_site.polling()
        assert session.poll().packets == ["2"]
        assert session.poll().packets == ["1"]
        assert late_site.log.wait(session.sid, "disconnect") == ["ping timeout"]
        assert session.is_closed()

    def test_on_websocket(self, site: Site) -> None:
        client, details = site.websocket()
        assert client.rest() == ["2", "1"]
        assert site.log.wait(details["sid"], "disconnect") == ["ping timeout"]

    def test_after_pongs(self, late_site: Site) -> None:
        client, _ = late_site.websocket()
        for _ in range(2):
            assert client.read() == "2"
            client.send("3")
        assert client.rest() == ["2", "1"]

    def test_messages_are_no_pongs(self, late_site: Site) -> None:
        client, details = late_site.websocket()
        assert client.read() == "2"
        client.send("4hello")
        assert client.rest() == ["4hello", "1"]
        assert late_site.log.wait(details["sid"], "disconnect") == ["ping timeout"]

    def test_pings_are_the_servers(self, site: Site) -> None:
        client, details = site.websocket()
        client.send("2")
        assert "3" not in client.rest()
        site.log.wait(details["sid"], "disconnect")


class TestUpgrade:
    def test_from_polling_to_websocket(self, site: Site) -> None:
        session = site.polling()
        client = session.upgrade()
        assert session.poll().packets == ["6"]
        client.send("5", "4hello")
        assert client.read() == "4hello"

    def test_a_pending_poll_gets_a_noop(self, site: Site) -> None:
        session = site.polling()
        poll = session.start_poll()
        client = session.upgrade()
        answer = poll.response()
        assert answer is not None
        assert (answer.status, answer.text) == (200, "6")
        client.send("5", "4hello")
        assert client.read() == "4hello"

    def test_no_noop_comes_over_the_websocket(self, site: Site) -> None:
        client = site.polling().upgrade()
        client.send("5")
        assert goes_on(client)

    def test_buffered_packets_come_first_and_in_order(self, site: Site) -> None:
        session = site.polling()
        packets = [f"4{number}th" for number in range(20)]
        session.say(*packets)
        until(lambda: len(site.log.of(session.sid, "echoed")) == len(packets))
        client = session.upgrade()
        client.send("5", "4last")
        assert client.read_many(21) == [*packets, "4last"]

    def test_packets_during_an_upgrade_are_not_lost(self, site: Site) -> None:
        session = site.polling()
        client = session.upgrade()
        session.say("4during the upgrade", "bAQIDBA==")
        until(lambda: len(site.log.of(session.sid, "echoed")) == 2)
        client.send("5", "4afterwards")
        assert client.read_many(3) == ["4during the upgrade", b"\1\2\3\4", "4afterwards"]

    def test_http_requests_after_it_are_refused(self, site: Site) -> None:
        session = site.polling()
        client = session.upgrade()
        client.send("5")
        assert goes_on(client)
        assert session.poll().status == 400
        assert session.post("4by post").status == 400
        assert goes_on(client)
        assert site.log.of(session.sid, "disconnect") == []

    def test_another_websocket_after_it_is_refused(self, site: Site) -> None:
        session = site.polling()
        client = session.upgrade()
        client.send("5")
        assert goes_on(client)
        assert site.refuses(sid=session.sid)
        assert goes_on(client)
        assert site.log.of(session.sid, "disconnect") == []

    def test_another_websocket_during_it_is_refused(self, site: Site) -> None:
        session = site.polling()
        client = session.upgrade()
        assert site.refuses(sid=session.sid)
        client.send("5")
        assert goes_on(client)

    @pytest.mark.parametrize("probe", ["2", "2wrong", "3probe", "4hello", "abc", b"probe"])
    def test_a_wrong_probe_leaves_the_session_polling(self, site: Site, probe: str | bytes) -> None:
        session = site.polling()
        client = site.connect(sid=session.sid)
        client.send(probe)
        assert client.rest() == []
        assert goes_on(session)

    @pytest.mark.parametrize("packet", ["2wrong", "4hello", "6", "abc", b"5"])
    def test_something_else_than_the_upgrade_packet(self, site: Site, packet: str | bytes) -> None:
        session = site.polling()
        client = session.upgrade()
        client.send(packet)
        assert client.rest() == []
        assert goes_on_after_noops(session)

    def test_aborted_before_the_probe(self, site: Site) -> None:
        session = site.polling()
        site.connect(sid=session.sid).drop()
        assert goes_on(session)

    def test_aborted_after_the_probe(self, site: Site) -> None:
        session = site.polling()
        session.upgrade().drop()
        assert goes_on_after_noops(session)

    def test_closed_after_the_probe(self, site: Site) -> None:
        session = site.polling()
        session.upgrade().close()
        assert goes_on_after_noops(session)

    def test_tried_again_after_it_was_aborted(self, site: Site) -> None:
        session = site.polling()
        session.upgrade().close()
        assert goes_on_after_noops(session)
        client = session.upgrade()
        client.send("5")
        assert goes_on(client)

    @pytest.mark.parametrize(
        ("frames", "timeout"), [([], 0.2), (["2probe"], 2)], ids=["before", "after"]
    )
    def test_not_completed_in_time(
        self, site: Site, frames: list[str], timeout: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("anyio_sio_pg.server.engine_socket.UPGRADE_TIMEOUT", timeout)
        session = site.polling()
        client = site.connect(sid=session.sid)
        client.send(*frames)
        assert client.rest() == ["3probe"] * len(frames)
        assert goes_on_after_noops(session)

    def test_not_allowed(self, start: Start) -> None:
        site = start(allow_upgrades=False)
        session = site.polling()
        assert site.refuses(sid=session.sid)
        assert goes_on(session)

    def test_a_session_that_is_closed_meanwhile(self, site: Site) -> None:
        session = site.polling()
        client = session.upgrade()
        session.say("1")
        assert client.rest() == []
        assert_closed(site, session)


class TestMessage:
    def test_polling(self, site: Site) -> None:
        session = site.polling()
        session.say("4hello")
        assert session.poll().packets == ["4hello"]

    def test_websocket(self, site: Site) -> None:
        client, _ = site.websocket()
        client.send("4hello")
        assert client.read() == "4hello"

    def test_an_empty_message(self, site: Site) -> None:
        client, details = site.websocket()
        client.send("4", "4hello")
        assert client.read_many(2) == ["4", "4hello"]
        assert site.log.of(details["sid"], "message") == [[""], ["hello"]]

    def test_order(self, site: Site) -> None:
        client, _ = site.websocket()
        packets = [f"4{number}th" for number in range(200)]
        client.send(*packets)
        assert client.read_many(200) == packets

    def test_large_messages(self, site: Site) -> None:
        large = "4" + "x" * 999_999
        client, _ = site.websocket()
        client.send(large)
        assert client.read() == large
        session = site.polling()
        session.say(large)
        assert session.poll().packets == [large]


class TestClose:
    def test_by_a_polling_client(self, site: Site) -> None:
        session = site.polling()
        poll = session.start_poll()
        session.say("1")
        answer = poll.response()
        assert answer is not None
        assert (answer.status, answer.text) == (200, "6")
        assert_closed(site, session)

    def test_by_a_polling_client_that_does_not_poll(self, site: Site) -> None:
        session = site.polling()
        session.say("1")
        assert_closed(site, session)

    def test_packets_after_a_close_are_ignored(self, site: Site) -> None:
        session = site.polling()
        session.say("4before", "1", "4after")
        assert_closed(site, session)
        assert site.log.of(session.sid, "message") == [["before"]]

    def test_by_a_websocket_client(self, site: Site) -> None:
        client, details = site.websocket()
        client.send("1")
        assert client.rest() == []
        site.log.wait(details["sid"], "disconnect")

    def test_by_the_server_while_the_client_polls(self, site: Site) -> None:
        session = site.polling()
        poll = session.start_poll()
        session.say("4goodbye")
        answer = poll.response()
        assert answer is not None
        packets = answer.packets
        if "1" not in packets:
            packets += session.poll().packets
        assert without_noops(packets) == ["4goodbye", "1"]
        assert_closed(site, session)

    def test_by_the_server_while_the_client_does_not_poll(self, site: Site) -> None:
        session = site.polling()
        session.say("4goodbye")
        packets = []
        while "1" not in packets:
            packets += session.poll().packets
        assert without_noops(packets) == ["4goodbye", "1"]
        assert_closed(site, session)

    def test_by_the_server_on_websocket(self, site: Site) -> None:
        client, details = site.websocket()
        client.send("4goodbye")
        assert without_close(client.rest()) == ["4goodbye"]
        site.log.wait(details["sid"], "disconnect")


class TestPacketEncodingWithHTTPLongPolling:
    def test_several_packets(self, site: Site) -> None:
        session = site.polling()
        session.say("4test1", "4test2", "4test3")
        assert session.hear(3) == ["4test1", "4test2", "4test3"]

    def test_packets_that_wait_come_in_one_payload(self, site: Site) -> None:
        session = site.polling()
        session.say("4test1", "4test2", "4test3")
        until(lambda: len(site.log.of(session.sid, "echoed")) == 3)
        assert session.poll().packets == ["4test1", "4test2", "4test3"]

    def test_binary_is_base64(self, site: Site) -> None:
        session = site.polling()
        session.say("4hello", "bAQIDBA==")
        assert session.hear(2) == ["4hello", "bAQIDBA=="]

    def test_utf8(self, site: Site) -> None:
        session = site.polling()
        session.say("4€ 𝄞", "b" + base64.b64encode("€".encode()).decode())
        assert session.hear(2) == ["4€ 𝄞", "b4oKs"]

    def test_a_payload_of_many_packets_is_processed_whole(self, site: Site) -> None:
        session = site.polling()
        packets = [f"4{number}th" for number in range(50)]
        session.say(*packets)
        assert session.hear(50) == packets

    @pytest.mark.parametrize("packet", ["abc", "", "7", "x4hello", "-1", "٤"])
    def test_an_invalid_packet_closes_the_session(self, site: Site, packet: str) -> None:
        session = site.polling()
        answer = session.start("POST", packet.encode(), {}).response()
        # its connection may have been cut
        assert answer is None or answer.status == 400
        assert_closed(site, session)

    def test_an_invalid_packet_ends_a_pending_poll(self, site: Site) -> None:
        session = site.polling()
        poll = session.start_poll()
        session.start("POST", b"abc")
        answer = poll.response()
        assert answer is not None
        assert (answer.status, answer.text) == (200, "1")

    def test_nothing_after_an_invalid_packet_is_processed(self, site: Site) -> None:
        session = site.polling()
        answer = session.start("POST", b"4before\x1eabc\x1e4after").response()
        assert answer is None or answer.status == 400
        assert_closed(site, session)
        assert ["after"] not in site.log.of(session.sid, "message")

    def test_bytes_that_are_no_utf8(self, site: Site) -> None:
        session = site.polling()
        answer = session.start("POST", b"\xff\xfe").response()
        assert answer is None or answer.status == 400
        assert_closed(site, session)


class TestPacketEncodingWithWebSocket:
    def test_binary_is_sent_as_it_is(self, site: Site) -> None:
        client, _ = site.websocket()
        client.send(b"\1\2\3\4", b"", b"4hello")
        assert client.read_many(3) == [b"\1\2\3\4", b"", b"4hello"]

    def test_utf8(self, site: Site) -> None:
        client, _ = site.websocket()
        client.send("4€ 𝄞")
        assert client.read() == "4€ 𝄞"

    @pytest.mark.parametrize("packet", ["abc", "", "7", "x4hello", "٤"])
    def test_an_invalid_packet_closes_the_session(self, site: Site, packet: str) -> None:
        client, details = site.websocket()
        client.send(packet, "4after")
        assert without_close(client.rest()) == []
        site.log.wait(details["sid"], "disconnect")
        assert site.log.of(details["sid"], "message") == []


class TestMaximumPayload:
    """`max_http_buffer_size`, with either transport."""

    @pytest.fixture
    def site(self, start: Start) -> Site:
        return start(**SMALL)

    def test_a_post_of_that_size(self, site: Site) -> None:
        session = site.polling()
        packet = "4" + "x" * 999
        session.say(packet)
        assert session.poll().packets == [packet]

    @pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
    def test_a_post_that_is_larger(self, site: Site, chunked: bool) -> None:
        session = site.polling()
        packet = "4" + "x" * 1_000
        if chunked:
            answer = post_in_chunks(session, [packet[:600].encode(), packet[600:].encode()])
        else:
            answer = session.post(packet)
        assert answer.status in (400, 413)
        assert site.log.of(session.sid, "message") == []

    @pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
    def test_a_post_that_is_larger_closes_the_session(self, site: Site, chunked: bool) -> None:
        session = site.polling()
        packet = "4" + "x" * 1_000
        if chunked:
            post_in_chunks(session, [packet[:600].encode(), packet[600:].encode()])
        else:
            session.post(packet)
        assert_closed(site, session)

    def test_a_chunked_post_that_is_announced_as_small(self, site: Site) -> None:
        session = site.polling()
        answer = post_in_chunks(session, [b"4" + b"x" * 100] * 10)
        assert answer.status in (400, 413)
        assert site.log.of(session.sid, "message") == []

    def test_a_frame_of_that_size(self, site: Site) -> None:
        client, _ = site.websocket()
        packet = "4" + "x" * 999
        client.send(packet, b"x" * 1_000)
        assert client.read_many(2) == [packet, b"x" * 1_000]

    @pytest.mark.parametrize(
        "packet", ["4" + "x" * 1_000, b"x" * 1_001, "4" + "€" * 400], ids=["text", "binary", "utf8"]
    )
    def test_a_frame_that_is_larger_closes_the_session(
        self, site: Site, packet: str | bytes
    ) -> None:
        client, details = site.websocket()
        client.send(packet)
        assert without_close(client.rest()) == []
        site.log.wait(details["sid"], "disconnect")
        assert site.log.of(details["sid"], "message") == []

    def test_a_frame_that_is_larger_after_an_upgrade(self, site: Site) -> None:
        session = site.polling()
        client = session.upgrade()
        client.send("5", "4" + "x" * 1_000)
        assert without_close(client.rest()) == []
        assert_closed(site, session)
        assert site.log.of(session.sid, "message") == []

    def test_a_probe_that_is_larger(self, site: Site) -> None:
        session = site.polling()
        client = site.connect(sid=session.sid)
        client.send("2" + "x" * 1_000)
        assert client.rest() == []
        assert goes_on_after_noops(session)


class TestJSONP:
    """Polling by script tags, from the protocol's earlier versions."""

    def test_a_whole_session(self, site: Site) -> None:
        response = site.get(j="3")
        assert response.status == 200
        details = handshake(script(response, 3))
        target = site.target(sid=details["sid"], j="3")
        answer = site.request("POST", target, "d=" + quote("4hello\x1ebAQIDBA=="), FORM)
        assert (answer.status, answer.text) == (200, "ok")
        packets: list[str] = []
        while len(packets) < 2:
            packets += script(site.request("GET", target), 3).split("\x1e")
        assert packets == ["4hello", "bAQIDBA=="]

    def test_what_is_sent_is_a_valid_script(self, site: Site) -> None:
        details = handshake(script(site.get(j="0"), 0))
        message = '4 "quoted" \\ \r\n \t </script> \u2028\u2029 €'
        # another transport of the session: nothing of the form's own escapes is in the way
        site.request("POST", site.target(sid=details["sid"], j="0"), form(message), FORM)
        response = site.get(sid=details["sid"], j="0")
        assert script(response, 0) == message
        assert not {"\n", "\r", "\u2028", "\u2029"} & set(response.text)

    def test_newlines_are_escaped_by_the_form(self, site: Site) -> None:
        details = handshake(script(site.get(j="0"), 0))
        target = site.target(sid=details["sid"], j="0")
        site.request("POST", target, "d=" + quote("4one\\ntwo\\\\nthree"), FORM)
        assert script(site.request("GET", target), 0) == "4one\ntwo\\nthree"

    def test_an_invalid_index(self, site: Site) -> None:
        answer = site.get(j="alert(1)")
        assert answer.status == 400 or "alert" not in answer.text


FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def form(packet: str) -> str:
    """Encode a packet as a script's form does: a textarea may change plain newlines."""
    return "d=" + quote(packet.replace("\\n", "\\\\n").replace("\n", "\\n"))


def script(response: Response, index: int) -> str:
    """Return the payload that a script hands over."""
    assert response.status == 200
    start, end = f"___eio[{index}](", ");"
    assert response.text.startswith(start)
    assert response.text.endswith(end)
    payload = json.loads(response.text[len(start) : -len(end)])
    assert isinstance(payload, str)
    return payload


class TestCompression:
    LARGE = "4" + "x" * 5_000

    def test_gzip(self, site: Site) -> None:
        response = self.poll(site, "gzip, deflate, br")
        assert response.headers["content-encoding"] == "gzip"
        assert gzip.decompress(response.body).decode() == self.LARGE

    def test_deflate(self, site: Site) -> None:
        response = self.poll(site, "deflate")
        assert response.headers["content-encoding"] == "deflate"
        assert zlib.decompress(response.body).decode() == self.LARGE

    @pytest.mark.parametrize("encodings", ["", "identity", "br", "gzip;q=0, identity"])
    def test_not_asked_for(self, site: Site, encodings: str) -> None:
        response = self.poll(site, encodings)
        assert "content-encoding" not in response.headers
        assert response.text == self.LARGE

    def test_not_worth_it(self, site: Site) -> None:
        response = self.poll(site, "gzip", "4hello")
        assert "content-encoding" not in response.headers
        assert response.text == "4hello"

    def test_turned_off(self, start: Start) -> None:
        response = self.poll(start(http_compression=False), "gzip")
        assert "content-encoding" not in response.headers
        assert response.text == self.LARGE

    def test_threshold(self, start: Start) -> None:
        response = self.poll(start(compression_threshold=10), "gzip", "4" + "x" * 20)
        assert response.headers["content-encoding"] == "gzip"

    def poll(self, site: Site, encodings: str, packet: str = LARGE) -> Response:
        session = site.polling()
        session.say(packet)
        return site.request("GET", session.target, headers={"Accept-Encoding": encodings})


class TestCookie:
    def test_none_by_default(self, site: Site) -> None:
        assert "set-cookie" not in site.get().headers

    def test_the_handshake_sets_it(self, start: Start) -> None:
        site = start(cookie="io")
        response = site.get()
        sid = handshake(response.text)["sid"]
        cookie = SimpleCookie(response.headers["set-cookie"])["io"]
        assert cookie.value == sid
        assert cookie["path"] == "/"
        assert cookie["samesite"] == "Lax"

    def test_later_responses_do_not(self, start: Start) -> None:
        session = start(cookie="io").polling()
        assert "set-cookie" not in session.post("4hello").headers
        assert "set-cookie" not in session.poll().headers

    def test_attributes(self, start: Start) -> None:
        site = start(cookie={"name": "session", "path": "/app", "HttpOnly": True})
        response = site.get()
        cookie = SimpleCookie(response.headers["set-cookie"])["session"]
        assert cookie.value == handshake(response.text)["sid"]
        assert cookie["path"] == "/app"
        assert cookie["httponly"] is True


FOREIGN = "http://example.com"


class TestCORS:
    def test_the_same_origin(self, site: Site) -> None:
        origin = f"http://{HOST}:{site.port}"
        response = site.request("GET", site.target(), headers={"Origin": origin})
        assert response.status == 200
        assert response.headers["access-control-allow-origin"] == origin
        assert handshake(site.connect(origin).read_text())

    def test_another_origin_is_refused(self, site: Site) -> None:
        self.assert_refused(site, FOREIGN)

    def test_another_origin_is_refused_within_a_session(self, site: Site) -> None:
        session = site.polling()
        headers = {"Origin": FOREIGN}
        assert site.request("POST", session.target, "4hello", headers).status == 400
        assert site.request("GET", session.target, headers=headers).status == 400
        assert site.refuses(FOREIGN, sid=session.sid)
        assert goes_on(session)

    def test_any_origin(self, start: Start) -> None:
        self.assert_allowed(start(cors_allowed_origins="*"), FOREIGN)

    def test_a_list_of_origins(self, start: Start) -> None:
        site = start(cors_allowed_origins=[FOREIGN, "http://example.org"])
        self.assert_allowed(site, FOREIGN)
        self.assert_allowed(site, "http://example.org")
        self.assert_refused(site, "http://example.net")

    def test_no_origin(self, start: Start) -> None:
        site = start(cors_allowed_origins=[FOREIGN, "http://example.org"])
        response = site.get()
        assert response.status == 200
        assert "access-control-allow-origin" not in response.headers

    def test_no_checks(self, start: Start) -> None:
        site = start(cors_allowed_origins=[])
        response = site.request("GET", site.target(), headers={"Origin": FOREIGN})
        assert response.status == 200
        assert "access-control-allow-origin" not in response.headers

    def test_credentials(self, start: Start) -> None:
        for allowed in (True, False):
            site = start(cors_allowed_origins="*", cors_credentials=allowed)
            response = site.request("GET", site.target(), headers={"Origin": FOREIGN})
            credentials = response.headers.get("access-control-allow-credentials")
            assert credentials == ("true" if allowed else None)

    def test_preflight(self, start: Start) -> None:
        site = start(cors_allowed_origins="*")
        session = site.polling()
        response = site.request(
            "OPTIONS",
            session.target,
            headers={
                "Origin": FOREIGN,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "x-token",
            },
        )
        assert response.status in (200, 204)
        assert response.headers["access-control-allow-origin"] == FOREIGN
        assert "POST" in response.headers["access-control-allow-methods"]
        assert response.headers["access-control-allow-headers"] == "x-token"
        assert goes_on(session)

    def test_preflight_of_a_refused_origin(self, site: Site) -> None:
        headers = {"Origin": FOREIGN, "Access-Control-Request-Method": "POST"}
        response = site.request("OPTIONS", site.target(), headers=headers)
        assert response.status == 400
        assert "access-control-allow-origin" not in response.headers

    def test_every_response_has_the_headers(self, start: Start) -> None:
        site = start(cors_allowed_origins="*")
        session = site.polling()
        headers = {"Origin": FOREIGN}
        for response in (
            site.request("POST", session.target, "4hello", headers),
            site.request("GET", session.target, headers=headers),
            site.request("GET", site.target(sid="unknown"), headers=headers),
        ):
            assert response.headers["access-control-allow-origin"] == FOREIGN

    def assert_allowed(self, site: Site, origin: str) -> None:
        response = site.request("GET", site.target(), headers={"Origin": origin})
        assert response.status == 200
        assert response.headers["access-control-allow-origin"] == origin
        assert handshake(site.connect(origin).read_text())

    def assert_refused(self, site: Site, origin: str) -> None:
        response = site.request("GET", site.target(), headers={"Origin": origin})
        assert response.status == 400
        assert "access-control-allow-origin" not in response.headers
        assert site.refuses(origin)


def post_in_chunks(session: Polling, chunks: list[bytes]) -> Response:
    """Post a body whose length is not said."""
    encoded = [b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""]]
    headers = {"Transfer-Encoding": "chunked"}
    exchange = session.start("POST", encoded[0], headers)
    exchange.send(b"".join(encoded[1:]))
    answer = exchange.response()
    assert answer is not None
    return answer
