"""The login mechanisms: both roles talk to each other, and what is malformed is refused (RFC 4616)."""

from __future__ import annotations

import pytest

from posthouse.sasl.mechanisms import (
    Credentials,
    LoginClient,
    LoginServer,
    PlainClient,
    PlainServer,
    SaslError,
    decode_initial,
    decode_line,
    encode_line,
)
from posthouse.sasl.registry import client_mechanism, server_mechanism


@pytest.mark.parametrize("name", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("password", ["secret", "with blank ", "пароль", "a" * 255])
def test_both_roles_agree(name: str, password: str) -> None:
    server = server_mechanism(name, nonce="n", word="<w@x.mail>")
    client = client_mechanism(name, "test@x.mail", password, nonce="n")
    result = server.step(client.step(b"")) if client.initial else server.step(None)
    while isinstance(result, bytes):
        result = server.step(decode_line(encode_line(client.step(result))))
    assert result == Credentials("test@x.mail", password)


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"test",
        b"\0test",
        b"\0test\0",
        b"\0\0secret",
        b"\0test\0sec\0ret",
        b"\0test\0secret\0",
        b"\0te\xffst\0secret",
    ],
)
def test_plain_refuses(octets: bytes) -> None:
    with pytest.raises(SaslError):
        PlainServer().step(octets)


@pytest.mark.parametrize("lines", [[b""], [b"te\0st"], [b"\xff"], [b"test", b""], [b"test", b"se\0cret"]])
def test_login_refuses(lines: list[bytes]) -> None:
    server = LoginServer()
    assert server.step(None) == b"Username:"
    with pytest.raises(SaslError):
        for line in lines:
            server.step(line)


@pytest.mark.parametrize("line", [b"!", b"abc", b"YWJj\n", b"YW Jj", b"=", b"YQ==YQ==", b"\xff" * 4, b"A" * 12_292])
def test_base64_is_strict(line: bytes) -> None:
    with pytest.raises(SaslError):
        decode_line(line)


def test_an_empty_initial_response_is_an_equals_sign() -> None:
    assert decode_initial(b"=") == b""
    assert decode_initial(b"YQ==") == b"a"


def test_a_client_answers_no_more_than_it_has() -> None:
    client = PlainClient("test", "secret")
    client.step(b"")
    with pytest.raises(SaslError):
        client.step(b"again")
    with pytest.raises(SaslError):
        PlainClient("te\0st", "secret").step(b"")


def test_secrets_are_not_printed() -> None:
    assert "geheim" not in repr(Credentials("test", "geheim"))
    assert "geheim" not in repr(PlainClient("test", "geheim"))
    assert "geheim" not in repr(LoginClient("test", "geheim"))
