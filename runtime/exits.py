"""How a process of the runtime ends when it fails: its exit code, and the error that its one line is made of."""

from schemas.errors import KikiError, SetupError

FAILED_EXIT = 1
SETUP_EXIT = 2
"""Exit code of a process whose set-up must be mended by a person."""


def exit_code(error: KikiError) -> int:
    """The code that a process ends with after ``error``."""
    return SETUP_EXIT if isinstance(error, SetupError) else FAILED_EXIT


def first_error(group: BaseExceptionGroup[BaseException]) -> KikiError:
    """The error of ours in a task group's bundle; anything else is a bug and keeps its traceback."""
    ours, rest = group.split(KikiError)
    if ours is None or rest is not None:
        raise group
    error: BaseException = ours
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, KikiError)
    return error
