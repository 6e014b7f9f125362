"""The login mechanisms by name: what a server can offer, and which of those offered a client takes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from posthouse.sasl.digests import CramMd5Client, CramMd5Server
from posthouse.sasl.mechanisms import (
    AskingMechanism,
    ClientMechanism,
    LoginClient,
    LoginServer,
    PlainClient,
    PlainServer,
    ServerMechanism,
)
from posthouse.sasl.scram import NAME, PLUS, Binding, ScramClient, ScramServer

CRAM_MD5: Final = "CRAM-MD5"
CLEAR: Final = frozenset({"PLAIN", "LOGIN"})
"""Mechanisms that send the password itself."""

_SIMPLE: Final[dict[str, Callable[[], ServerMechanism]]] = {"PLAIN": PlainServer, "LOGIN": LoginServer}


def offered(*, scram: bool, shared: bool, binding: Binding | None) -> tuple[str, ...]:
    """What a server offers, the strongest first. `shared`: recoverable passwords are kept, which CRAM-MD5 needs;
    `binding`: what the connection can be bound to, without which there is no -PLUS."""
    names = [PLUS] if scram and binding is not None else []
    names += [NAME] if scram else []
    names += ["PLAIN", "LOGIN"]
    return (*names, CRAM_MD5) if shared else tuple(names)


def server_mechanism(
    name: str, *, nonce: str, word: str, binding: Binding | None = None
) -> ServerMechanism | AskingMechanism:
    """The server's side of an offered mechanism; `nonce` and `word` are fresh and used by those that need one."""
    if name in (NAME, PLUS):
        return ScramServer(nonce, binding, plus=name == PLUS)
    return CramMd5Server(word) if name == CRAM_MD5 else _SIMPLE[name]()


def strongest(names: Collection[str], *, encrypted: bool, binding: Binding | None = None) -> str | None:
    """Which of the offered mechanisms a client takes, None when it knows none of them.

    CRAM-MD5 is for connections without encryption only: there it hides the password at least from those who merely
    listen. With encryption the plain password is the better secret: its hash on the server can be a strong one.
    """
    order = [NAME, "PLAIN", "LOGIN"] if encrypted else [NAME, CRAM_MD5, "PLAIN", "LOGIN"]
    if binding is not None:
        order.insert(0, PLUS)
    return next((name for name in order if name in names), None)


def client_mechanism(
    name: str, login: str, password: str, *, nonce: str, binding: Binding | None = None
) -> ClientMechanism:
    """The client's side of a mechanism. Raises SaslError for a name or password that it cannot carry."""
    if name == PLUS:
        return ScramClient(login, password, nonce, binding=binding)
    if name == NAME:
        return ScramClient(login, password, nonce, could_bind=binding is not None)
    kinds: dict[str, Callable[[str, str], ClientMechanism]] = {
        "PLAIN": PlainClient,
        "LOGIN": LoginClient,
        CRAM_MD5: CramMd5Client,
    }
    return kinds[name](login, password)
