"""SCRAM-SHA-256 and the two MD5 mechanisms: the vectors of their RFCs, both roles, and everything that is refused."""

from __future__ import annotations

import hashlib
import hmac
import random
from base64 import b64decode

import pytest

from posthouse.sasl import scram
from posthouse.sasl.digests import CramMd5Client, CramMd5Server, apop_digest, find_timestamp, match_apop
from posthouse.sasl.mechanisms import Failed, Proven, SaslError, Secrets, Wanted
from posthouse.sasl.prepare import Unprepared, opaque, saslprep, scram_password
from posthouse.sasl.registry import offered, strongest
from posthouse.sasl.scram import Binding, ClientFinal, ClientFirst, ScramClient, ScramServer, ServerFinal, ServerFirst

# RFC 7677 §3
CLIENT_NONCE = "rOprNGfwEbeRWgbNEkqO"
SERVER_NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
SALT = b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
CLIENT_FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
CLIENT_FINAL = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
KEYS = scram.derive(b"pencil", SALT, 4096)
SECRETS = Secrets(SALT, 4096, [KEYS])

EXPORTED = Binding("tls-exporter", bytes(range(32)))


def test_the_server_says_what_rfc_7677_says() -> None:
    server = ScramServer(SERVER_NONCE)
    assert server.step(CLIENT_FIRST) == Wanted("user", "")
    assert server.know(SECRETS) == SERVER_FIRST
    assert server.step(CLIENT_FINAL) == SERVER_FINAL
    assert server.step(b"") == Proven("user", "", 0)


def test_the_client_says_what_rfc_7677_says() -> None:
    client = ScramClient("user", "pencil", CLIENT_NONCE)
    assert client.step(b"") == CLIENT_FIRST
    assert client.step(SERVER_FIRST) == CLIENT_FINAL
    assert not client.finished
    assert client.step(SERVER_FINAL) == b""
    assert client.finished


