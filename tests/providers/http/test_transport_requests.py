"""What goes out is one request, to one place, whatever a header or a URL holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.providers.errors import UpstreamUnreachable
from tollway.providers.http.route import head, route


def test_the_head_is_what_was_asked_for() -> None:
    """Host and Content-Length are ours; the rest goes out in its order and spelling."""
    to = route("POST", "http://Box.Local/v1/chat?x=1", None, None)
    assert head(to, (("x-B", "2"), ("X-b", ""), ("ä"[:0] + "A", "é")), 3) == (
        b"POST /v1/chat?x=1 HTTP/1.1\r\nHost: Box.Local\r\n"
        b"x-B: 2\r\nX-b: \r\nA: \xc3\xa9\r\n"
        b"Accept-Encoding: identity\r\nContent-Length: 3\r\n\r\n"
    )


def test_bytes_that_are_no_utf_8_go_out_as_they_came() -> None:
    """A client's header in Latin-1 reaches us as surrogates and leaves as the same bytes."""
    came = b"caf\xe9".decode("utf-8", "surrogateescape")
    to = route("GET", "http://a/", None, None)
    assert b"A: caf\xe9\r\n" in head(to, (("A", came),), 0)


@pytest.mark.parametrize(
    ("method", "line"), [("POST", True), ("PUT", True), ("GET", False), ("DELETE", False)]
)
def test_an_empty_body_has_a_length_only_where_one_is_expected(method: str, line: bool) -> None:
    """RFC 9110, 8.6: a POST without a body says so."""
    got = head(route(method, "https://a/", None, None), (), 0)
    assert (b"Content-Length: 0\r\n" in got) is line


@pytest.mark.parametrize(
    ("url", "key", "line"),
    [
        ("https://a", ("https", "a", 443), b"GET / HTTP/1.1\r\nHost: a\r\n"),
        ("HTTP://A:8080/x", ("http", "a", 8080), b"GET /x HTTP/1.1\r\nHost: A:8080\r\n"),
        ("http://[::1]:1?q", ("http", "::1", 1), b"GET /?q HTTP/1.1\r\nHost: [::1]:1\r\n"),
    ],
)
def test_a_url_says_where_to_and_what(url: str, key: tuple[str, str, int], line: bytes) -> None:
    """Requests to the same place share connections; the path does not count."""
    to = route("GET", url, None, None)
    assert to.key[:3] == key
    assert head(to, (), 0).startswith(line)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.example/v1",
        "ftp://a/",
        "http://",
        "http:///v1",
        "http://a b/",
        "http://a/b c",
        "http://a/\r\nX: y",
        "http://a/b#c",
        "http://a/é",
        "http://a:99999/",
        "http://a:b/",
        "http://[::1/",
        "http://\u212a/",
        "http://a\\@b/",
        "http://canary:canary@a/",
    ],
)
def test_a_url_that_could_be_misread_is_refused_unquoted(url: str) -> None:
    """It may hold a key, so the message only says what is wanted."""
    with pytest.raises(UpstreamUnreachable) as caught:
        route("POST", url, None, None)
    assert not caught.value.sent
    assert "canary" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("proxy", ["https://a:1", "socks5://a:1", "a:1", "http://u:canary@a b"])
def test_only_plain_proxies_are_known(proxy: str) -> None:
    """Others are refused in words, without the password."""
    with pytest.raises(UpstreamUnreachable, match="The proxy's URL is not usable") as caught:
        route("POST", "https://a/", proxy, None)
    assert "canary" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("method", ["", "GET /", "G\r\nT", "CONNECT"])
def test_a_method_that_is_no_word_is_refused(method: str) -> None:
    """CONNECT is the client's own."""
    with pytest.raises(UpstreamUnreachable, match="The method of a request"):
        route(method, "https://a/", None, None)


@pytest.mark.parametrize(
    "name",
    ["Host", "content-length", "Transfer-Encoding", "Connection", "TE", "Expect", "Upgrade"],
)
def test_headers_that_frame_a_message_are_not_the_callers(name: str) -> None:
    """Two answers to where a message ends are how requests are smuggled."""
    with pytest.raises(UpstreamUnreachable, match=f"The header `{name.lower()}` is written by"):
        head(route("POST", "https://a/", None, None), ((name, "canary"),), 0)


@given(
    st.lists(
        st.tuples(st.text(min_size=1, max_size=8), st.text(max_size=12)), min_size=1, max_size=4
    )
)
def test_no_header_can_become_two(headers: list[tuple[str, str]]) -> None:
    """Either the request is refused, or it has exactly the lines that were asked for."""
    to = route("GET", "https://a/", None, None)
    try:
        got = head(to, tuple(headers), 0)
    except UpstreamUnreachable:
        return
    lines = got.split(b"\r\n")
    assert lines[-2:] == [b"", b""]
    written = [tuple(line.split(b": ", 1)) for line in lines[2:-2]]
    wanted = [(name.encode(), value.encode()) for name, value in headers]
    assert [each for each in written if each[0] != b"Accept-Encoding"] == [
        each for each in wanted if each[0] != b"Accept-Encoding"
    ]
    assert b"\0" not in got


def test_half_a_character_is_refused() -> None:
    """A lone surrogate stands for no bytes at all; the error's cause would quote the value."""
    with pytest.raises(UpstreamUnreachable, match="half a character") as caught:
        head(route("POST", "https://a/", None, None), (("X-A", "canary\ud800"),), 0)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("value", ["a\r\nHost: b", "a\nb", "a\rb", "a\0b"])
def test_a_value_cannot_break_its_line(value: str) -> None:
    """Nor is it quoted: it may be a key."""
    with pytest.raises(UpstreamUnreachable, match="holds a line break or NUL"):
        head(route("POST", "https://a/", None, None), (("X-A", value),), 0)
