"""Heads of requests: each case says what a client sent, and what of it reached the origin or how it was refused."""

from __future__ import annotations

from typing import Any

import pytest

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

# What goes on: (what is sent, the line and the fields that reach the origin behind Host).
ACCEPTED: dict[str, tuple[bytes, str, tuple[str, ...]]] = {
    "plain": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET /", ()),
    "fields keep order, case and spaces": (
        b"GET / HTTP/1.1\r\nX-B:  1 \r\nHost: a\r\nx-A:2\r\nX-B:\t3\r\n\r\n",
        "GET /",
        ("X-B:  1 ", "x-A:2", "X-B:\t3"),
    ),
    "empty value": (b"GET / HTTP/1.1\r\nHost: a\r\nX-Empty:\r\n\r\n", "GET /", ("X-Empty:",)),
    "obs-text in a value": (b"GET / HTTP/1.1\r\nHost: a\r\nX-N: caf\xe9\r\n\r\n", "GET /", ("X-N: caf\xe9",)),
    "every token character": (
        b"GET / HTTP/1.1\r\nHost: a\r\n!#$%&'*+-.^_`|~09azAZ: v\r\n\r\n",
        "GET /",
        ("!#$%&'*+-.^_`|~09azAZ: v",),
    ),
    "extension method": (b"PROPFIND /x HTTP/1.1\r\nHost: a\r\n\r\n", "PROPFIND /x", ()),
    "lower-case method is another method": (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", "get /", ()),
    "query and reserved characters": (
        b'GET /a%20b/?q=%7B&x[]=1|2\\"<> HTTP/1.1\r\nHost: a\r\n\r\n',
        'GET /a%20b/?q=%7B&x[]=1|2\\"<>',
        (),
    ),
    "dots and double slashes are the app's to read": (
        b"GET //a/../b/./%2e%2e/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET //a/../b/./%2e%2e/",
        (),
    ),
    "one empty line before the request": (b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET /", ()),
    "HTTP/1.2 is read as 1.1": (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", "GET /", ()),
    "absolute-form": (b"GET http://a/x?y HTTP/1.1\r\nHost: a\r\n\r\n", "GET /x?y", ()),
    "absolute-form without a path": (b"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", "GET /", ()),
    "OPTIONS of a whole server": (b"OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS *", ()),
    "OPTIONS of its root": (b"OPTIONS http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS /", ()),
    "absolute-form with a query alone": (b"GET http://a?q HTTP/1.1\r\nHost: a\r\n\r\n", "GET /?q", ()),
    "absolute-form in capitals": (b"GET HTTP://A/x HTTP/1.1\r\nHost: a\r\n\r\n", "GET /x", ()),
    "asterisk-form": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS *", ()),
    "traceparent": (
        b"GET / HTTP/1.1\r\nHost: a\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n",
        "GET /",
        ("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",),
    ),
    "authorization and cookies": (
        b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\nCookie: a=b\r\nCookie: c=d\r\n\r\n",
        "GET /",
        ("Authorization: Bearer x", "Cookie: a=b", "Cookie: c=d"),
    ),
    "content-length of nothing": (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        "POST /",
        ("content-length: 0",),
    ),
    "content-length loses its leading zeros": (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 000\r\n\r\n",
        "POST /",
        ("content-length: 0",),
    ),
}

# Fields that end at this hop: (the fields sent, what is left of them).
HOP_BY_HOP: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "connection and what it names": (
        ("Connection: keep-alive, X-Secret", "X-Secret: 1", "X-Open: 2"),
        ("X-Open: 2",),
    ),
    "connection twice": (("Connection: x-a", "X-A: 1", "Connection: X-B", "X-B: 2"), ()),
    "connection with empty options": (("Connection: , ,x-a,,", "x-a: 1"), ()),
    "keep-alive": (("Keep-Alive: timeout=5",), ()),
    "proxy-connection": (("Proxy-Connection: keep-alive",), ()),
    "te": (("TE: trailers, deflate",), ()),
    "upgrade that connection does not name": (("Upgrade: websocket",), ()),
    "credentials for this hop": (("Proxy-Authorization: Basic eDp5", "Proxy-Authenticate: Basic"), ()),
    "a stranger's forwarding fields": (
        (
            "X-Forwarded-For: 1.2.3.4",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: evil",
            "Forwarded: for=1.2.3.4",
            "Via: 1.0 evil",
        ),
        (),
    ),
    "what an app of CGI's kind would take for them": (
        ("X_Forwarded_For: 1.2.3.4", "x-forwarded_proto: https", "Content_Length: 9", "transfer_encoding: chunked"),
        (),
    ),
    "other names with an underscore stay": (("X_User_Id: a_b", "Cookie: a_b=1"), ("X_User_Id: a_b", "Cookie: a_b=1")),
    "trailer is the next hop's to know": (("Trailer: X-Sum",), ("Trailer: X-Sum",)),
    "upgrade to what would carry further requests unread": (("Connection: upgrade", "Upgrade: h2c"), ()),
    "upgrade to TLS": (("Connection: upgrade", "Upgrade: TLS/1.2, HTTP/2.0"), ()),
}

BAD = b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n"

# What is refused: (what is sent, status, code).
REFUSED: dict[str, tuple[bytes, int, str]] = {
    # Request lines
    "no version": (b"GET /\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
    "tab between": (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
    "space at the end": (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400, "bad_request_line"),
    "space in the target": (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
    "space before the method": (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
    "no method": (b"/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
    "method that is no token": (b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
    "fragment": (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
    "target beyond ASCII": (b"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
    "control byte in the target": (b"GET /a\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
    "NUL in the target": (b"GET /a\0 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
    "DEL in the target": (b"GET /a\x7f HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
    "bare CR in the line": (b"GET / HTTP/1.1\rHost: a\r\n\r\n", 400, "bad_request_line"),
    "bare LF after the line": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400, "bad_request_line"),
    "lower-case protocol": (b"GET / http/1.1\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
    "another protocol": (b"GET / ICAP/1.0\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
    "version of two digits": (b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
    "version without a dot": (b"GET / HTTP/11\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400, "bad_request_line"),
    "HTTP/2": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "version_not_supported"),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "version_not_supported"),
    "HTTP/0.1": (b"GET / HTTP/0.1\r\nHost: a\r\n\r\n", 505, "version_not_supported"),
    "relative target": (b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_target"),
    "asterisk for another method": (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_target"),
    "asterisk with more": (b"OPTIONS *x HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_target"),
    "another scheme": (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_target"),
    "absolute-form without a host": (b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_target"),
    "absolute-form with user information": (b"GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_target"),
    "absolute-form with a bad port": (b"GET http://a:x/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_target"),
    "absolute-form for another host": (b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_host"),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 501, "method_not_implemented"),
    "TRACE": (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405, "method_not_allowed"),
    "two empty lines before": (b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
    "LF before": (b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
    "a TLS handshake": (b"\x16\x03\x01\x02\x00\x01\x00\x01", 400, "bad_request_line"),
    # Fields
    "space before the colon": (BAD % b"X-A : 1", 400, "bad_field"),
    "tab before the colon": (BAD % b"X-A\t: 1", 400, "bad_field"),
    "space before the colon of a length": (BAD % b"Content-Length : 5", 400, "bad_field"),
    "line folding": (BAD % b"X-A: 1\r\n 2", 400, "bad_field"),
    "line folding by a tab": (BAD % b"X-A: 1\r\n\t2", 400, "bad_field"),
    "folding of the first field": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400, "bad_field"),
    "no colon": (BAD % b"X-A", 400, "bad_field"),
    "no name": (BAD % b": 1", 400, "bad_field"),
    "name with a space": (BAD % b"X A: 1", 400, "bad_field"),
    "name beyond ASCII": (BAD % b"X-\xc3\xa9: 1", 400, "bad_field"),
    "name with brackets": (BAD % b"X[a]: 1", 400, "bad_field"),
    "NUL in a value": (BAD % b"X-A: a\0b", 400, "bad_field"),
    "control byte in a value": (BAD % b"X-A: a\x0bb", 400, "bad_field"),
    "DEL in a value": (BAD % b"X-A: a\x7fb", 400, "bad_field"),
    "bare CR in a value": (BAD % b"X-A: a\rb", 400, "bad_field"),
    "bare CR at a value's end": (BAD % b"X-A: a\r\r\nX-B: 1", 400, "bad_field"),
    "bare LF between fields": (BAD % b"X-A: a\nX-B: b", 400, "bad_field"),
    "bare LF ends the head": (b"GET / HTTP/1.1\r\nHost: a\n\n", 400, "bad_field"),
    # Host
    "no Host": (b"GET / HTTP/1.1\r\nX-A: 1\r\n\r\n", 400, "missing_host"),
    "no field at all": (b"GET / HTTP/1.1\r\n\r\n", 400, "missing_host"),
    "no Host beside an absolute-form": (b"GET http://a/ HTTP/1.1\r\nX: 1\r\n\r\n", 400, "missing_host"),
    "two Hosts": (BAD % b"Host: b", 400, "repeated_field"),
    "the same Host twice": (BAD % b"host: a", 400, "repeated_field"),
    "empty Host": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, "bad_host"),
    "Host with a path": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, "bad_host"),
    "Host with user information": (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400, "bad_host"),
    "Host with two ports": (b"GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", 400, "bad_host"),
    "Host with a port of letters": (b"GET / HTTP/1.1\r\nHost: a:http\r\n\r\n", 400, "bad_host"),
    "Host with a space": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "bad_host"),
    "Host with a quote": (b'GET / HTTP/1.1\r\nHost: a"b\r\n\r\n', 400, "bad_host"),
    "two hosts in a list": (b"GET / HTTP/1.1\r\nHost: a b, c\r\n\r\n", 400, "bad_host"),
    "Host of bytes beyond ASCII": (b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n", 400, "bad_host"),
    "half an IPv6 address": (b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400, "bad_host"),
    # Connection
    "Connection takes Host away": (BAD % b"Connection: host", 400, "bad_connection"),
    "Connection takes the length away": (
        BAD % b"Connection: Content-Length\r\nContent-Length: 3",
        400,
        "bad_connection",
    ),
    "Connection takes credentials away": (BAD % b"Connection: close, Authorization", 400, "bad_connection"),
    "Connection takes cookies away": (BAD % b"Connection: cookie", 400, "bad_connection"),
    # Framing
    "length and coding": (BAD % b"Content-Length: 3\r\nTransfer-Encoding: chunked", 400, "ambiguous_length"),
    "coding and length": (BAD % b"Transfer-Encoding: chunked\r\nContent-Length: 0", 400, "ambiguous_length"),
    "two lengths": (BAD % b"Content-Length: 3\r\nContent-Length: 4", 400, "repeated_field"),
    "the same length twice": (BAD % b"Content-Length: 3\r\ncontent-length: 3", 400, "repeated_field"),
    "a list of lengths": (BAD % b"Content-Length: 3, 3", 400, "bad_content_length"),
    "empty length": (BAD % b"Content-Length:", 400, "bad_content_length"),
    "negative length": (BAD % b"Content-Length: -1", 400, "bad_content_length"),
    "length with a sign": (BAD % b"Content-Length: +1", 400, "bad_content_length"),
    "length in hexadecimal": (BAD % b"Content-Length: 0x1", 400, "bad_content_length"),
    "length with a point": (BAD % b"Content-Length: 1.0", 400, "bad_content_length"),
    "length with an underscore": (BAD % b"Content-Length: 1_0", 400, "bad_content_length"),
    "length with a space": (BAD % b"Content-Length: 1 0", 400, "bad_content_length"),
    "length in other digits": (BAD % "Content-Length: ٣".encode(), 400, "bad_content_length"),
    "length beyond any size": (BAD % b"Content-Length: 99999999999999999999", 400, "bad_content_length"),
    "two codings": (BAD % b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400, "repeated_field"),
    "coding twice in a list": (BAD % b"Transfer-Encoding: chunked, chunked", 501, "transfer_coding_not_implemented"),
    "another coding": (BAD % b"Transfer-Encoding: gzip", 501, "transfer_coding_not_implemented"),
    "gzip, then chunked": (BAD % b"Transfer-Encoding: gzip, chunked", 501, "transfer_coding_not_implemented"),
    "chunked, then identity": (BAD % b"Transfer-Encoding: chunked, identity", 501, "transfer_coding_not_implemented"),
    "identity": (BAD % b"Transfer-Encoding: identity", 501, "transfer_coding_not_implemented"),
    "no coding": (BAD % b"Transfer-Encoding:", 501, "transfer_coding_not_implemented"),
    "a coding that looks like chunked": (
        BAD % b"Transfer-Encoding: xchunked",
        501,
        "transfer_coding_not_implemented",
    ),
    "chunked in quotes": (BAD % b'Transfer-Encoding: "chunked"', 501, "transfer_coding_not_implemented"),
    "chunked with a parameter": (BAD % b"Transfer-Encoding: chunked;a=b", 501, "transfer_coding_not_implemented"),
    "chunked behind a control byte": (BAD % b"Transfer-Encoding: \x0bchunked", 400, "bad_field"),
    "chunked folded": (BAD % b"Transfer-Encoding:\r\n chunked", 400, "bad_field"),
    "coding in HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "ambiguous_length"),
    # Expectations, hops, sizes
    "another expectation": (BAD % b"Expect: 200-ok", 417, "expectation_failed"),
    "two expectations": (BAD % b"Expect: 100-continue\r\nExpect: 100-continue", 417, "expectation_failed"),
    "Max-Forwards twice": (BAD % b"Max-Forwards: 1\r\nMax-Forwards: 2", 400, "repeated_field"),
    "a head that is too large": (BAD % (b"X-A: " + b"a" * 40000), 431, "head_too_large"),
    "a target that is too long": (b"GET /" + b"a" * 40000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431, "head_too_large"),
    "a head without an end": (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 40000, 431, "head_too_large"),
    "too many fields": (BAD % (b"X: 1\r\n" * 300)[:-2], 431, "too_many_fields"),
}


@pytest.mark.parametrize("name", ACCEPTED)
async def test_a_request_reaches_the_origin_as_it_was_meant(rig: Any, onward: Any, name: str) -> None:
    sent, line, fields = ACCEPTED[name]
    here = await rig()
    here.origin.script = [OK]
    (answer,) = await here.talk(sent, "GET")
    assert (answer.status, answer.body) == (200, b"ok")
    assert here.origin.requests == [onward(line, *fields)]


@pytest.mark.parametrize("name", HOP_BY_HOP)
async def test_what_is_for_this_hop_ends_here(rig: Any, onward: Any, name: str) -> None:
    sent, left = HOP_BY_HOP[name]
    here = await rig()
    here.origin.script = [OK]
    request = "\r\n".join(["GET / HTTP/1.1", "Host: a", *sent, "", ""]).encode()
    (answer,) = await here.talk(request, "GET")
    assert answer.status == 200
    assert here.origin.requests == [onward("GET /", *left)]


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_ambiguous_is_refused_and_the_connection_closed(rig: Any, name: str) -> None:
    sent, status, code = REFUSED[name]
    here = await rig()
    # Whatever stands behind it must not be taken for a request.
    answer = await here.refusal(sent + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.status == status
    assert f'"code":"{code}"'.encode() in answer.body
    assert answer["content-type"] == "application/json"
    assert answer["connection"] == "close"
    assert answer["date"]
    assert here.origin.lines == [], "nothing may reach the origin"


@pytest.mark.parametrize("host", ["a:80", "a:", "A.Example", "127.0.0.1:1", "[::1]:8080", "a_b", "x%20y"])
async def test_a_host_goes_on_as_it_is(rig: Any, onward: Any, host: str) -> None:
    here = await rig()
    here.origin.script = [OK]
    await here.talk(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode(), "GET")
    assert here.origin.requests == [onward("GET /", host=host)]


async def test_the_app_may_be_told_another_host(rig: Any) -> None:
    here = await rig(app={"host": "inner.example"})
    here.origin.script = [OK]
    await here.talk(b"GET / HTTP/1.1\r\nHost: outer\r\n\r\n", "GET")
    (request,) = here.origin.requests
    assert b"\r\nhost: inner.example\r\n" in request
    assert b"\r\nx-forwarded-host: outer\r\n" in request
    assert b"Host: outer" not in request


class TestHttp10:
    async def test_without_a_host_the_origins_own_is_told(self, rig: Any) -> None:
        here = await rig()
        here.origin.script = [OK]
        (answer,) = await here.talk(b"GET / HTTP/1.0\r\n\r\n", "GET")
        assert answer["connection"] == "close"
        assert f"\r\nhost: 127.0.0.1:{here.origin_port}\r\n".encode() in here.origin.requests[0]
        assert b"via: 1.0 phasegate" in here.origin.requests[0]
        assert b"x-forwarded-host" not in here.origin.requests[0]

    async def test_the_authority_of_an_absolute_form_is_its_host(self, rig: Any, onward: Any) -> None:
        here = await rig()
        here.origin.script = [OK]
        await here.talk(b"GET http://b:81/x HTTP/1.0\r\n\r\n", "GET")
        assert b"\r\nhost: b:81\r\n" in here.origin.requests[0]

    async def test_it_is_kept_alive_only_where_it_asks(self, rig: Any) -> None:
        here = await rig()
        here.origin.script = [OK, OK]
        request = b"GET / HTTP/1.0\r\nHost: a\r\n%b\r\n"
        client = await here.connect()
        client.send(request % b"Connection: keep-alive\r\n")
        (answer,) = await client.answers("GET")
        assert answer["connection"] == "keep-alive"
        client.send(request % b"")
        _, second = await client.answers("GET", "GET")
        assert second["connection"] == "close"
        await client.closed()

    async def test_an_upgrade_and_an_expectation_count_for_nothing(self, rig: Any, onward: Any) -> None:
        here = await rig()
        here.origin.script = [OK]
        sent = b"POST / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nExpect: 100-continue\r\n"
        await here.talk(sent + b"Content-Length: 1\r\n\r\nx", "POST")
        assert here.origin.requests == [onward("POST /", "content-length: 1", body=b"x", http10=True)]

    async def test_a_body_until_close_is_closed_and_no_interim_answer_sent(self, rig: Any) -> None:
        here = await rig()
        chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n"
        here.origin.script = [b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + chunked]
        (answer,) = await here.talk(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "GET")
        assert (answer.status, answer.body, answer["transfer-encoding"]) == (200, b"ok", None)
        assert answer["connection"] == "close"


TRUSTED = {"trusted": ("127.0.0.0/8", "10.0.0.0/8")}


class TestForwarding:
    async def test_a_trusted_peers_fields_are_appended_to(self, rig: Any) -> None:
        here = await rig(proxy=TRUSTED)
        here.origin.script = [OK]
        sent = (
            b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nx-forwarded-for: 10.0.0.1\r\n"
            b"X-Forwarded-Proto: https\r\nX-Forwarded-Host: outer\r\nForwarded: for=1.2.3.4\r\nVia: 1.0 edge\r\n\r\n"
        )
        await here.talk(sent, "GET")
        (request,) = here.origin.requests
        assert request == (
            b"GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 1.2.3.4, 10.0.0.1, 127.0.0.1\r\n"
            b"x-forwarded-proto: https\r\nx-forwarded-host: outer\r\n"
            b'forwarded: for=1.2.3.4, for=127.0.0.1;proto=http;host="a"\r\nvia: 1.0 edge, 1.1 phasegate\r\n\r\n'
        )

    async def test_a_trusted_peer_that_tells_nothing_is_itself_the_client(self, rig: Any) -> None:
        here = await rig(proxy=TRUSTED)
        here.origin.script = [OK]
        await here.talk(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET")
        assert b"x-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: http\r\n" in here.origin.requests[0]


class TestMaxForwards:
    async def test_options_that_must_go_no_further_end_here(self, rig: Any) -> None:
        here = await rig()
        (answer,) = await here.talk(b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n", "OPTIONS")
        assert answer.status == 204
        assert not here.origin.lines

    async def test_options_lose_a_hop(self, rig: Any, onward: Any) -> None:
        here = await rig()
        here.origin.script = [OK]
        await here.talk(b"OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 7\r\n\r\n", "OPTIONS")
        assert here.origin.requests == [onward("OPTIONS *", more=("max-forwards: 6",))]

    async def test_for_other_methods_it_means_nothing(self, rig: Any, onward: Any) -> None:
        here = await rig()
        here.origin.script = [OK]
        await here.talk(b"GET / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n", "GET")
        assert here.origin.requests == [onward("GET /", more=("max-forwards: 0",))]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 40])
async def test_a_head_may_come_in_pieces(rig: Any, onward: Any, size: int) -> None:
    here = await rig()
    here.origin.script = [OK]
    whole = b"\r\nGET /x HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nCookie: b\r\n\r\n"
    client = await here.connect()
    for at in range(0, len(whole), size):
        client.send(whole[at : at + size])
        await _seen(here, client, at + size >= len(whole))
    (answer,) = await client.answers("GET")
    assert answer.status == 200
    assert here.origin.requests == [onward("GET /x", "X-A: 1", "Cookie: b")]


async def _seen(here: Any, client: Any, last: bool) -> None:
    """Let the gateway read what was sent before more is."""
    if not last:
        before = sum(len(down._held) for down in here.gateway.clients)
        await here.until(lambda: sum(len(down._held) for down in here.gateway.clients) != before, "the piece")


@pytest.mark.parametrize(
    ("first", "second"),
    [(b"GET / HTTP/1.1\r\nHost: a", b"\nX: 1\r\n\r\n"), (b"GET / HTTP/1.1\r\nHost: a\r", b"X: 1\r\n\r\n")],
)
async def test_a_bad_line_end_is_found_where_pieces_meet(rig: Any, first: bytes, second: bytes) -> None:
    here = await rig()
    client = await here.connect()
    client.send(first)
    await _seen(here, client, False)
    client.send(second)
    await client.closed()
    assert client.received.startswith(b"HTTP/1.1 400 ")
    assert not here.origin.lines
