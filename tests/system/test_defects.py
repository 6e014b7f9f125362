"""What the two programs got wrong from which this one grew, and the test of each: one that they would fail.

The table is checked: every test named in it exists. A defect without a test has no place in it.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.system.scripted import READ, SEND, ScriptedServer, pop3, smtp, terminal
from tests.system.test_read_dialogue import LETTER, SELECT, login
from tests.system.test_send_dialogue import answer, finish, hold

SENDER = "test_send_dialogue.py"
READER = "test_read_dialogue.py"
HERE = "test_defects.py"

DEFECTS = {
    # The sender
    "sender: always connected to localhost": (HERE, "test_the_sender_goes_where_it_is_told"),
    "sender: asked for login and password and never sent them": (SENDER, "test_the_dialogue_of_the_lab"),
    "sender: echoed the password": (SENDER, "test_the_password_is_never_on_the_screen"),
    "sender: never looked at a reply code": (SENDER, "test_after_a_refusal_nothing_of_the_message_leaves"),
    "sender: lines of the file became commands": (SENDER, "test_after_a_refusal_nothing_of_the_message_leaves"),
    "sender: took one recv for one reply": (SENDER, "test_a_greeting_cut_at_every_octet_shifts_nothing"),
    "sender: printed stale buffer bytes": (HERE, "test_nothing_stale_is_shown"),
    "sender: overflowed its buffer on a long message": (SENDER, "test_a_long_message_in_many_lines"),
    "sender: no Subject, Date, Message-ID, MIME": (SENDER, "test_the_dialogue_of_the_lab"),
    "sender: bare LF": (SENDER, "test_a_long_message_in_many_lines"),
    "sender: no dot-stuffing": (HERE, "test_a_line_that_begins_with_a_dot_arrives"),
    "sender: the file as text in the body": (SENDER, "test_the_dialogue_of_the_lab"),
    "sender: sent although the file was missing": (SENDER, "test_a_missing_file_is_refused_now"),
    "sender: no timeout": (SENDER, "test_without_a_queue_a_silent_server_is_an_error"),
    "sender: exit status 0 always": (SENDER, "test_after_a_refusal_nothing_of_the_message_leaves"),
    "sender: one recipient": (SENDER, "test_lists_with_prefixes_and_one_refused_recipient"),
    "sender: port 25 and IPv4 only": (SENDER, "test_ipv6_and_a_silent_server"),
    # The octets of both, against the server
    "both: their octet streams still deliver and collect": ("test_lab.py", ""),
    # The reader
    "reader: localhost only": (HERE, "test_the_reader_goes_where_it_is_told"),
    "reader: cut a password at a blank": (READER, "test_the_dialogue_of_the_lab"),
    "reader: waited 5 s on -ERR and hid the words": (READER, "test_a_refusal_is_shown_at_once_with_the_servers_words"),
    "reader: answers above 100,000 characters": (READER, "test_a_slow_answer_shifts_nothing_and_lists_may_be_long"),
    "reader: a slow answer shifted the next": (READER, "test_a_slow_answer_shifts_nothing_and_lists_may_be_long"),
    "reader: a NUL octet stopped it": (READER, "test_nothing_in_a_message_drives_the_terminal"),
    "reader: dots not unstuffed": (READER, "test_the_dialogue_of_the_lab"),
    "reader: PASS after a refused USER": (READER, "test_no_password_after_a_refused_user"),
    "reader: looped for ever at the end of input": (READER, "test_the_end_of_input_commits_nothing"),
    "reader: octets went raw to the terminal": (READER, "test_nothing_in_a_message_drives_the_terminal"),
    "reader: words were case-sensitive": (READER, "test_words_in_any_case_and_shortened"),
    "reader: a failed QUIT went unnoticed": (READER, "test_a_refused_quit_is_noticed"),
    "reader: exit status 0 always": (READER, "test_the_server_leaves_while_a_person_thinks"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_every_defect_has_its_test(defect: str) -> None:
    file, name = DEFECTS[defect]
    tree = ast.parse(Path(__file__).with_name(file).read_text(encoding="utf-8"))
    tests = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    found = [tests[name]] if name else [node for one, node in tests.items() if one.startswith("test_")]
    assert any(isinstance(node, ast.Assert) for test in found for node in ast.walk(test))


def test_the_sender_goes_where_it_is_told(tmp_path: Path) -> None:
    """Where the original would have gone, 127.0.0.1, a server of that port listens too, and hears nothing."""
    with ScriptedServer(smtp(), "127.0.0.2") as server, ScriptedServer(smtp(), port=server.port) as other:
        with terminal(SEND, tmp_path) as child:
            assert "Sent to 1 of 1 recipients" in hold(child, server.address, file="")
        assert server.heard and not other.talks


def test_the_reader_goes_where_it_is_told(tmp_path: Path) -> None:
    with ScriptedServer(pop3([LETTER]), "127.0.0.2") as server, ScriptedServer(pop3(), port=server.port) as other:
        with terminal(READ, tmp_path) as child:
            login(child, server.address)
            answer(child, SELECT, "Quit")
            finish(child)
            assert child.exitstatus == 0
        assert b"PASS se cret" in server.heard and not other.talks


def test_nothing_stale_is_shown(tmp_path: Path) -> None:
    """A short reply behind long ones: the original showed the rest of the longer one behind it."""
    long = b"220 x.mail " + b"long " * 80 + b"\r\n"
    script = smtp(greeting=long, mail=b"250 a much longer reply than the next\r\n", rcpt=b"250 k\r\n")
    with ScriptedServer(script) as server, terminal(SEND, tmp_path) as child:
        shown = hold(child, server.address, file="")
        assert "\n250 a much longer reply than the next\n250 k\n354 OK, send.\n" in shown


def test_a_line_that_begins_with_a_dot_arrives(tmp_path: Path) -> None:
    with ScriptedServer(smtp()) as server, terminal(SEND, tmp_path) as child:
        hold(child, server.address, file="", text=".one\n..two")
        assert child.exitstatus == 0
    message = next(line for line in server.heard if b"\r\n" in line)
    assert message.endswith(b"\r\n.one\r\n..two\r\n")
