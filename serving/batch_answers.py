"""Answers the rows of batches by what answers the HTTP endpoints, with the rights and limits of who made the batch."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from cluster.batch_records import Batch
from cluster.errors import HamletError, Overloaded, Unavailable
from serving.api import READY, Front
from serving.authentication import Gate
from serving.batch_input import BODIES, Row
from serving.error_handlers import DATABASE_AWAY
from serving.errors import error_body, from_validation, internal_error
from serving.limits import Allowance

log = logging.getLogger(__name__)

# A row that a part fails on so often, over a quarter of a minute and well before each time, is the cause itself.
MAX_TRIES = 6
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
# How often to look whether interactive requests leave room.
ROOM_POLL_S = 0.1


@dataclass(frozen=True)
class Answer:
    """What became of a row: the HTTP status and body that it would have had by itself."""

    status: int
    request_id: str
    body: dict[str, Any]

    @property
    def tokens(self) -> tuple[int, int]:
        """Of the prompt and of the completion."""
        usage = self.body.get("usage") or {}
        return usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)


class BatchAnswers:
    """Rows of all batches of one router, at most `max_at_once` at a time. For one event loop."""

    def __init__(self, front: Front, gate: Gate, max_at_once: int) -> None:
        self._gate = gate
        self._front = front
        self._places = asyncio.Semaphore(max_at_once)
        self._verbs: dict[str, Callable[[Any, Request], Awaitable[Response]]] = {
            "/v1/chat/completions": front.chat,
            "/v1/completions": front.complete,
            "/v1/embeddings": front.embed,
            "/v1/classify": front.classify,
            "/v1/rerank": front.rerank,
        }

    async def admitted(self, batch: Batch) -> Allowance:
        """The allowance of a batch's next row, once its maker's rate limits let it in."""
        allowance = self._gate.allowance(batch.key_id, batch.tenant)
        while True:
            try:
                allowance.admit()
            except Overloaded as exc:
                await asyncio.sleep(min(exc.retry_after_s or FIRST_PAUSE_S, LONGEST_PAUSE_S))
            else:
                return allowance

    async def answer(self, batch: Batch, row: Row, allowance: Allowance) -> Answer:
        """Answer a row, however long it takes: a part that is full or down is waited for, without a place."""
        request_id = f"req_{uuid.uuid4().hex}"
        num_tries, pause_s = 0, FIRST_PAUSE_S
        while True:
            try:
                async with self._places:
                    await self._room()
                    return await self._asked(batch, row, allowance, request_id)
            except (Overloaded, Unavailable) as exc:
                if exc.code != Overloaded.default_code:  # a full queue is not the row's fault
                    num_tries += 1
                    if num_tries >= MAX_TRIES or exc.code == "timeout":
                        return Answer(exc.status, request_id, error_body(exc))
                    await self._recovered()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _asked(self, batch: Batch, row: Row, allowance: Allowance, request_id: str) -> Answer:
        """What the endpoint answers. Raises Overloaded and Unavailable, after which it may answer another time."""
        request = _request(batch, allowance, request_id)
        try:
            body = BODIES[batch.endpoint].model_validate(row.body)
            response = await self._verbs[batch.endpoint](body, request)
        except (Overloaded, Unavailable):
            raise
        except HamletError as exc:
            error = exc
        except ValidationError as exc:
            error = from_validation(exc.errors())
        except DATABASE_AWAY as exc:
            raise Unavailable("the state database does not answer; try again shortly") from exc
        except Exception:
            log.exception("request %s, line %d of %s, failed", request_id, row.line, batch.id)
            error = internal_error(request_id)
        else:
            return Answer(response.status_code, request_id, orjson.loads(response.body))
        return Answer(error.status, request_id, error_body(error))

    async def _room(self) -> None:
        while self._front.admission.is_half_full:
            await asyncio.sleep(ROOM_POLL_S)

    async def _recovered(self) -> None:
        """Wait until every part is well: which of them a row needs is known to what answers it alone."""
        pause_s = FIRST_PAUSE_S
        while any(state != READY for state in (await self._front.part_states()).values()):
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _request(batch: Batch, allowance: Allowance, request_id: str) -> Request:
    """The request that a row would have been: of the batch's tenant, by a client that never leaves."""
    state = {
        "tenant": batch.tenant,
        "key_id": batch.key_id,
        "allowance": allowance,
        "request_id": request_id,
    }
    scope = {"type": "http", "method": "POST", "path": batch.endpoint, "headers": [], "state": state}
    return Request(scope, _never)


async def _never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")
