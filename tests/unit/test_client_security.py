"""When a client goes over to TLS: what was asked for, which port, and where the server is."""

from __future__ import annotations

from typing import cast

import pytest

from posthouse.clients.security import POP3S, SUBMISSIONS, Security, When
from posthouse.net.wire import Wire
from posthouse.ports.system import Endpoint


class Line:
    """As much of a connection as is looked at."""

    def __init__(self, host: str, *, encrypted: bool = False) -> None:
        self.peer = Endpoint(host, 25)
        self.encrypted = encrypted


@pytest.mark.parametrize(
    ("security", "here", "elsewhere"),
    [
        (Security(), False, True),
        (Security(here=True), True, True),
        (Security(When.ALWAYS), True, True),
        (Security(When.AT_ONCE), True, True),
        (Security(When.NEVER), False, False),
    ],
)
def test_tls_is_wanted(security: Security, here: bool, elsewhere: bool) -> None:
    """Without being asked, with other machines only; never twice."""
    for host, wanted in (("127.0.0.1", here), ("::1", here), ("192.0.2.7", elsewhere), ("2001:db8::1", elsewhere)):
        assert security.wanted(cast(Wire, Line(host))) is wanted, host
        assert not security.wanted(cast(Wire, Line(host, encrypted=True)))


@pytest.mark.parametrize("when", [when for when in When if when is not When.NEVER])
def test_a_port_that_is_for_tls_begins_with_it(when: When) -> None:
    """Whoever names port 465 or 995 would else wait for a greeting that never comes."""
    assert Security(when).at_once(465, SUBMISSIONS) and Security(when).at_once(995, POP3S)
    assert Security(when).at_once(587, SUBMISSIONS) is Security(when).at_once(None, SUBMISSIONS)
    assert Security(when).at_once(587, SUBMISSIONS) is (when is When.AT_ONCE)


def test_an_offer_that_is_missing_is_a_failure_only_where_tls_was_asked_for() -> None:
    assert Security().stripped("STLS") is None
    failure = Security(When.ALWAYS).stripped("STLS")
    assert failure is not None and "does not offer STLS" in str(failure)
