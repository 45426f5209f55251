"""How a failed process of the runtime ends: its exit code, and the error whose message is its last line."""

from schemas.errors import KikiError, SetupError

FAILED_EXIT = 1
SETUP_EXIT = 2
"""Exit code of a process that a restart does not help: a person must mend its set-up."""
USAGE_EXIT = 64
"""Exit code of a command whose small codes are verdicts (sysexits' EX_USAGE): it could not do what was asked."""


def exit_code(error: KikiError) -> int:
    """The code that a process ends with after ``error``."""
    return SETUP_EXIT if isinstance(error, SetupError) else FAILED_EXIT


def first_error(group: BaseExceptionGroup[BaseException]) -> KikiError:
    """The first KikiError of an exception group. A group with any other error is a bug: it is raised as it is."""
    kiki_errors, rest = group.split(KikiError)
    if kiki_errors is None or rest is not None:
        raise group
    error: BaseException = kiki_errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, KikiError)
    return error
