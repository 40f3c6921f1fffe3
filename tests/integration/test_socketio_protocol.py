"""The Socket.IO protocol, version 5: a class for each section of its document.

What the document leaves open is as in the reference implementation.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest
import socketio
from socketio.exceptions import ConnectionRefusedError

from anyio_sio_pg import AnyIOServer
from raw_clients import Log, Polling, Site, Sites, Socket, handshake, sites, until
from serving import KINDS

Start = Callable[..., Site]
"""Starts the server that has these options, or returns the one that runs already."""

HEARTBEAT = {"ping_interval": 1.0, "ping_timeout": 10}
"""Often, and patient with a busy machine."""
PLACEHOLDER = '{"_placeholder":true,"num":%d}'
ONE = PLACEHOLDER % 0
TWO = PLACEHOLDER % 1


@asynccontextmanager
async def make_app(log: Log, **options: Any) -> AsyncIterator[Any]:
    """Serve events that are named after what they do."""
    async with AnyIOServer(shutdown_timeout=5, **options) as server:
        for namespace in ("/", "/custom", "/other", "/greeting"):
            serve_namespace(server, namespace, log)
        for namespace, connect in REFUSALS.items():
            server.on("connect", connect, namespace=namespace)
        yield log.watching(socketio.ASGIApp(server))
        # the sessions that the tests have left do not poll any more
        server.eio.shutdown_timeout = 0.2


def serve_namespace(server: Any, namespace: str, log: Log) -> None:
    on = partial(server.on, namespace=namespace)
    emit = partial(server.emit, namespace=namespace)
    payloads: dict[str, Any] = {}

    @on("connect")
    async def connect(sid: str, environ: dict[str, Any], auth: Any = None) -> None:
        log.add(sid, "connect")
        payloads[sid] = auth or {}
        if namespace == "/greeting":
            await emit("hello", to=sid)

    @on("disconnect")
    async def disconnect(sid: str, reason: str) -> None:
        log.add(sid, "disconnect", reason)

    @on("message")
    async def message(sid: str, *args: Any) -> None:
        log.add(sid, "message", *args)
        await emit("message-back", args, to=sid)

    @on("message-with-ack")
    async def message_with_ack(sid: str, *args: Any) -> Any:
        return args

    @on("nothing")
    async def nothing(sid: str) -> None:
        log.add(sid, "nothing")

    @on("auth")
    async def auth(sid: str) -> Any:
        return payloads[sid]

    @on("join")
    async def join(sid: str, room: str) -> None:
        await server.enter_room(sid, room, namespace=namespace)

    @on("tell")
    async def tell(sid: str, room: str, *args: Any) -> None:
        await emit("told", args, room=room)

    @on("ask")
    async def ask(sid: str, *args: Any) -> None:
        async def answered(*answer: Any) -> None:
            log.add(sid, "answer", *answer)
            await emit("answered", answer, to=sid)

        await emit("question", args, to=sid, callback=answered)

    @on("call")
    async def call(sid: str, *args: Any) -> None:
        answer = await server.call("question", args, to=sid, namespace=namespace)
        await emit("answered", answer, to=sid)

    @on("leave")
    async def leave(sid: str) -> None:
        await server.disconnect(sid, namespace=namespace)


async def returns_false(sid: str, environ: dict[str, Any]) -> bool:
    return False


async def refuses(sid: str, environ: dict[str, Any]) -> None:
    raise ConnectionRefusedError("Not authorized")


async def refuses_with_details(sid: str, environ: dict[str, Any]) -> None:
    raise ConnectionRefusedError("Not authorized", {"code": 7})


async def breaks(sid: str, environ: dict[str, Any]) -> None:
    raise ValueError("a secret")


REFUSALS = {
    "/false": returns_false,
    "/refused": refuses,
    "/details": refuses_with_details,
    "/broken": breaks,
}


@pytest.fixture(scope="module", params=KINDS, ids=str)
def servers(request: pytest.FixtureRequest) -> Iterator[Sites]:
    with sites(request.param, make_app, "/socket.io/") as started:
        yield started


@pytest.fixture
def start(servers: Sites) -> Iterator[Start]:
    with ExitStack() as clients:
        yield partial(servers, clients)


@pytest.fixture
def site(start: Start) -> Site:
    return start()


def open_websocket(site: Site) -> Socket:
    """Open a session that has joined no namespace yet."""
    client, _ = site.websocket()
    return client


def join(client: Socket, namespace: str = "/") -> str:
    """Connect to a namespace; return the session id in it."""
    prefix = "" if namespace == "/" else f"{namespace},"
    client.send(f"40{prefix}")
    return joined(client.read_text(), prefix)


def joined(packet: str, prefix: str = "") -> str:
    """Return the session id that a CONNECT packet grants."""
    start = f"40{prefix}"
    assert packet.startswith(start), packet
    payload = json.loads(packet[len(start) :])
    assert list(payload) == ["sid"]
    sid = payload["sid"]
    assert isinstance(sid, str)
    assert sid
    return sid


def connect(site: Site, namespace: str = "/") -> Socket:
    client = open_websocket(site)
    join(client, namespace)
    return client


def connect_polling(site: Site) -> Polling:
    session = site.polling()
    session.say("40")
    joined(session.poll().text)
    return session


def goes_on(client: Socket, namespace: str = "") -> bool:
    """Whether events still come back, and nothing else has come before this one."""
    client.send(f'42{namespace}["message","still there"]')
    return client.read() == f'42{namespace}["message-back","still there"]'


def is_closed(client: Socket) -> bool:
    """Whether the server closes the connection, having said no more than that."""
    return client.rest() in ([], ["1"])


class TestConnectionToANamespace:
    def test_main(self, site: Site) -> None:
        client, details = site.websocket()
        sid = join(client)
        # the session's own id is a secret between it and the server
        assert sid != details["sid"]
        client.send('421["auth"]')
        assert client.read() == "431[{}]"

    def test_main_with_a_payload(self, site: Site) -> None:
        client = open_websocket(site)
        client.send('40{"token":"123"}')
        joined(client.read_text())
        client.send('421["auth"]')
        assert client.read() == '431[{"token":"123"}]'

    def test_main_by_its_name(self, site: Site) -> None:
        client = open_websocket(site)
        client.send('40/,{"token":"123"}')
        joined(client.read_text())
        client.send('42/,1["auth"]')
        assert client.read() == '431[{"token":"123"}]'

    def test_custom(self, site: Site) -> None:
        client = open_websocket(site)
        join(client, "/custom")
        client.send('42/custom,1["auth"]')
        assert client.read() == "43/custom,1[{}]"

    def test_custom_without_a_comma(self, site: Site) -> None:
        client = open_websocket(site)
        client.send("40/custom")
        joined(client.read_text(), "/custom,")

    def test_custom_with_a_payload(self, site: Site) -> None:
        client = open_websocket(site)
        client.send('40/custom,{"token":"abc"}')
        joined(client.read_text(), "/custom,")
        client.send('42/custom,1["auth"]')
        assert client.read() == '43/custom,1[{"token":"abc"}]'

    def test_several_at_once(self, site: Site) -> None:
        client = open_websocket(site)
        namespaces = ["/", "/custom", "/other"]
        assert len({join(client, namespace) for namespace in namespaces}) == 3
        assert goes_on(client)
        assert goes_on(client, "/custom,")
        assert goes_on(client, "/other,")

    def test_polling(self, site: Site) -> None:
        session = site.polling()
        poll = session.start_poll()
        session.say("40")
        answer = poll.response()
        assert answer is not None
        joined(answer.text)

    def test_several_in_one_payload(self, site: Site) -> None:
        session = site.polling()
        session.say("40", "40/custom,", "40/other,")
        packets = session.hear(3)
        prefixes = ["", "/custom,", "/other,"]
        assert len({*map(joined, packets, prefixes)}) == 3

    def test_a_query_string_is_ignored(self, site: Site) -> None:
        client = open_websocket(site)
        client.send("40/custom?token=1,")
        joined(client.read_text(), "/custom,")
        assert goes_on(client, "/custom,")

    def test_events_of_the_connect_handler_come_afterwards(self, site: Site) -> None:
        client = open_websocket(site)
        client.send("40/greeting,")
        joined(client.read_text(), "/greeting,")
        assert client.read() == '42/greeting,["hello"]'

    def test_events_of_the_connect_handler_when_all_are_let_in(self, start: Start) -> None:
        client = open_websocket(start(always_connect=True))
        client.send("40/greeting,")
        joined(client.read_text(), "/greeting,")
        assert client.read() == '42/greeting,["hello"]'

    def test_refused_when_all_are_let_in(self, start: Start) -> None:
        client = open_websocket(start(always_connect=True))
        client.send("40/refused,")
        joined(client.read_text(), "/refused,")
        assert client.read() == "41/refused,"
        join(client)
        assert goes_on(client)

    def test_unknown(self, site: Site) -> None:
        client = open_websocket(site)
        client.send("40/random")
        assert client.read() == '44/random,{"message":"Invalid namespace"}'
        client.send('40/random,{"token":"abc"}')
        assert client.read() == '44/random,{"message":"Invalid namespace"}'
        join(client)
        assert goes_on(client)

    def test_unknown_while_in_another(self, site: Site) -> None:
        client = connect(site)
        client.send("40/random,")
        assert client.read() == '44/random,{"message":"Invalid namespace"}'
        assert goes_on(client)

    @pytest.mark.parametrize(
        ("namespace", "payload"),
        [
            ("/false", {"message": "Connection rejected by server"}),
            ("/refused", {"message": "Not authorized"}),
            ("/details", {"message": "Not authorized", "data": {"code": 7}}),
        ],
    )
    def test_refused(self, site: Site, namespace: str, payload: dict[str, Any]) -> None:
        client = open_websocket(site)
        expected = f"44{namespace}," + json.dumps(payload, separators=(",", ":"))
        for _ in range(2):
            client.send(f"40{namespace},")
            assert client.read() == expected
        join(client)
        assert goes_on(client)

    def test_a_handler_that_fails_refuses(self, site: Site) -> None:
        client = open_websocket(site)
        client.send("40/broken,")
        packet = client.read_text()
        assert packet.startswith("44/broken,")
        assert isinstance(json.loads(packet.removeprefix("44/broken,"))["message"], str)
        assert "secret" not in packet
        join(client)
        assert goes_on(client)

    @pytest.mark.parametrize("namespace", ["", "/custom,"])
    def test_a_second_time_closes_the_connection(self, site: Site, namespace: str) -> None:
        client = open_websocket(site)
        client.send(f"40{namespace}")
        sid = joined(client.read_text(), namespace)
        client.send(f"40{namespace}")
        assert is_closed(client)
        site.log.wait(sid, "disconnect")

    @pytest.mark.parametrize(
        "packet",
        ["4abc", "4", '40"token"', "40[]", "40null", "40true", '40{"token"', "40/custom,[]"],
    )
    def test_an_invalid_one_closes_the_connection(self, site: Site, packet: str) -> None:
        client = open_websocket(site)
        client.send(packet)
        assert is_closed(client)

    @pytest.mark.parametrize(
        "packet",
        ['42["message"]', "41", "43[]", '431["message"]', "44{}", f'451-["message",{ONE}]'],
    )
    def test_another_packet_first_closes_the_connection(self, site: Site, packet: str) -> None:
        client = open_websocket(site)
        client.send(packet)
        if packet.startswith("45"):
            client.send(b"1")
        assert is_closed(client)

    def test_another_packet_first_closes_a_polling_session(self, site: Site) -> None:
        session = site.polling()
        session.post('42["message"]')
        assert ended(session)

    @pytest.mark.parametrize(
        "packet",
        ['42/custom,["message"]', "41/custom,", "43/custom,1[]", f'451-/custom,["m",{ONE}]'],
    )
    def test_a_packet_to_another_namespace_is_ignored(self, site: Site, packet: str) -> None:
        client = connect(site)
        client.send(packet)
        if packet.startswith("45"):
            client.send(b"1")
        assert goes_on(client)

    def test_an_event_to_one_that_refused_is_ignored(self, site: Site) -> None:
        client = connect(site)
        client.send("40/refused,")
        client.read()
        client.send('42/refused,["message"]')
        assert goes_on(client)

    def test_a_clients_connect_error_closes_the_connection(self, site: Site) -> None:
        client = connect(site)
        client.send('44{"message":"no"}')
        assert is_closed(client)


class TestConnectTimeout:
    """A session that joins no namespace in time is closed."""

    @pytest.fixture
    def site(self, start: Start) -> Site:
        return start(connect_timeout=1.0)

    def test_websocket(self, site: Site) -> None:
        assert is_closed(open_websocket(site))

    def test_polling(self, site: Site) -> None:
        session = site.polling()
        assert session.poll().packets == ["1"]
        assert session.is_closed()

    def test_refused(self, site: Site) -> None:
        client = open_websocket(site)
        client.send("40/refused,")
        assert client.read_text().startswith("44/refused,")
        assert is_closed(client)

    def test_after_an_upgrade(self, site: Site) -> None:
        client = site.polling().upgrade()
        client.send("5")
        assert is_closed(client)

    def test_a_session_that_joined_stays(self, site: Site) -> None:
        joined, left = connect(site, "/custom"), connect(site)
        left.send("41")
        # the last to come is the last to be closed
        assert is_closed(open_websocket(site))
        assert goes_on(joined, "/custom,")
        join(left)
        assert goes_on(left)


class TestSendingAndReceivingData:
    def test_main(self, site: Site) -> None:
        client = connect(site)
        client.send('42["message",1,"2",{"3":[true]}]')
        assert client.read() == '42["message-back",1,"2",{"3":[true]}]'

    def test_custom(self, site: Site) -> None:
        client = connect(site, "/custom")
        client.send('42/custom,["message",1,"2",{"3":[true]}]')
        assert client.read() == '42/custom,["message-back",1,"2",{"3":[true]}]'

    def test_polling(self, site: Site) -> None:
        session = connect_polling(site)
        session.say('42["message",1]', '42["message",2]')
        assert session.hear(2) == ['42["message-back",1]', '42["message-back",2]']

    def test_no_arguments(self, site: Site) -> None:
        client = connect(site)
        client.send('42["message"]')
        assert client.read() == '42["message-back"]'

    def test_all_of_json(self, site: Site) -> None:
        args = [None, True, -1.5, 1e100, '€ 𝄞 \u2028 \x1e " \\ \n', [[]], {"": {"a,b": "/"}}]
        client = connect(site)
        client.send("42" + json.dumps(["message", *args], ensure_ascii=False))
        assert json.loads(client.read_text()[2:]) == ["message-back", *args]

    def test_order(self, site: Site) -> None:
        client = connect(site)
        client.send(*(f'42["message",{number}]' for number in range(200)))
        assert client.read_many(200) == [f'42["message-back",{n}]' for n in range(200)]

    def test_many_in_one_payload(self, site: Site) -> None:
        session = connect_polling(site)
        session.say(*(f'42["message",{number}]' for number in range(50)))
        assert session.hear(50) == [f'42["message-back",{number}]' for number in range(50)]

    def test_names_of_what_json_does_not_have(self, site: Site) -> None:
        client = connect(site)
        client.send('42["message","NaN",{"Infinity":"-Infinity"}]', "40/NaN,")
        assert client.read() == '42["message-back","NaN",{"Infinity":"-Infinity"}]'
        assert client.read() == '44/NaN,{"message":"Invalid namespace"}'

    def test_an_unknown_event(self, site: Site) -> None:
        client = connect(site)
        client.send('42["unknown",1]', "42[7]")
        assert goes_on(client)

    def test_a_room(self, site: Site) -> None:
        one, two, other = connect(site), connect(site), connect(site)
        for client in (one, two):
            client.send('421["join","room of two"]')
            assert client.read() == "431[]"
        other.send('42["tell","room of two","news"]')
        assert one.read() == two.read() == '42["told","news"]'
        assert goes_on(other)

    @pytest.mark.parametrize("namespace", ["", "/custom,"])
    @pytest.mark.parametrize(
        "payload",
        [
            "",
            "{}",
            "[]",
            "[{}]",
            "[[]]",
            "[null]",
            "[true]",
            "null",
            "1",
            '"message"',
            '["message"',
            '["message",NaN]',
            '["message",[-Infinity]]',
        ],
    )
    def test_an_invalid_payload_closes_the_connection(
        self, site: Site, namespace: str, payload: str
    ) -> None:
        client = open_websocket(site)
        client.send(f"40{namespace}")
        sid = joined(client.read_text(), namespace)
        client.send(f"42{namespace}{payload}")
        assert is_closed(client)
        site.log.wait(sid, "disconnect")

    @pytest.mark.parametrize(
        "name",
        [
            "connect",
            "connect_error",
            "disconnect",
            "disconnecting",
            "newListener",
            "removeListener",
        ],
    )
    def test_a_reserved_name_closes_the_connection(self, site: Site, name: str) -> None:
        client = open_websocket(site)
        sid = join(client)
        client.send(f'42["{name}"]')
        assert is_closed(client)
        site.log.wait(sid, "disconnect")
        # the handlers of that name ran once, for the connection itself
        assert len(site.log.of(sid, "connect")) == len(site.log.of(sid, "disconnect")) == 1

    def test_a_reserved_name_with_binary_closes_the_connection(self, site: Site) -> None:
        client = connect(site)
        client.send(f'451-["connect",{ONE}]', b"1")
        assert is_closed(client)

    @pytest.mark.parametrize(
        "packet", ["4abc", "47", '48["message"]', '4x["message"]', "4-1", '4٢["message"]']
    )
    def test_an_unknown_type_closes_the_connection(self, site: Site, packet: str) -> None:
        client = connect(site)
        client.send(packet)
        assert is_closed(client)

    def test_an_invalid_packet_closes_a_polling_session(self, site: Site) -> None:
        session = connect_polling(site)
        session.post("42{}")
        assert ended(session)

    def test_nothing_after_an_invalid_packet_is_processed(self, site: Site) -> None:
        session = site.polling()
        session.say("40")
        sid = joined(session.poll().text)
        session.post('42["message","before"]', "42{}", '42["message","after"]')
        assert ended(session)
        site.log.wait(sid, "disconnect")
        assert ["after"] not in site.log.of(sid, "message")


class TestSendingAndReceivingBinaryData:
    def test_main(self, site: Site) -> None:
        client = connect(site)
        client.send(f'451-["message",{ONE}]', b"\1\2\3\4")
        assert client.read_many(2) == [f'451-["message-back",{ONE}]', b"\1\2\3\4"]

    def test_custom(self, site: Site) -> None:
        client = connect(site, "/custom")
        client.send(f'452-/custom,["message",{ONE},{TWO}]', b"\1\2", b"\3\4")
        expected = [f'452-/custom,["message-back",{ONE},{TWO}]', b"\1\2", b"\3\4"]
        assert client.read_many(3) == expected

    def test_polling(self, site: Site) -> None:
        session = connect_polling(site)
        session.say(f'452-["message",{ONE},{TWO}]', "bAQID", "bBAUG")
        assert session.hear(3) == [f'452-["message-back",{ONE},{TWO}]', "bAQID", "bBAUG"]

    def test_polling_in_several_posts(self, site: Site) -> None:
        session = connect_polling(site)
        for packet in (f'452-["message",{ONE},{TWO}]', "bAQID", "bBAUG"):
            session.say(packet)
        assert session.hear(3) == [f'452-["message-back",{ONE},{TWO}]', "bAQID", "bBAUG"]

    def test_within_the_payload(self, site: Site) -> None:
        client = connect(site)
        payload = f'["message",{{"a":[{ONE},"text"],"b":{{"c":{TWO}}}}}]'
        client.send(f"452-{payload}", b"", b"\xff" * 70_000)
        expected = f"452-{payload}".replace("message", "message-back")
        assert client.read_many(3) == [expected, b"", b"\xff" * 70_000]

    def test_placeholders_in_another_order(self, site: Site) -> None:
        client = connect(site)
        client.send(f'452-["message",{TWO},{ONE}]', b"one", b"two")
        expected = [f'452-["message-back",{ONE},{TWO}]', b"two", b"one"]
        assert client.read_many(3) == expected

    def test_many_attachments_in_order(self, site: Site) -> None:
        client = connect(site)
        placeholders = ",".join(PLACEHOLDER % number for number in range(10))
        attachments = [bytes([number]) * 100 for number in range(10)]
        client.send(f'4510-["message",{placeholders}]', *attachments)
        expected = [f'4510-["message-back",{placeholders}]', *attachments]
        assert client.read_many(11) == expected

    def test_many_messages_in_order(self, site: Site) -> None:
        client = connect(site)
        expected: list[str | bytes] = []
        for number in range(30):
            attachments = [bytes([number, part]) for part in range(3)]
            placeholders = ",".join(PLACEHOLDER % part for part in range(3))
            client.send(f'453-["message",{number},{placeholders}]', *attachments)
            client.send(f'42["message",{number}]')
            expected += [f'453-["message-back",{number},{placeholders}]', *attachments]
            expected += [f'42["message-back",{number}]']
        assert client.read_many(len(expected)) == expected

    def test_two_senders_at_once(self, site: Site) -> None:
        """Neither what comes from one nor what goes to the other is mixed up."""
        one, two = connect(site), connect(site)
        one.send(f'452-["message",{ONE},{TWO}]', b"one")
        two.send(f'452-["message",{ONE},{TWO}]', b"uno")
        one.send(b"two")
        two.send(b"due")
        assert one.read_many(3)[1:] == [b"one", b"two"]
        assert two.read_many(3)[1:] == [b"uno", b"due"]

    def test_a_room_with_both_transports(self, site: Site) -> None:
        polling, websocket, sender = connect_polling(site), connect(site), connect(site)
        polling.say('421["join","room of both"]')
        assert polling.poll().text == "431[]"
        websocket.send('421["join","room of both"]')
        assert websocket.read() == "431[]"
        data = bytes(range(256))
        for _ in range(3):
            sender.send(f'452-["tell","room of both",{ONE},{TWO}]', data, b"more")
            header = f'452-["told",{ONE},{TWO}]'
            assert websocket.read_many(3) == [header, data, b"more"]
            encoded = "b" + base64.b64encode(data).decode()
            assert polling.hear(3) == [header, encoded, "bbW9yZQ=="]

    def test_a_placeholder_in_a_plain_event_is_data(self, site: Site) -> None:
        client = connect(site)
        client.send(f'42["message",{ONE}]')
        assert client.read() == f'42["message-back",{ONE}]'

    @pytest.mark.parametrize("count", ["", "-", "0-", "x-", "1", "-1-", "1.5-", "\u0661-"])
    def test_an_invalid_number_of_attachments(self, site: Site, count: str) -> None:
        client = connect(site)
        client.send(f'45{count}["message",{ONE}]', b"1")
        assert is_closed(client)

    @pytest.mark.parametrize(
        "placeholder",
        [
            PLACEHOLDER % 1,
            PLACEHOLDER % -1,
            '{"_placeholder":true,"num":"0"}',
            '{"_placeholder":true,"num":0.5}',
            '{"_placeholder":true,"num":null}',
            '{"_placeholder":true}',
        ],
    )
    def test_an_illegal_placeholder_closes_the_connection(
        self, site: Site, placeholder: str
    ) -> None:
        client = open_websocket(site)
        sid = join(client)
        client.send(f'451-["message",{placeholder}]', b"1")
        assert is_closed(client)
        site.log.wait(sid, "disconnect")
        assert site.log.of(sid, "message") == []

    @pytest.mark.parametrize("packet", ['42["message"]', "41", '451-["message"]', "4abc"])
    def test_text_where_an_attachment_is_due_closes_the_connection(
        self, site: Site, packet: str
    ) -> None:
        client = connect(site)
        client.send(f'452-["message",{ONE},{TWO}]', b"1", packet)
        assert is_closed(client)

    def test_text_where_an_attachment_is_due_closes_a_polling_session(self, site: Site) -> None:
        session = connect_polling(site)
        session.post(f'451-["message",{ONE}]', '42["message"]')
        assert ended(session)

    def test_binary_where_none_is_due_closes_the_connection(self, site: Site) -> None:
        client = connect(site)
        client.send(b"\1\2\3\4")
        assert is_closed(client)

    def test_one_attachment_more_closes_the_connection(self, site: Site) -> None:
        client = connect(site)
        client.send(f'451-["message",{ONE}]', b"1")
        assert client.read_many(2) == [f'451-["message-back",{ONE}]', b"1"]
        client.send(b"2")
        assert is_closed(client)

    def test_binary_where_none_is_due_closes_a_polling_session(self, site: Site) -> None:
        session = connect_polling(site)
        session.post("bAQIDBA==")
        assert ended(session)

    def test_binary_first_closes_the_connection(self, site: Site) -> None:
        client = open_websocket(site)
        client.send(b"\1\2\3\4")
        assert is_closed(client)


class TestAcknowledgement:
    def test_of_a_clients_event(self, site: Site) -> None:
        client = connect(site)
        client.send('42456["message-with-ack",1,"2",{"3":[false]}]')
        assert client.read() == '43456[1,"2",{"3":[false]}]'

    def test_in_a_custom_namespace(self, site: Site) -> None:
        client = connect(site, "/custom")
        client.send('42/custom,456["message-with-ack","a"]')
        assert client.read() == '43/custom,456["a"]'

    @pytest.mark.parametrize("number", ["0", "1", "9007199254740991"])
    def test_ids(self, site: Site, number: str) -> None:
        client = connect(site)
        client.send(f'42{number}["message-with-ack"]', f'42{number}["nothing"]')
        assert client.read_many(2) == [f"43{number}[]"] * 2

    def test_without_an_id_there_is_none(self, site: Site) -> None:
        client = connect(site)
        client.send('42["message-with-ack",1]')
        assert goes_on(client)

    def test_with_binary(self, site: Site) -> None:
        client = connect(site)
        client.send(f'452-789["message-with-ack",{ONE},{TWO}]', b"\1\2\3", b"\4\5\6")
        assert client.read_many(3) == [f"462-789[{ONE},{TWO}]", b"\1\2\3", b"\4\5\6"]

    def test_with_binary_in_a_custom_namespace(self, site: Site) -> None:
        client = connect(site, "/custom")
        client.send(f'451-/custom,789["message-with-ack",{ONE}]', b"\1\2\3")
        assert client.read_many(2) == [f"461-/custom,789[{ONE}]", b"\1\2\3"]

    def test_with_binary_while_polling(self, site: Site) -> None:
        session = connect_polling(site)
        session.say(f'451-789["message-with-ack",{ONE}]', "bAQID")
        assert session.hear(2) == [f"461-789[{ONE}]", "bAQID"]

    @pytest.mark.parametrize("event", ["ask", "call"])
    @pytest.mark.parametrize("namespace", ["", "/custom,"])
    def test_of_the_servers_event(self, site: Site, event: str, namespace: str) -> None:
        client = connect(site, namespace[:-1] or "/")
        client.send(f'42{namespace}["{event}","who?"]')
        number = question(client.read(), f"42{namespace}", '["question","who?"]')
        client.send(f'43{namespace}{number}["me",{{"a":[1]}}]')
        assert client.read() == f'42{namespace}["answered","me",{{"a":[1]}}]'

    def test_of_the_servers_event_with_nothing(self, site: Site) -> None:
        client = connect(site)
        client.send('42["ask","who?"]')
        number = question(client.read(), "42", '["question","who?"]')
        client.send(f"43{number}[]")
        assert client.read() == '42["answered"]'

    @pytest.mark.parametrize("event", ["ask", "call"])
    def test_of_the_servers_event_with_binary(self, site: Site, event: str) -> None:
        client = connect(site)
        client.send(f'451-["{event}",{ONE}]', b"who?")
        number = question(client.read(), "451-", f'["question",{ONE}]')
        assert client.read() == b"who?"
        client.send(f"462-{number}[{ONE},{TWO}]", b"me", b"and me")
        expected = [f'452-["answered",{ONE},{TWO}]', b"me", b"and me"]
        assert client.read_many(3) == expected

    def test_several_of_the_servers_events(self, site: Site) -> None:
        client = connect(site)
        client.send('42["ask","first"]', '42["call","second"]')
        numbers = [
            question(client.read(), "42", f'["question","{name}"]') for name in ("first", "second")
        ]
        assert len(set(numbers)) == 2
        client.send(f'43{numbers[1]}["to the second"]')
        assert client.read() == '42["answered","to the second"]'
        client.send(f'43{numbers[0]}["to the first"]')
        assert client.read() == '42["answered","to the first"]'

    def test_one_that_nobody_waits_for_is_ignored(self, site: Site) -> None:
        client = connect(site)
        client.send('4312345["what?"]', f"461-12345[{ONE}]", b"what?")
        assert goes_on(client)

    def test_a_second_one_is_ignored(self, site: Site) -> None:
        client = open_websocket(site)
        sid = join(client)
        client.send('42["ask","who?"]')
        number = question(client.read(), "42", '["question","who?"]')
        client.send(f'43{number}["me"]', f'43{number}["me too"]')
        assert client.read() == '42["answered","me"]'
        assert goes_on(client)
        assert site.log.of(sid, "answer") == [["me"]]

    def test_one_from_another_client_is_ignored(self, site: Site) -> None:
        asked, other = connect(site), connect(site)
        asked.send('42["ask","who?"]')
        number = question(asked.read(), "42", '["question","who?"]')
        other.send(f'43{number}["not me"]')
        assert goes_on(other)
        asked.send(f'43{number}["me"]')
        assert asked.read() == '42["answered","me"]'

    @pytest.mark.parametrize(
        "packet", ["431{}", "431null", '431"answer"', "431[", "461-1{}", "431x[]"]
    )
    def test_an_invalid_one_closes_the_connection(self, site: Site, packet: str) -> None:
        client = connect(site)
        client.send(packet)
        if packet.startswith("46"):
            client.send(b"1")
        assert is_closed(client)

    @pytest.mark.parametrize("number", ["abc", "1.5", "-1", "٤", "1,"])
    def test_an_invalid_id_closes_the_connection(self, site: Site, number: str) -> None:
        client = connect(site)
        client.send(f'42{number}["message-with-ack",1]')
        assert is_closed(client)


class TestDisconnectionFromANamespace:
    def test_main(self, site: Site) -> None:
        client = open_websocket(site)
        sid = join(client)
        client.send("41")
        site.log.wait(sid, "disconnect")
        # nothing is answered, and the connection stays
        assert join(client) != sid
        assert goes_on(client)
        assert len(site.log.of(sid, "disconnect")) == 1

    def test_custom_keeps_main(self, site: Site) -> None:
        client = connect(site)
        sid = join(client, "/custom")
        client.send("41/custom,")
        site.log.wait(sid, "disconnect")
        assert goes_on(client)

    def test_custom_without_a_comma(self, site: Site) -> None:
        client = connect(site)
        sid = join(client, "/custom")
        client.send("41/custom")
        site.log.wait(sid, "disconnect")
        assert goes_on(client)

    def test_main_keeps_custom(self, site: Site) -> None:
        client = open_websocket(site)
        sid = join(client)
        join(client, "/custom")
        client.send("41")
        site.log.wait(sid, "disconnect")
        assert goes_on(client, "/custom,")

    def test_polling(self, site: Site) -> None:
        session = site.polling()
        session.say("40")
        sid = joined(session.poll().text)
        session.say("41", "40/custom,")
        site.log.wait(sid, "disconnect")
        joined(session.poll().text, "/custom,")

    def test_again_and_again(self, site: Site) -> None:
        client = connect(site)
        for _ in range(5):
            join(client, "/custom")
            assert goes_on(client, "/custom,")
            client.send("41/custom,")
        assert goes_on(client)

    def test_an_event_afterwards_is_ignored(self, site: Site) -> None:
        client = connect(site)
        join(client, "/custom")
        client.send("41/custom,", '42/custom,["message"]')
        assert goes_on(client)

    def test_events_before_it_are_served(self, site: Site) -> None:
        client = open_websocket(site)
        sid = join(client)
        client.send('42["message","last"]', "41")
        site.log.wait(sid, "disconnect")
        assert site.log.of(sid, "message") == [["last"]]

    @pytest.mark.parametrize("payload", ["{}", "[]", '"bye"', "x"])
    def test_a_payload_closes_the_connection(self, site: Site, payload: str) -> None:
        client = connect(site)
        client.send(f"41{payload}")
        assert is_closed(client)

    def test_by_the_server(self, site: Site) -> None:
        client = open_websocket(site)
        sid = join(client)
        join(client, "/custom")
        client.send('42["leave"]')
        assert client.read() == "41"
        site.log.wait(sid, "disconnect")
        assert goes_on(client, "/custom,")
        assert join(client) != sid

    def test_by_the_server_in_a_custom_namespace(self, site: Site) -> None:
        client = connect(site)
        sid = join(client, "/custom")
        client.send('42/custom,["leave"]')
        assert client.read() == "41/custom,"
        site.log.wait(sid, "disconnect")
        assert goes_on(client)

    def test_the_end_of_a_session_ends_all_namespaces(self, site: Site) -> None:
        client = open_websocket(site)
        sids = [join(client, namespace) for namespace in ("/", "/custom", "/other")]
        client.send("1")
        for sid in sids:
            site.log.wait(sid, "disconnect")
        assert [len(site.log.of(sid, "disconnect")) for sid in sids] == [1, 1, 1]

    def test_a_lost_connection_ends_all_namespaces(self, site: Site) -> None:
        client = open_websocket(site)
        sids = [join(client, namespace) for namespace in ("/", "/custom")]
        client.drop()
        for sid in sids:
            site.log.wait(sid, "disconnect")


class TestSampleSession:
    """The Engine.IO protocol under it, and both together."""

    def test_the_documents_sample(self, site: Site) -> None:
        session = site.polling()
        assert session.details["upgrades"] == ["websocket"]
        session.say("40")
        joined(session.poll().text)
        session.say('42["message","hello"]', '42["message","world"]')
        expected = ['42["message-back","hello"]', '42["message-back","world"]']
        assert session.hear(2) == expected
        poll = session.start_poll()
        client = session.upgrade()
        answer = poll.response()
        assert answer is not None
        assert answer.text == "6"
        client.send("5", '42["message","hello"]', "40/other,")
        assert client.read() == '42["message-back","hello"]'
        joined(client.read_text(), "/other,")
        client.send(f'451-/other,1["message-with-ack",{ONE}]', b"\1\2")
        assert client.read_many(2) == [f"461-/other,1[{ONE}]", b"\1\2"]
        client.send("1")
        assert is_closed(client)

    def test_handshake(self, start: Start) -> None:
        site = start(ping_interval=0.3, ping_timeout=0.2)
        for details, upgrades in (
            (handshake(site.get().text), ["websocket"]),
            (site.websocket()[1], []),
        ):
            assert isinstance(details.pop("sid"), str)
            assert details == {
                "upgrades": upgrades,
                "pingInterval": 300,
                "pingTimeout": 200,
                "maxPayload": 1_000_000,
            }

    @pytest.mark.parametrize(
        "query", [{"EIO": None}, {"EIO": "abc"}, {"transport": None}, {"transport": "abc"}], ids=str
    )
    def test_invalid_handshakes(self, site: Site, query: dict[str, str | None]) -> None:
        assert site.get(**query).status == 400
        assert site.refuses(**query)

    @pytest.mark.parametrize("method", ["POST", "PUT"])
    def test_an_invalid_method(self, site: Site, method: str) -> None:
        assert site.request(method, site.target()).status == 400

    def test_heartbeat(self, start: Start) -> None:
        site = start(**HEARTBEAT)
        session = site.polling()
        client = connect(site)
        for _ in range(2):
            assert client.read() == "2"
            client.send("3")
            assert session.poll().packets == ["2"]
            session.say("3")

    def test_heartbeat_without_a_namespace(self, start: Start) -> None:
        client = connect(start(**HEARTBEAT))
        client.send("41")
        assert client.read() == "2"

    def test_ping_timeout(self, start: Start) -> None:
        site = start(ping_interval=1.0, ping_timeout=0.2)
        session = site.polling()
        client = open_websocket(site)
        sid = join(client)
        assert client.rest() == ["2", "1"]
        assert site.log.wait(sid, "disconnect") == ["ping timeout"]
        assert ended(session)

    def test_a_polling_client_closes(self, site: Site) -> None:
        session = site.polling()
        session.say("40")
        sid = joined(session.poll().text)
        poll = session.start_poll()
        session.say("1")
        answer = poll.response()
        assert answer is not None
        assert answer.text == "6"
        site.log.wait(sid, "disconnect")
        assert session.is_closed()

    def test_after_an_upgrade(self, site: Site) -> None:
        session = connect_polling(site)
        client = session.upgrade()
        client.send("5")
        assert goes_on(client)
        assert session.is_closed()
        assert session.post('42["message"]').status == 400
        assert site.refuses(sid=session.sid)
        assert goes_on(client)

    def test_events_during_an_upgrade_are_not_lost(self, site: Site) -> None:
        session = site.polling()
        session.say("40")
        sid = joined(session.poll().text)
        client = session.upgrade()
        session.say(f'451-["message",{ONE}]', "bAQID")
        site.log.wait(sid, "message")
        client.send("5", '42["message","afterwards"]')
        expected = [f'451-["message-back",{ONE}]', b"\1\2\3", '42["message-back","afterwards"]']
        assert client.read_many(3) == expected


def question(packet: str | bytes, start: str, payload: str) -> str:
    """Return the id with which the server asks for an acknowledgement."""
    assert isinstance(packet, str)
    found = re.fullmatch(re.escape(start) + r"(\d+)" + re.escape(payload), packet)
    assert found is not None, packet
    return found[1]


def ended(session: Polling) -> bool:
    """Whether a session comes to its end."""
    return bool(until(session.is_closed))
