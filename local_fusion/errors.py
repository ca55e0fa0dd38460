"""Everything that can go wrong, by whose fault it is.

```
LocalFusionError                 message + hint (what to do next), fault, HTTP status, code
├── CallerError                  fault "caller": mend the call and try again
│   ├── ConfigError              a configuration file: file, line, key, what was expected         exit 2
│   ├── RequestError             a request field is unknown or has a bad value                    400 + param
│   │   ├── ContextTooLong       the conversation does not fit the model's context                400
│   │   ├── NoThreads            the server is to keep the conversation, which it does not        400
│   │   ├── TakesNoImages        there are images, and whoever is asked cannot see                400
│   │   └── UnknownResponse      the response to go on from is not there (any more)               400
│   ├── Unauthorized             there is no key, or none that we know                            401
│   ├── Forbidden                whoever asks may not do this                                     403
│   ├── UnknownModel             no fusion and no engine has that name                            404, exit 2
│   ├── NotFound                 the server has no such path                                      404
│   ├── MethodNotAllowed         the path does not take that method                               405
│   ├── TooSlow                  the request took too long to arrive                              408
│   ├── TooLarge                 the request is over a limit                                      413
│   ├── TooDeep                  endpoints ask each other, in circles as it seems                 400
│   ├── BudgetSpent              what the request may cost was spent before there was an answer   400
│   ├── TooMany                  whoever asks has to wait: a limit of calls, tokens, connections  429 + Retry-After
│   │   └── QueueFull            more calls wait for an engine than may                           429 + Retry-After
│   └── Refused                  the planner: this does not fit on these devices                  exit 1
├── EngineError                  fault "engine": the engine (vLLM) failed, not the caller
│   ├── EngineStartFailed        it did not become ready; `permanent` says a retry is pointless   503
│   ├── EngineUnavailable        it is stopped or broken and will not answer                      503
│   │   └── MemoryTaken          it cannot wake: others hold the memory that it needs             503
│   ├── EngineDied               it went away in the middle of a call                             502
│   ├── EngineRejected           it answered with an error of its own                             502
│   │   ├── NotJson              it answered, but not with the JSON that it was asked for         502
│   │   └── NotTheSchema         its JSON is not of the shape that it was asked for               502
│   ├── EmptyAnswer              it answered, but with nothing                                    502
│   └── DeadlineExceeded         it did not answer within the stage's deadline                    504
├── PanelFailed                  fault "engine": fewer candidates than the quorum; holds each failure  502
├── VerifierFailed               fault "us": a program that checks candidates did not do its work  500
├── RemoteError                  fault "us": the error of a server that was asked, passed on        exit 1
└── SetupError                   fault "us": this machine or installation lacks something         exit 1
```

Foreign exceptions (aiohttp, OSError, pydantic, yaml) are translated at the border where they arise and nowhere else.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from local_fusion.core.records import Failure

Fault = Literal["caller", "engine", "us"]


class LocalFusionError(Exception):
    """The root: a `message` for people and a `hint` that says what to do next."""

    fault: ClassVar[Fault] = "us"
    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.hint}" if self.hint else self.message


class CallerError(LocalFusionError):
    """The caller can mend it."""

    fault = "caller"
    status = 400
    code = "invalid_request"


class ConfigError(CallerError):
    """A configuration file is wrong. `problems` holds one line each: `file:line: key: what was expected`."""

    code = "invalid_config"
    exit_code = 2

    def __init__(self, problems: list[str], *, file: Path | None = None, hint: str = "") -> None:
        super().__init__("\n".join(problems), hint=hint)
        self.problems = problems
        self.file = file


class RequestError(CallerError):
    """A request field is unknown or has a bad value; `param` names it as a path (`messages[2].role`)."""

    def __init__(self, message: str, *, param: str | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.param = param


class ContextTooLong(RequestError):
    """The conversation and the tokens asked for do not fit the model's context."""

    code = "context_length_exceeded"


class NoThreads(RequestError):
    """The server is to keep the conversation, which it does not. Clients of Anthropic's then send all of it."""

    code = "thread_unsupported_request"


