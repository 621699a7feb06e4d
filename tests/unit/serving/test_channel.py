from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from cluster.errors import InvalidInput, Unavailable
from serving import channel
from serving.channel import SECRET_BYTES, Event, Inbox, Outbox, ReplyTo, decode, encode, received
from serving.engine import CallDelta, Delta, TokenLogprob
from serving.generator import Answer, Completion, Progress, PromptReport, ToolCall

TOKENS = (TokenLogprob("a", -0.5, (("a", -0.5), ("b", -1.5))),)
EVENTS: list[Event] = [
    PromptReport(7, 2, 1),
    Progress(16),
    [Delta(0, "Größe 👍", 3), Delta(1, "", 1, "length", TOKENS)],
    [Delta(0, "", 1, "tool_calls", calls=(CallDelta(0, "call_1", "f", "{"), CallDelta(0, None, None, "}")))],
    Completion(PromptReport(7), (Answer("x\ny", 2, "stop", TOKENS), Answer("", 0, "length"))),
    Completion(PromptReport(7), (Answer("", 2, "tool_calls", calls=(ToolCall("call_1", "f", "{}"),)),)),
]


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 5))


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_is_the_same_after_its_way(event: Event) -> None:
    assert decode(encode(event)) == event


def test_many_requests_share_a_connection_and_get_their_own_events_in_order() -> None:
    async def main() -> None:
        inbox, outbox = Inbox("127.0.0.1"), Outbox()

        async def request(number: int) -> list[Event]:
            async def replica() -> int:
                for step in range(20):
                    await outbox.send(reply_to, [Delta(0, f"{number}-{step}", 1)])
                return 20

            async with inbox.open() as (reply_to, queue):
                return [event async for event in received(asyncio.ensure_future(replica()), queue)]

        answers = await asyncio.gather(*map(request, range(10)))
        for number, events in enumerate(answers):
            assert events == [[Delta(0, f"{number}-{step}", 1)] for step in range(20)]
        await outbox.close()
        await inbox.close()

    run(main())


def test_an_answer_that_is_too_long_is_refused_and_leaves_the_connection_to_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channel, "MAX_FRAME_BYTES", 200)

    async def main() -> None:
        inbox, outbox = Inbox("127.0.0.1"), Outbox()
        async with inbox.open() as (first, _), inbox.open() as (second, queue):
            with pytest.raises(InvalidInput, match="or for a stream"):
                await outbox.send(first, Completion(PromptReport(7), (Answer("x" * 200, 2, "stop"),)))
            await outbox.send(second, PromptReport(1))
            assert await queue.get() == PromptReport(1)
        await outbox.close()
        await inbox.close()

    run(main())


def test_an_error_of_the_call_reaches_the_reader_after_what_was_sent() -> None:
    async def main() -> None:
        inbox, outbox = Inbox("127.0.0.1"), Outbox()
        seen: list[Event] = []

        async def replica() -> int:
            await outbox.send(reply_to, PromptReport(1))
            await asyncio.sleep(0.05)
            raise Unavailable("the engine failed")

        async with inbox.open() as (reply_to, queue):
            events = received(asyncio.ensure_future(replica()), queue)
            seen.append(await anext(events))
            with pytest.raises(Unavailable, match="engine failed"):
                await anext(events)
        assert seen == [PromptReport(1)]
        await outbox.close()
        await inbox.close()

    run(main())


def test_events_that_never_come_are_an_error_and_no_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "LATE_S", 0.05)

    async def main() -> None:
        async def replica() -> int:
            return 3

        with pytest.raises(Unavailable, match="lost"):
            async for _ in received(asyncio.ensure_future(replica()), asyncio.Queue()):
                pass

    run(main())


def test_a_call_that_is_given_up_is_an_error_and_no_wait_for_ever() -> None:
    async def main() -> None:
        call: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        events = received(call, asyncio.Queue())
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(Unavailable, match="given up"):
            await waiting

    run(main())


def test_a_stranger_without_the_secret_is_not_listened_to() -> None:
    async def main() -> None:
        inbox = Inbox("127.0.0.1")
        async with inbox.open() as (reply_to, queue):
            reader, writer = await asyncio.open_connection(reply_to.host, reply_to.port)
            payload = reply_to.key + encode(PromptReport(666))
            writer.write(bytes(channel.SECRET_BYTES) + len(payload).to_bytes(4, "big") + payload)
            assert await reader.read() == b""
            assert queue.empty()
            writer.close()
        await inbox.close()

    run(main())


def test_a_router_that_has_gone_is_told_and_connected_to_again_later() -> None:
    async def main() -> None:
        outbox, inbox = Outbox(), Inbox("127.0.0.1")
        async with inbox.open() as (reply_to, _):
            pass
        await inbox.close()
        with pytest.raises(Unavailable, match="cannot be reached"):
            await outbox.send(reply_to, PromptReport(1))
        await outbox.close()

    run(main())


def test_an_outbox_closes_also_while_it_connects_to_a_router_that_has_gone() -> None:
    async def main() -> None:
        outbox, inbox = Outbox(), Inbox("127.0.0.1")
        async with inbox.open() as (reply_to, _):
            pass
        await inbox.close()
        sending = asyncio.create_task(outbox.send(reply_to, PromptReport(1)))
        await asyncio.sleep(0)
        sending.cancel()
        await outbox.close()

    run(main())


def test_the_socket_to_a_router_that_has_gone_is_given_back_when_others_are_connected_to() -> None:
    async def main() -> None:
        outbox, given_back = Outbox(), asyncio.Event()

        async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write_eof()
            await reader.read()  # until the other end is closed too
            given_back.set()
            writer.close()

        server = await asyncio.start_server(leave, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        await outbox.send(ReplyTo("127.0.0.1", port, bytes(SECRET_BYTES), b""), PromptReport(1))
        while not given_back.is_set():
            inbox = Inbox("127.0.0.1")
            async with inbox.open() as (reply_to, queue):
                await outbox.send(reply_to, PromptReport(1))
                await queue.get()
            await inbox.close()
        await outbox.close()
        server.close()

    run(main())
