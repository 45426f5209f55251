"""What goes wrong, for people and for machines.

    KikiError
    +-- InvalidInput            the client's mistake; ``param`` names the field
    |   +-- UnknownModel        no such model id
    |   +-- InvalidEvent        bytes that do not decode into the expected event
    +-- Refused                 not possible now; a retry may succeed
    |   +-- DeadlineExceeded    the turn's deadline has passed
    |   +-- Unavailable         a part of the runtime is away
    +-- StageFailed             a stage cannot do its part of this turn
    |   +-- InvalidStage        a stage published what its subject does not promise
    +-- SetupError              the machine or the configuration must be mended before anything runs

Every error says what was wrong, what was expected and what to do. ``code`` is public and stable; :data:`CODES` maps it
to the HTTP status that the facade answers with.
"""

CODES: dict[str, int] = {
    "invalid_request": 400,
    "invalid_event": 400,
    "unauthorized": 401,
    "model_not_found": 404,
    "turn_not_found": 404,
    "session_not_found": 404,
    "response_not_found": 404,
    "previous_response_not_found": 404,
    "service_not_found": 404,
    "adapter_not_found": 404,
    "request_timeout": 408,
    "name_taken": 409,
    "not_delivered": 409,
    "out_of_order": 409,
    "already_consumed": 409,
    "body_too_large": 413,
    "context_length_exceeded": 400,
    "unprocessable": 422,
    "matches_nothing": 422,
    "invariant_broken": 409,
    "adapter_not_judged": 409,
    "adapter_refused": 409,
    "budget_exceeded": 422,
    "cancelled": 499,
    "internal_error": 500,
    "inference_failed": 500,
    "adapter_failed": 500,
    "upstream_refused": 502,
    "stage_invalid": 502,
    "setup_error": 500,
    "queue_full": 429,
    "in_hand": 429,
    "unavailable": 503,
    "broker_lost": 503,
    "deadline_exceeded": 504,
}
"""Public error codes and their HTTP status."""


class KikiError(Exception):
    """Root of the runtime's errors. ``param`` names the field at fault; ``retryable`` says that a retry may succeed."""

    code = "internal_error"
    retryable = False

    def __init__(
        self, message: str, *, code: str | None = None, param: str | None = None, retryable: bool | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code
        if retryable is not None:
            self.retryable = retryable

    @property
    def status(self) -> int:
        """The HTTP status of :attr:`code`; 500 for a code that this version does not know."""
        return CODES.get(self.code, 500)


class InvalidInput(KikiError):
    """The client's mistake; ``param`` names the field."""

    code = "invalid_request"


class UnknownModel(InvalidInput):
    """No model has that id; the message says where the ids are listed."""

    code = "model_not_found"


class InvalidEvent(InvalidInput):
    """Bytes that do not decode into the event their subject promises."""

    code = "invalid_event"


class Refused(KikiError):
    """The request cannot be served now, because a queue is full, say; try again later."""

    code = "queue_full"
    retryable = True


class DeadlineExceeded(Refused):
    """The turn's deadline passed before the stage was done."""

    code = "deadline_exceeded"


class Unavailable(Refused):
    """A part of the runtime is away: the broker, the worker, a store."""

    code = "unavailable"


RETRYABLE_CODES = frozenset(
    {*(kind.code for kind in (Refused, DeadlineExceeded, Unavailable)), "broker_lost", "in_hand"}
)
"""Codes whose error is retryable, for a reader that has the code from a message and no exception."""


class StageFailed(KikiError):
    """A stage cannot do its part of this turn, and a retry of the same message would not help."""

    code = "inference_failed"


class InvalidStage(StageFailed):
    """A stage published something that is not the event that its subject promises; the asker is not at fault."""

    code = "stage_invalid"


class SetupError(KikiError):
    """The machine or the configuration must be mended; the message is one line that says how."""

    code = "setup_error"
