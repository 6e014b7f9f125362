"""The document that providers write for mail programs: what is taken from it, and how it is bounded."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.clients.autoconfig import BadConfig, parse

SERVER = (
    '<{tag} type="{type}"><hostname>{host}</hostname><port>{port}</port><socketType>{socket}</socketType>'
    "<username>{user}</username>{logins}</{tag}>"
)


def document(*servers: str, head: str = "") -> bytes:
    inner = "".join(servers)
    return f'{head}<clientConfig version="1.1"><emailProvider id="x">{inner}</emailProvider></clientConfig>'.encode()


def server(
    tag: str = "incomingServer",
    type: str = "pop3",
    host: str = "mail.x.mail",
    port: str = "995",
    socket: str = "SSL",
    user: str = "%EMAILADDRESS%",
    logins: str = "<authentication>password-cleartext</authentication>",
) -> str:
    return SERVER.format(tag=tag, type=type, host=host, port=port, socket=socket, user=user, logins=logins)


def test_what_it_says() -> None:
    found = parse(
        document(
            server(type="imap", port="993"),
            server(host="POP.%EMAILDOMAIN%.", user="%EMAILLOCALPART%"),
            server("outgoingServer", "smtp", port="587", socket="STARTTLS"),
        ),
        "anna@x.mail",
    )
    assert [(one.kind, one.host, one.port, one.socket, one.user) for one in found] == [
        ("imap", "mail.x.mail", 993, "ssl", "anna@x.mail"),
        ("pop3", "pop.x.mail", 995, "ssl", "anna"),
        ("smtp", "mail.x.mail", 587, "starttls", "anna@x.mail"),
    ]
    assert all(one.usable for one in found)


@pytest.mark.parametrize(
    "wrong",
    [
        {"socket": "plain"},
        {"socket": ""},
        {"port": "99999"},
        {"port": "-1"},
        {"port": "many"},
        {"host": ""},
        {"logins": "<authentication>OAuth2</authentication>"},
        {"logins": "<authentication>GSSAPI</authentication><authentication>NTLM</authentication>"},
    ],
)
def test_servers_that_we_cannot_use(wrong: dict[str, str]) -> None:
    assert [one.usable for one in parse(document(server(**wrong)), "a@x.mail")] == [False]


def test_one_of_several_logins_is_enough() -> None:
    logins = "<authentication>OAuth2</authentication><authentication>password-cleartext</authentication>"
    assert parse(document(server(logins=logins)), "a@x.mail")[0].usable


def test_a_server_of_an_unknown_kind_lends_nothing_to_its_neighbour() -> None:
    """Would catch values of a server that is not read being taken for those of the one before it."""
    found = parse(document(server(host=""), server(type="exchange", host="evil.mail")), "a@x.mail")
    assert [(one.kind, one.host) for one in found] == [("pop3", "")]


def test_only_the_first_provider_counts() -> None:
    second = b"</emailProvider><emailProvider>" + server().encode() + b"</emailProvider>"
    octets = document(server()).replace(b"</emailProvider>", second)
    assert len(parse(octets, "a@x.mail")) == 1


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"<",
        b"<html></html>",
        b"<clientConfig>",
        document(head="<!DOCTYPE clientConfig>"),
        document(head='<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'),
        document("<a>" * 20 + "</a>" * 20),
        document("<a/>" * 3000),
        document(server() * 30),
        document(server(host="x" * 2000)),
        b'<?xml version="1.0" encoding="nonsense"?><clientConfig/>',
        b'<?xml version="1.0" encoding="rot13"?><clientConfig/>',
        b"<clientConfig>\xff\xfe\xfd</clientConfig>",
    ],
)
def test_what_is_refused(octets: bytes) -> None:
    with pytest.raises(BadConfig):
        parse(octets, "a@x.mail")


@given(st.binary(max_size=300) | st.text(alphabet="<>/ab&;!\"'= ?x", max_size=200).map(str.encode))
def test_no_octets_bring_it_down(octets: bytes) -> None:
    for document in (octets, b"<clientConfig>" + octets + b"</clientConfig>"):
        with contextlib.suppress(BadConfig):
            parse(document, "a@x.mail")