class TakesNoImages(RequestError):
    """There are images in the conversation, and whoever is asked takes none."""

    code = "takes_no_images"


class UnknownResponse(RequestError):
    """The response from which a conversation is to go on is not there: never was, was not kept, or not any more."""

    code = "previous_response_not_found"


class Unauthorized(CallerError):
    """There is no key, or none that we know; which part of it is wrong is never told."""

    status = 401
    code = "invalid_api_key"


class Forbidden(CallerError):
    """Whoever asks may not do this, however well the request is formed."""

    status = 403
    code = "forbidden"


class UnknownModel(CallerError):
    """No fusion and no engine has that name."""

    status = 404
    code = "model_not_found"
    exit_code = 2


class NotFound(CallerError):
    """There is no such path."""

    status = 404
    code = "not_found"


class MethodNotAllowed(CallerError):
    """The path is there, but not for that method."""

    status = 405
    code = "method_not_allowed"


class TooSlow(CallerError):
    """The request took too long to arrive."""

    status = 408
    code = "request_timeout"


class TooLarge(CallerError):
    """The request is over one of the server's limits."""

    status = 413
    code = "request_too_large"


class TooDeep(CallerError):
    """Endpoints ask each other, in circles as it seems."""

    code = "too_deep"


class BudgetSpent(CallerError):
    """What the request may cost was spent before there was anything to answer with."""

    code = "budget_spent"


class TooMany(CallerError):
    """Whoever asks has reached a limit; in `retry_seconds` there should be room again."""

    status = 429
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_seconds: float, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_seconds = retry_seconds


class QueueFull(TooMany):
    """More calls wait for an engine than may."""

    code = "queue_full"


class Refused(CallerError):
    """The planner's refusal: the models do not fit on these devices."""

    status = 503
    code = "does_not_fit"


class EngineError(LocalFusionError):
    """An engine failed; neither the caller nor we did."""

    fault = "engine"
    status = 502
    code = "engine_error"


class EngineStartFailed(EngineError):
    """An engine did not become ready. `permanent`: starting it again cannot help."""

    status = 503
    code = "engine_start_failed"

    def __init__(self, message: str, *, hint: str = "", permanent: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.permanent = permanent


class EngineUnavailable(EngineError):
    """An engine is stopped or broken and will not answer."""

    status = 503
    code = "engine_unavailable"


class MemoryTaken(EngineUnavailable):
    """An engine cannot wake, because others hold the memory that the plan gave it."""

    code = "memory_taken"


class EngineDied(EngineError):
    """An engine went away in the middle of a call."""

    code = "engine_died"


class EngineRejected(EngineError):
    """An engine answered with an error of its own; `engine_status` is its HTTP status."""

    code = "engine_rejected"

    def __init__(self, message: str, *, hint: str = "", engine_status: int = 500) -> None:
        super().__init__(message, hint=hint)
        self.engine_status = engine_status


class NotJson(EngineRejected):
    """A model was asked for JSON and answered with something else."""

    code = "not_json"


class NotTheSchema(EngineRejected):
    """A model answered with JSON of another shape than it was asked for."""

    code = "not_the_schema"


class EmptyAnswer(EngineError):
    """A model answered, but with nothing."""

    code = "empty_answer"


class DeadlineExceeded(EngineError):
    """A stage ran into its deadline."""

    status = 504
    code = "deadline_exceeded"


class PanelFailed(LocalFusionError):
    """Fewer candidates than the quorum asks for. `failures` names each member's cause."""

    fault = "engine"
    status = 502
    code = "panel_failed"

    def __init__(self, message: str, *, failures: tuple[Failure, ...], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.failures = failures


class VerifierFailed(LocalFusionError):
    """A program that was to check a candidate could not be run, or neither accepted nor rejected it in time."""

    code = "verifier_failed"


class RemoteError(LocalFusionError):
    """The error of a running server that was asked, passed on as it was told."""

    status = 502
    code = "remote_error"


class SetupError(LocalFusionError):
    """This machine or this installation lacks something that we need."""

    status = 503
    code = "setup_error"
