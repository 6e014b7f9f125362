"""What servers said about a sender: Authentication-Results (RFC 8601), Received-SPF (RFC 7208 §9.1), ARC (RFC 8617).

Such a field is worth something only when one of our own servers wrote it, so everything else is counted and left
unread. It must carry a trusted authserv-id (RFC 8601 §5) and stand above the first Received field that others wrote.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from posthouse.mail.header import Field, Header
from posthouse.mail.stamp import FIELD, Token, tokens

METHODS: Final = ("spf", "dkim", "dmarc", "arc")
MOST: Final = 200  # fields, and results of one field, that are read
_RESULTS: Final = ("none", "pass", "fail", "softfail", "neutral", "policy", "temperror", "permerror", "hardfail")
_DOMAINS: Final = {
    "spf": ("smtp.mailfrom", "smtp.helo"),
    "dkim": ("header.d", "header.i"),
    "dmarc": ("header.from",),
    "arc": ("header.oldest-pass",),
}


@dataclass(slots=True)
class Verdict:
    """One result: `dkim=pass header.d=example.com`, said by the server `by`."""

    method: str
    result: str
    by: str
    domain: str | None = None
    reason: str | None = None
    properties: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Verdicts:
    """What trusted servers said, the latest first, and how many such fields were not believed."""

    said: list[Verdict] = field(default_factory=list)
    ignored: int = 0

    def result(self, method: str) -> str | None:
        """The result of a method, None when nobody trusted gives one. One signature of several that is right is
        enough (RFC 6376 §6.1)."""
        latest = next((verdict.by for verdict in self.said if verdict.method == method), None)
        found = [verdict.result for verdict in self.said if verdict.method == method and verdict.by == latest]
        if not found:
            return None
        return "pass" if method == "dkim" and "pass" in found else found[0]

    def to_json(self) -> dict[str, Any]:
        """As programs read it."""
        rows = [
            {
                "method": verdict.method,
                "result": verdict.result,
                "by": verdict.by,
                "domain": verdict.domain,
                "reason": verdict.reason,
                "properties": verdict.properties,
            }
            for verdict in self.said
        ]
        return {method: self.result(method) for method in METHODS} | {"results": rows, "ignored": self.ignored}


def read_verdicts(header: Header, limit: int, trusted: Collection[str]) -> Verdicts:
    """The results in the fields that begin before the offset `limit` and name a trusted server. Never raises."""
    verdicts = Verdicts()
    for item in header:
        name = item.name.lower()
        if name not in ("authentication-results", "arc-authentication-results", "received-spf"):
            continue
        if item.start >= limit or len(verdicts.said) >= MOST:
            verdicts.ignored += 1
            continue
        end = min(item.end, item.value + FIELD)
        value = header.value(Field(item.name, item.start, item.value, end)).decode("utf-8", "backslashreplace")
        said = _received_spf(value) if name == "received-spf" else _results(value)
        believed = [verdict for verdict in said if verdict.by in trusted]
        verdicts.said += believed
        verdicts.ignored += not believed and (not said or said[0].by not in trusted)
    return verdicts


def _results(value: str) -> list[Verdict]:
    """authres-payload = authserv-id [ version ] ( no-result / 1*resinfo ), RFC 8601 §2.2. ARC puts `i=1;` before."""
    segments = list(_segments(tokens(value)))
    if segments and segments[0] and segments[0][0].lower().startswith("i="):
        segments.pop(0)
    if not segments or not segments[0]:
        return []
    by = _unquote(segments[0][0]).lower().rstrip(".")
    found = []
    for words in segments[1 : MOST + 1]:
        method, equals, result = words[0].partition("=") if words else ("", "", "")
        method = method.partition("/")[0].lower()
        if not equals or method not in METHODS or result.lower() not in _RESULTS:
            continue
        pairs = dict(_pair(word) for word in words[1:] if "=" in word)
        domain = next((pairs[name] for name in _DOMAINS[method] if pairs.get(name)), None)
        domain = domain.rpartition("@")[2] if domain is not None else None
        found.append(Verdict(method, result.lower(), by, domain, pairs.pop("reason", None), pairs))
    return found


def _received_spf(value: str) -> list[Verdict]:
    """header-field = "Received-SPF:" [CFWS] result FWS [comment FWS] [ key-value-list ], RFC 7208 §9.1."""
    words = [word for segment in _segments(tokens(value)) for word in segment]
    pairs = dict(_pair(word) for word in words[1:] if "=" in word)
    by = pairs.get("receiver", "").lower().rstrip(".")
    if not words or words[0].lower() not in _RESULTS or not by:
        return []
    sender = pairs.get("envelope-from") or pairs.get("helo") or ""
    domain = sender.strip("<>").rpartition("@")[2] or None
    return [Verdict("spf", words[0].lower(), by, domain, pairs.get("problem"), pairs)]


def _segments(found: Sequence[Token]) -> Iterator[list[str]]:
    """The words between semicolons, comments left out; `a = b` is one word."""
    words: list[str] = []
    for token in found:
        if token.kind == ";":
            yield words
            words = []
        elif token.kind == "word":
            if words and (words[-1].endswith("=") or token.text.startswith("=")):
                words[-1] += token.text
            else:
                words.append(token.text)
    yield words


def _pair(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    return name.lower(), _unquote(value)


def _unquote(text: str) -> str:
    return text[1:-1].replace('\\"', '"') if len(text) > 1 and text[0] == text[-1] == '"' else text
