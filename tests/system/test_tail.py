"""`dalsegno tail` and `dalsegno send`, as a person uses them in two terminals."""

from __future__ import annotations

import signal
import subprocess

import msgspec
import trio

from tests._patience import fail_after, until
from tests.system._processes import (
    DALSEGNO,
    Command,
    Owner,
    Processes,
    Server,
    connect,
    write,
)


async def send(processes: Processes, server: Server, owner: Owner, title: str) -> int:
    fields = msgspec.json.encode({"note_id": None, "title": title}).decode()
    process = await processes.talk(server, "send", owner.workspace, "create_note", fields)
    assert await process.ended() == 0, process.err
    return int(msgspec.json.decode(process.out)["event_seq"])


def numbers(tail: Command) -> list[int]:
    return [int(line.split()[0]) for line in tail.lines]


async def test_two_tails_print_the_same_and_go_on_after_a_restart(
    server: Server, owner: Owner, processes: Processes
) -> None:
    stream = f"workspace:{owner.workspace}"
    one = await processes.talk(server, "tail", stream)
    two = await processes.talk(server, "tail", stream, "--client-id", "another")
    assert await send(processes, server, owner, "first") == 1
    await until(lambda: one.lines == two.lines != [])
    assert one.lines[0].startswith("1 note_created note:")

    await server.kill()
    await until(lambda: "connection lost" in one.err and "connection lost" in two.err)
    await server.start()
    async with connect(server, owner) as client:
        assert await write(client, owner, "second") == 2
        assert await server.stop() == 0
        await server.start()
        assert await write(client, owner, "third") == 3
    await until(lambda: numbers(one) == numbers(two) == [1, 2, 3])
    assert one.out == two.out
    assert "connected again" in one.err

    one.signal(signal.SIGINT)
    two.signal(signal.SIGTERM)
    assert (await one.ended(), await two.ended()) == (130, 143)
    assert "Traceback" not in one.err + two.err


async def test_a_tail_that_acks_goes_on_after_what_it_printed(
    server: Server, owner: Owner, processes: Processes
) -> None:
    stream = f"workspace:{owner.workspace}"
    first = await processes.talk(server, "tail", stream, "--ack")
    async with connect(server, owner) as client:
        await write(client, owner, "one")
        await until(lambda: numbers(first) == [1])
        await write(client, owner, "two")
        await until(lambda: numbers(first) == [1, 2])
        first.signal(signal.SIGINT)  # it may have printed the last one, and not acked it yet
        assert await first.ended() == 130
        await write(client, owner, "three")
    second = await processes.talk(server, "tail", stream, "--ack", "--json")
    third = await processes.talk(server, "tail", stream, "--after", "1")
    await until(lambda: numbers(third) == [2, 3])
    await until(lambda: bool(second.lines) and msgspec.json.decode(second.lines[-1])["seq"] == 3)
    events = [msgspec.json.decode(line) for line in second.lines]
    assert [event["seq"] for event in events] in ([2, 3], [3])
    assert (events[-1]["event_type"], events[-1]["stream_id"]) == ("note_created", stream)


async def test_a_reader_that_leaves_ends_a_tail(
    server: Server, owner: Owner, processes: Processes
) -> None:
    async with connect(server, owner) as client:
        await write(client, owner, "one")
    arguments = ["tail", f"workspace:{owner.workspace}", "--url", server.url]
    arguments += ["--email", "owner@example.org", "--password", "a long enough password"]
    process = await trio.lowlevel.open_process(
        [*DALSEGNO, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with fail_after(20):
        line = await process.stdout.receive_some()
        assert line.startswith(b"1 note_created")
        await process.stdout.aclose()
        assert await process.wait() == 0  # and nothing had to happen for it to notice
        assert await process.stderr.receive_some() == b""
    await process.stderr.aclose()


async def test_what_cannot_be_is_said_in_a_line(
    server: Server, owner: Owner, processes: Processes
) -> None:
    stream = f"workspace:{owner.workspace}"
    commands = {
        ("tail", "workspace:nowhere"): "no such workspace",
        ("tail", stream, "--after", "7"): "the stream is not that long",
        ("send", owner.workspace, "fly", "{}"): "no command 'fly'",
        ("tail", stream, "--url", "http://127.0.0.1:1"): "does not answer",
        ("tail", stream, "--password", "not this one"): "wrong password",
    }
    running = {arguments: await processes.talk(server, *arguments) for arguments in commands}
    for arguments, message in commands.items():
        process = running[arguments]
        assert await process.ended() == 1
        (line,) = process.err.splitlines()
        assert message in line
