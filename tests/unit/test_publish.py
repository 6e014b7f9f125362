"""The DNS records of a mail domain, read back by a name server's own reader of zone files."""

from __future__ import annotations

from ipaddress import ip_address

import dns.rdatatype
import dns.zone
import pytest

from posthouse.mail.publish import Record, records_of

ADDRESSES = [ip_address("192.0.2.25"), ip_address("2001:db8::25")]
PORTS = {"smtp": 25, "submission": 587, "submissions": 465, "pop3": 110, "pop3s": 995}


def zone_of(records: list[Record]) -> dns.zone.Zone:
    lines = "\n".join(map(str, records))
    return dns.zone.from_text(f"$ORIGIN .\n{lines}\n", origin=".", relativize=False, check_origin=False)


def found(zone: dns.zone.Zone, name: str, kind: str) -> list[str]:
    rdataset = zone.get_rdataset(f"{name}.", dns.rdatatype.from_text(kind))
    return [] if rdataset is None else sorted(str(one) for one in rdataset)


def test_a_name_server_reads_them() -> None:
    """Would catch a record that no name server takes."""
    zone = zone_of(records_of("example.org", "mail.example.org", ADDRESSES, PORTS))
    assert found(zone, "example.org", "MX") == ["10 mail.example.org."]
    assert found(zone, "mail.example.org", "A") == ["192.0.2.25"]
    assert found(zone, "mail.example.org", "AAAA") == ["2001:db8::25"]
    assert found(zone, "example.org", "TXT") == ['"v=spf1 mx -all"']
    assert found(zone, "mail.example.org", "TXT") == ['"v=spf1 a -all"']
    assert found(zone, "_dmarc.example.org", "TXT")[0].startswith('"v=DMARC1; p=none;')
    assert found(zone, "_submissions._tcp.example.org", "SRV") == ["0 1 465 mail.example.org."]
    assert found(zone, "_imaps._tcp.example.org", "SRV") == ["0 0 0 ."]


@pytest.mark.parametrize("left", ["submissions", "submission", "pop3s", "pop3"])
def test_what_is_not_offered_is_said_to_be_so(left: str) -> None:
    """Would catch programs that are sent to a port where nobody listens."""
    ports = {protocol: port for protocol, port in PORTS.items() if protocol != left}
    zone = zone_of(records_of("example.org", "mail.example.org", [], ports))
    assert found(zone, f"_{left}._tcp.example.org", "SRV") == ["0 0 0 ."]
    assert found(zone, "mail.example.org", "A") == found(zone, "mail.example.org", "AAAA") == []


def test_ports_of_a_user_who_is_not_root() -> None:
    zone = zone_of(records_of("example.org", "mail.example.org", [], {"pop3s": 2995}))
    assert found(zone, "_pop3s._tcp.example.org", "SRV") == ["0 1 2995 mail.example.org."]
