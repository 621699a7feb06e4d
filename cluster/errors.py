"""One tree of errors for every package, and nothing else.

    HamletError
    ├── InvalidInput            400  the caller's mistake; `param` names the field
    │   ├── ConfigError         400  a configuration file or override
    │   ├── DataError           400  a training or document file; `details` has all faults
    │   ├── TooLarge            413  a file above the limit
    │   ├── UnsupportedMediaType 415 a body that is not sent as JSON
    │   └── ContextLengthExceeded 400  prompt and answer do not fit the model
    ├── Unauthenticated         401  no API key, or none that is valid
    ├── Forbidden               403  the key's scopes do not open this
    ├── NotFound                404  no such model, collection, file or job
    ├── Conflict                409  the thing exists already, or is held by another
    ├── Unprocessable           422  well-formed but without usable content, or under a key of another request
    ├── Overloaded              429  too many requests are waiting; has `retry_after_s`
    ├── Unavailable             503  a part is down or not ready; has `retry_after_s`
    │   ├── HubUnreachable      503  a model or data hub does not answer
    │   └── StoreUnavailable    503  the vector store does not answer
    └── JobFailed               500  a training run ended without a model

Third-party errors are translated into these where they enter (`raise StoreUnavailable(...) from exc`).
The command lines print the message in one line and exit with 2; the HTTP API maps `status`, `type`,
`param` and `code` to OpenAI's error object. Every message names the cause and the remedy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class HamletError(Exception):
    """Root of the tree. Picklable, so that it crosses Ray workers unchanged.

    `param` is the offending field in dotted form (`data.path`, `messages[1].role`);
    `code` is OpenAI's machine-readable word for the error; `details` is what does not fit a sentence, as JSON.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        # All five go to `args`, which is what pickle calls the class with again.
        super().__init__(message, param, code, retry_after_s, details)
        self.message = message
        self.param = param
        self.code = code or self.default_code
        self.retry_after_s = retry_after_s
        self.details = details

    def __str__(self) -> str:
        return self.message


class InvalidInput(HamletError):
    status, type, default_code = 400, "invalid_request_error", "invalid_value"


class ConfigError(InvalidInput):
    default_code = "invalid_config"


class DataError(InvalidInput):
    default_code = "invalid_file"


class TooLarge(InvalidInput):
    status, default_code = 413, "file_too_large"


class UnsupportedMediaType(InvalidInput):
    status, default_code = 415, "unsupported_media_type"


class ContextLengthExceeded(InvalidInput):
    default_code = "context_length_exceeded"


class Unauthenticated(HamletError):
    status, type, default_code = 401, "invalid_request_error", "invalid_api_key"


class Forbidden(HamletError):
    status, type, default_code = 403, "invalid_request_error", "insufficient_permissions"


class NotFound(HamletError):
    status, type, default_code = 404, "invalid_request_error", "not_found"


class Conflict(HamletError):
    status, type, default_code = 409, "invalid_request_error", "conflict"


class Unprocessable(HamletError):
    status, type, default_code = 422, "invalid_request_error", "unprocessable"


class Overloaded(HamletError):
    status, type, default_code = 429, "rate_limit_error", "overloaded"


class Unavailable(HamletError):
    status, type, default_code = 503, "service_unavailable", "unavailable"


class HubUnreachable(Unavailable):
    default_code = "hub_unreachable"


class StoreUnavailable(Unavailable):
    default_code = "store_unavailable"


class JobFailed(HamletError):
    default_code = "job_failed"


def some_of(names: Sequence[str], limit: int = 20) -> str:
    """Names for a message, which is read: not all of thousands.

    >>> some_of(["a", "b", "c"]), some_of(["a", "b", "c"], limit=2)
    ('a, b, c', 'a, b and 1 more')
    """
    listed = ", ".join(names[:limit])
    return f"{listed} and {len(names) - limit:,} more" if len(names) > limit else listed