def test_the_vector_of_rfc_5802_holds_with_its_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 5802 §5 uses SHA-1: the same code with that hash gives its messages, so only the hash is ours to choose."""
    monkeypatch.setattr(scram, "HASH", "sha1")
    monkeypatch.setattr(hashlib, "sha256", hashlib.sha1)
    client = ScramClient("user", "pencil", "fyko+d2lbbFgONRv9qkxdawL")
    assert client.step(b"") == b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL"
    nonce = b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j"
    final = client.step(nonce + b",s=QSXCR+Q6sek8bf92,i=4096")
    assert final == b"c=biws," + nonce + b",p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts="
    assert client.step(b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=") == b""


def exchange(client: ScramClient, server: ScramServer, secrets: Secrets = SECRETS) -> object:
    """Both roles to the end, or to what one of them says is wrong."""
    step = server.step(client.step(b""))
    assert isinstance(step, Wanted)
    response = client.step(server.know(secrets))
    step = server.step(response)
    return server.step(client.step(step)) if isinstance(step, bytes) else step


@pytest.mark.parametrize("name", ["tls-exporter", "tls-unique", "tls-server-end-point"])
def test_plus_binds_both_roles_to_the_connection(name: str) -> None:
    binding = Binding(name, b"\x00octets, with a comma \xff")
    client = ScramClient("user", "pencil", CLIENT_NONCE, binding=binding)
    server = ScramServer(SERVER_NONCE, binding, plus=True)
    assert client.name == "SCRAM-SHA-256-PLUS"
    assert exchange(client, server) == Proven("user", "", 0)
    assert client.finished


def test_plus_has_the_octets_of_the_grammar() -> None:
    """A vector made by hand from RFC 5802 §3 and §7: the binding stands behind the gs2-header in "c="."""
    client = ScramClient("user", "pencil", CLIENT_NONCE, binding=EXPORTED)
    assert client.step(b"") == b"p=tls-exporter,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    final = client.step(SERVER_FIRST)
    bound = b"c=cD10bHMtZXhwb3J0ZXIsLAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
    nonce = SERVER_FIRST.partition(b",")[0]
    assert final.startswith(bound + b"," + nonce + b",p=")
    signed = b"n=user,r=rOprNGfwEbeRWgbNEkqO," + SERVER_FIRST + b"," + bound + b"," + nonce
    salted = hashlib.pbkdf2_hmac("sha256", b"pencil", SALT, 4096)
    key = hmac.digest(salted, b"Client Key", "sha256")
    signature = hmac.digest(hashlib.sha256(key).digest(), signed, "sha256")
    assert b64decode(final.rpartition(b",p=")[2]) == bytes(a ^ b for a, b in zip(key, signature, strict=True))


def test_another_connection_is_refused() -> None:
    """Somebody between the two has two TLS connections, and so two bindings."""
    client = ScramClient("user", "pencil", CLIENT_NONCE, binding=EXPORTED)
    server = ScramServer(SERVER_NONCE, Binding("tls-exporter", bytes(32)), plus=True)
    with pytest.raises(SaslError):
        exchange(client, server)


def test_a_downgrade_is_noticed() -> None:
    """RFC 5802 §6: the client could bind but was not offered it, and the server did offer it."""
    client = ScramClient("user", "pencil", CLIENT_NONCE, could_bind=True)
    with pytest.raises(SaslError):
        ScramServer(SERVER_NONCE, EXPORTED).step(client.step(b""))
    honest = ScramClient("user", "pencil", CLIENT_NONCE, could_bind=True)
    assert exchange(honest, ScramServer(SERVER_NONCE)) == Proven("user", "", 0)


def test_a_flag_changed_on_the_way_is_noticed() -> None:
    """The flag is part of what is signed: "y" made "n" by somebody between does not pass."""
    client = ScramClient("user", "pencil", CLIENT_NONCE, could_bind=True)
    server = ScramServer(SERVER_NONCE, EXPORTED)
    assert isinstance(server.step(client.step(b"").replace(b"y,,", b"n,,")), Wanted)
    with pytest.raises(SaslError):
        server.step(client.step(server.know(SECRETS)))


@pytest.mark.parametrize("flag", [b"p=tls-unique,,", b"n,,", b"y,,"])
def test_plus_wants_its_own_binding(flag: bytes) -> None:
    with pytest.raises(SaslError):
        ScramServer(SERVER_NONCE, EXPORTED, plus=True).step(flag + b"n=user,r=abc")


def test_a_wrong_password_fails_and_so_does_an_unknown_name() -> None:
    for secrets in (SECRETS, Secrets(SALT, 4096)):
        client = ScramClient("user", "pencil2", CLIENT_NONCE)
        assert exchange(client, ScramServer(SERVER_NONCE), secrets) == Failed("user")


def test_any_of_several_passwords_opens() -> None:
    several = Secrets(SALT, 4096, [scram.derive(b"other", SALT, 4096), KEYS])
    client = ScramClient("user", "pencil", CLIENT_NONCE)
    assert exchange(client, ScramServer(SERVER_NONCE), several) == Proven("user", "", 1)
    assert client.finished


def test_the_keys_of_nobody_open_nothing() -> None:
    """The keys that stand in for an unknown name are all zero: a proof made for them must not pass."""
    server = ScramServer(SERVER_NONCE)
    server.step(CLIENT_FIRST)
    mine = server.know(Secrets(SALT, 4096))
    assert isinstance(mine, bytes)
    without = b"c=biws," + mine.partition(b",")[0]
    signed = CLIENT_FIRST[3:] + b"," + mine + b"," + without
    proof = hmac.digest(bytes(32), signed, "sha256")
    final = ClientFinal(b"n,,", mine.partition(b",")[0][2:].decode(), proof)
    assert server.step(final.encode()) == Failed("user")


def test_names_with_commas_and_equals_signs() -> None:
    client = ScramClient("a,b=c", "pencil", CLIENT_NONCE, authzid="d,e")
    assert client.step(b"") == b"n,a=d=2Ce,n=a=2Cb=3Dc,r=rOprNGfwEbeRWgbNEkqO"
    again = ScramClient("a,b=c", "pencil", CLIENT_NONCE, authzid="d,e")
    assert exchange(again, ScramServer(SERVER_NONCE)) == Proven("a,b=c", "d,e", 0)


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"n",
        b"n,",
        b"n,,",
        b"n,,n=user",
        b"n,,n=,r=abc",
        b"n,,n=user,r=",
        b"n,,r=abc,n=user",
        b"n,,m=x,n=user,r=abc",
        b"n,,n=us=er,r=abc",
        b"n,,n=us=2der,r=abc",
        b"n,,n=us\0er,r=abc",
        b"n,,n=us\xffer,r=abc",
        b"n,,n=user,r=a\tb",
        b"n,,n=user,r=abc,x",
        b"n,,n=user,r=abc" + b",x=y" * 100,
        b"n,user,n=user,r=abc",
        b"x,,n=user,r=abc",
        b"p=,,n=user,r=abc",
        b"p=tls-exporter,,n=user,r=abc",
        b"n,,n=user,r=" + b"a" * 257,
        b"n,,n=" + b"u" * 5000 + b",r=abc",
    ],
)
def test_a_malformed_first_message(octets: bytes) -> None:
    with pytest.raises(SaslError):
        ScramServer(SERVER_NONCE).step(octets)


def test_extensions_are_signed_and_mean_nothing() -> None:
    first = ClientFirst.parse(b"n,,n=user,r=abc,x=y")
    assert (first.bare, first.nonce) == ("n=user,r=abc,x=y", "abc")


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        CLIENT_FINAL.replace(b"biws", b"eSws"),  # another gs2-header
        CLIENT_FINAL.replace(b"$k0", b"$k1"),  # another nonce
        CLIENT_FINAL.replace(b",p=dHzb", b",p=dHz"),
        CLIENT_FINAL.replace(b"biws", b"bi!s"),
        CLIENT_FINAL.rpartition(b",p=")[0],
        CLIENT_FINAL.rpartition(b",p=")[0] + b",p=YWJj",
    ],
)
def test_a_malformed_proof(octets: bytes) -> None:
    server = ScramServer(SERVER_NONCE)
    server.step(CLIENT_FIRST)
    server.know(SECRETS)
    with pytest.raises(SaslError):
        server.step(octets)


def test_the_exchange_ends_with_an_empty_answer() -> None:
    server = ScramServer(SERVER_NONCE)
    server.step(CLIENT_FIRST)
    server.know(SECRETS)
    server.step(CLIENT_FINAL)
    with pytest.raises(SaslError):
        server.step(b"x")


@pytest.mark.parametrize(
    "octets",
    [
        SERVER_FIRST.replace(b"r=rOpr", b"r=sOpr"),  # does not begin with the client's nonce
        SERVER_FIRST.replace(b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", b""),  # adds nothing to it
        SERVER_FIRST.replace(b"i=4096", b"i=4095"),
        SERVER_FIRST.replace(b"i=4096", b"i=1"),
        SERVER_FIRST.replace(b"i=4096", b"i=2000001"),
        SERVER_FIRST.replace(b"i=4096", b"i=99999999999999999999"),
        SERVER_FIRST.replace(b"i=4096", b"i=-4096"),
        SERVER_FIRST.replace(b"i=4096", b"i=0x10"),
        SERVER_FIRST.replace(b"s=W22ZaJ0SNY7soEsUEjb6gQ==", b"s="),
        SERVER_FIRST.replace(b"s=W22ZaJ0SNY7soEsUEjb6gQ==", b"s=" + b"AAAA" * 400),
        b"m=must," + SERVER_FIRST,
        b"e=other-error",
        b"",
        b"r=" + b"a" * 5000,
    ],
)
def test_a_client_believes_no_strange_server(octets: bytes) -> None:
    client = ScramClient("user", "pencil", CLIENT_NONCE)
    client.step(b"")
    with pytest.raises(SaslError):
        client.step(octets)
    assert not client.finished


@pytest.mark.parametrize("octets", [b"v=" + b"A" * 43 + b"=", b"e=invalid-proof", b"v=", b"", b"x=y"])
def test_a_server_that_cannot_prove_itself_is_refused(octets: bytes) -> None:
    client = ScramClient("user", "pencil", CLIENT_NONCE)
    client.step(b"")
    client.step(SERVER_FIRST)
    with pytest.raises(SaslError):
        client.step(octets)
    assert not client.finished


def test_every_message_is_read_as_it_was_printed() -> None:
    randomness = random.Random(7)
    for _ in range(200):
        nonce = "".join(randomness.choice("abcXYZ0189+/=$%") for _ in range(randomness.randrange(1, 60)))
        octets = randomness.randbytes(32)
        first = ClientFirst(randomness.choice(["n", "y", "p=tls-exporter"]), "", "us,er=", nonce)
        assert ClientFirst.parse(first.encode()) == first
        server = ServerFirst(nonce, octets, randomness.randrange(1, 10**9))
        assert ServerFirst.parse(server.encode()) == server
        final = ClientFinal(b"n,,", nonce, octets)
        assert ClientFinal.parse(final.encode()) == final
        last = ServerFinal(octets)
        assert ServerFinal.parse(last.encode()) == last


def test_keys_are_not_printed() -> None:
    assert "b'" not in repr(KEYS)
    assert "pencil" not in repr(CramMd5Client("user", "pencil"))
    assert "pencil" not in repr(Secrets(b"", 1, [KEYS], [b"pencil"]))


# CRAM-MD5 and APOP


def test_the_vector_of_rfc_2195() -> None:
    word = "<1896.697170952@postoffice.reston.mci.net>"
    client = CramMd5Client("tim", "tanstaaftanstaaf")
    response = client.step(word.encode())
    assert response == b"tim b913a602c7eda7a495b4e6e7334d3890"
    server = CramMd5Server(word)
    assert server.step(None) == word.encode()
    assert server.step(response) == Wanted("tim", "")
    assert server.know(Secrets(b"", 1, shared=[b"wrong", b"tanstaaftanstaaf"])) == Proven("tim", "", 1)
    for secrets in ([], [b"wrong"], [b""]):
        assert server.know(Secrets(b"", 1, shared=secrets)) == Failed("tim")


def test_the_vector_of_rfc_1939() -> None:
    word = find_timestamp("+OK POP3 server ready <1896.697170952@dbc.mtview.ca.us>")
    assert word == "<1896.697170952@dbc.mtview.ca.us>"
    assert apop_digest(word, b"tanstaaf") == "c4c9334bac560ecc979e58001b3e22fb"
    assert match_apop(word, "C4C9334BAC560ECC979E58001B3E22FB", [b"x", b"tanstaaf"]) == 1
    assert match_apop(word, "c4c9334bac560ecc979e58001b3e22fb", [b"x"]) == -1
    assert match_apop(word, apop_digest(word, b""), []) == -1, "nobody's secret is not the empty one"
    assert find_timestamp("+OK POP3 <no at sign") is None


@pytest.mark.parametrize("response", [b"", b"tim", b"tim short", b" " + b"a" * 32, b"ti\0m " + b"a" * 32])
def test_a_malformed_digest(response: bytes) -> None:
    server = CramMd5Server("<1@x.mail>")
    server.step(None)
    with pytest.raises(SaslError):
        server.step(response)


def test_cram_md5_takes_no_initial_response() -> None:
    with pytest.raises(SaslError):
        CramMd5Server("<1@x.mail>").step(b"tim b913a602c7eda7a495b4e6e7334d3890")


# Which one, and the forms of passwords


def test_the_strongest_is_taken() -> None:
    everything = offered(scram=True, shared=True, binding=EXPORTED)
    assert everything == ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN", "CRAM-MD5")
    assert offered(scram=True, shared=False, binding=None) == ("SCRAM-SHA-256", "PLAIN", "LOGIN")
    assert offered(scram=False, shared=False, binding=EXPORTED) == ("PLAIN", "LOGIN")
    assert strongest(everything, encrypted=True, binding=EXPORTED) == "SCRAM-SHA-256-PLUS"
    assert strongest(everything, encrypted=True) == "SCRAM-SHA-256"
    assert strongest(["LOGIN", "PLAIN", "CRAM-MD5"], encrypted=True) == "PLAIN"
    assert strongest(["LOGIN", "PLAIN", "CRAM-MD5"], encrypted=False) == "CRAM-MD5"
    assert strongest(["LOGIN"], encrypted=False) == "LOGIN"
    assert strongest(["CRAM-MD5"], encrypted=True) is None
    assert strongest(["GSSAPI"], encrypted=False) is None


def test_saslprep_has_the_examples_of_its_rfc() -> None:
    """RFC 4013 §3."""
    assert saslprep("I\u00adX") == "IX"
    assert saslprep("user") == "user"
    assert saslprep("USER") == "USER"
    assert saslprep("\u00aa") == "a"
    assert saslprep("\u2168") == "IX"
    for refused in ("\u0007", "\u0627\u0031", "\u0627a\u0627", "\u0221"):
        with pytest.raises(Unprepared):
            saslprep(refused)
    assert saslprep("\u06271\u0628") == "\u06271\u0628"


def test_a_password_that_saslprep_refuses_has_a_form_all_the_same() -> None:
    assert scram_password("\U0001f511 key") == "\U0001f511 key".encode()
    assert scram_password("Zu\u0308rich\u00a0\u2168") == "Z\u00fcrich IX".encode()
    assert opaque("Zu\u0308rich\u00a0\u2168") == "Z\u00fcrich \u2168"
