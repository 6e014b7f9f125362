"""`posthouse queue`: letters that wait to be carried on, also beside a running server."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from posthouse.cli.exits import Exit, Problem, Verb, finish
from posthouse.cli.invocation import Invocation
from posthouse.cli.mailstore import run_queue
from posthouse.cli.output import about, hint, moment, succeed, table

if TYPE_CHECKING:
    from posthouse.ports.queue import Item, Parcel, Wanted
    from posthouse.queue.service import QueueService

F = TypeVar("F", bound=Callable[..., Any])

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, on failure too.")
USUAL: Final = 1000


def _filters(command: F) -> F:
    """The options that choose items."""
    for option in reversed(
        (
            click.argument("ids", nargs=-1, metavar="[ID]..."),
            click.option("--sender", default="", metavar="ADDRESS", help="Only letters of this sender."),
            click.option("--recipient", default="", metavar="ADDRESS", help="Only for this recipient."),
            click.option("--domain", default="", metavar="NAME", help="Only for recipients in this domain."),
            click.option("--destination", default="", metavar="NAME", help="Only for this destination."),
            click.option("--state", default="", metavar="STATE", help="Only those that are due some time, or held."),
        )
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def queue() -> None:
    """Letters that wait to be carried on.

    What is for other servers leaves at once. What cannot leave waits here and is tried again by the timetable of the
    setting relay.schedule, until it is given up and its sender is told. An ID is that of a letter, as the log and its
    Received field name it, or the number of an item: one recipient of a letter.

    \b
    posthouse queue list
    posthouse queue list --domain example.org --json
    posthouse queue show 0635d1b2c3f00a7be49c12
    posthouse queue retry --domain example.org
    posthouse queue hold --sender newsletter@x.mail
    """


@queue.command("list", cls=Verb)
@_filters
@click.option("--limit", default=USUAL, metavar="N", help=f"The first N only; 0: all. Usually {USUAL}.")
@_json
@click.pass_obj
def queue_list(
    invocation: Invocation,
    ids: Sequence[str],
    sender: str,
    recipient: str,
    domain: str,
    destination: str,
    state: str,
    limit: int,
    as_json: bool,
) -> None:
    """Show what waits: one line for each recipient.

    \b
    posthouse queue list
    posthouse queue list --state held
    posthouse queue list --recipient boris@example.com --json
    """

    async def work(service: QueueService) -> int:
        chosen = _chosen(ids, sender, recipient, domain, destination, state)
        items, count = await service.find(chosen, limit if limit > 0 else 2**31)
        if as_json:
            return succeed(True, "", count=count, items=[_values(item) for item in items])
        from posthouse.mail.charsets import harmless_line

        if not items:
            hint("Nothing waits.")
            return succeed(False, "")
        rows = [
            (
                item.letter,
                item.recipient,
                item.sender or "<>",
                about(item.size),
                str(item.attempts),
                _next(item),
                harmless_line(item.reply),
            )
            for item in items
        ]
        text = table(("LETTER", "FOR", "FROM", "SIZE", "TRIED", "NEXT", "LAST ANSWER"), rows, right=(3, 4))
        if count > len(items):
            hint(f"{count - len(items)} more; --limit 0 shows all.")
        return succeed(False, text)

    finish("queue list", as_json, lambda: run_queue(invocation, work))


@queue.command("show", cls=Verb)
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("--raw", is_flag=True, help="The letter itself, as it will leave.")
@_json
@click.pass_obj
def queue_show(invocation: Invocation, ids: Sequence[str], raw: bool, as_json: bool) -> None:
    """Show all about a letter that waits: its recipients, what they were told, when it is tried again, its header.

    \b
    posthouse queue show 0635d1b2c3f00a7be49c12
    posthouse queue show 0635d1b2c3f00a7be49c12 --raw > letter.eml
    """

    async def work(service: QueueService) -> int:
        parcels = await service.show(_chosen(ids))
        if raw and not as_json:
            async for chunk in parcels[0].letter.chunks():
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            return Exit.OK
        heads = {parcel.id: await _head(parcel) for parcel in parcels}
        letters = [_letter_values(parcels, id, head) for id, head in heads.items()]
        return succeed(
            as_json, "\n\n".join(_letter_text(parcels, id, head) for id, head in heads.items()), letters=letters
        )

    finish("queue show", as_json, lambda: run_queue(invocation, work))


def _command(name: str, method: str, doc: str, done: str) -> None:
    @queue.command(name, cls=Verb, help=doc)
    @_filters
    @click.option("--all", "everything", is_flag=True, help="All that waits, if nothing else is chosen.")
    @_json
    @click.pass_obj
    def command(
        invocation: Invocation,
        ids: Sequence[str],
        sender: str,
        recipient: str,
        domain: str,
        destination: str,
        state: str,
        everything: bool,
        as_json: bool,
    ) -> None:
        def action() -> int:
            if not (ids or sender or recipient or domain or destination or state or everything):
                raise Problem(
                    Exit.USAGE,
                    "Which? Name letters or items, choose with --sender, --recipient, --domain, --destination or "
                    f"--state, or say --all. posthouse queue {name} --help has examples.",
                    stage="usage",
                )

            async def work(service: QueueService) -> int:
                chosen = _chosen(ids, sender, recipient, domain, destination, state)
                act: Callable[[Sequence[Wanted]], Awaitable[int]] = getattr(service, method)
                count = await act(chosen)
                text = f"{count} {'item' if count == 1 else 'items'} {done}."
                if not count:
                    if as_json:
                        succeed(True, "", count=0)
                    else:
                        print("posthouse: nothing in the queue fits.", file=sys.stderr)
                    return Exit.NOT_ALL
                return succeed(as_json, text, count=count)

            return run_queue(invocation, work)

        finish(f"queue {name}", as_json, action)


_command(
    "retry",
    "retry",
    """Try again now what waits for its time. What is held stays held.

    \b
    posthouse queue retry --all
    posthouse queue retry --domain example.org
    """,
    "will be tried now",
)
_command(
    "hold",
    "hold",
    """Keep letters back until they are released. An attempt that is under way goes on.

    \b
    posthouse queue hold --sender newsletter@x.mail
    """,
    "held",
)
_command(
    "release",
    "release",
    """Let letters leave that are held.

    \b
    posthouse queue release --all
    """,
    "released",
)
_command(
    "drop",
    "drop",
    """Forget letters. Their senders are not told, and nothing brings them back.

    \b
    posthouse queue drop 0635d1b2c3f00a7be49c12
    posthouse queue drop --recipient gone@example.org
    """,
    "dropped",
)


def _chosen(
    ids: Sequence[str],
    sender: str = "",
    recipient: str = "",
    domain: str = "",
    destination: str = "",
    state: str = "",
) -> list[Wanted]:
    from posthouse.queue.service import choose

    return choose(ids, sender=sender, recipient=recipient, domain=domain, destination=destination, state=state)


def _next(item: Item) -> str:
    if item.busy:
        return "now"
    return "held" if item.state == "held" else moment(item.due)


def _values(item: Item) -> dict[str, Any]:
    return {
        "item": item.id,
        "letter": item.letter,
        "sender": item.sender,
        "recipient": item.recipient,
        "destination": item.destination,
        "size": item.size,
        "state": "sending" if item.busy else item.state.value,
        "attempts": item.attempts,
        "accepted": moment(item.accepted),
        "due": moment(item.due),
        "tried": None if item.tried is None else moment(item.tried),
        "reply": item.reply,
        "status": item.status,
        "host": item.host,
        "told": item.told,
    }


async def _head(parcel: Parcel) -> str:
    """The header of a letter, harmless for a terminal and for JSON."""
    from posthouse.mail.charsets import harmless_line
    from posthouse.mail.reply import Unavailable

    octets = b""
    try:
        async for chunk in parcel.letter.chunks():
            octets += chunk
            if b"\r\n\r\n" in octets or len(octets) > 65_536:
                break
    except Unavailable as error:
        return f"(the letter cannot be read: {error.detail})"
    header = octets.partition(b"\r\n\r\n")[0][:65_536].decode("utf-8", "replace")
    return "\n".join(harmless_line(line) for line in header.split("\r\n"))


def _letter_text(parcels: Sequence[Parcel], id: str, head: str) -> str:
    from posthouse.mail.charsets import harmless_line

    items = [item for parcel in parcels if parcel.id == id for item in parcel.items]
    first = items[0]
    lines = [
        f"Letter    {id}",
        f"From      {first.sender or '<>'}",
        f"Size      {first.size} octets",
        f"Accepted  {moment(first.accepted)}",
    ]
    for item in items:
        lines += [
            "",
            f"For       {item.recipient} (item {item.id})",
            f"Goes to   {item.destination}",
            f"Next      {_next(item)}, tried {'once' if item.attempts == 1 else f'{item.attempts} times'} so far",
        ]
        if item.tried is not None:
            said = harmless_line(f"{item.host or 'nobody was reached'}: {item.reply}")
            lines.append(f"Last      {moment(item.tried)} {said}")
        if item.told:
            lines.append("          the sender was told of the delay")
    return "\n".join([*lines, "", head])


def _letter_values(parcels: Sequence[Parcel], id: str, head: str) -> dict[str, Any]:
    items = [item for parcel in parcels if parcel.id == id for item in parcel.items]
    return {"letter": id, "items": [_values(item) for item in items], "header": head}
