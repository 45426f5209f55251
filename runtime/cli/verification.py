"""What ``kiki memory verify`` prints: how the stores differ from the record, and what the record itself has lost."""

from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from bus.broker import find_block
from bus.topology import EPISODES
from runtime.cli import out
from runtime.settings import Settings
from schemas.errors import KikiError
from schemas.memory import VerifyReply

NAMED = 20
"""Lines of one kind that are printed."""

Range = tuple[int, int]


def print_verification(reply: VerifyReply, settings: Settings) -> None:
    """Print the reply. What is lost is told by file where the broker is the embedded one."""
    table = Table("store", "missing", "unknown", "different", box=None)
    different = {store: sum(entry.store == store for entry in reply.differences) for store in ("atlas", "trace")}
    table.add_row(
        "atlas", str(len(reply.missing_in_atlas)), str(reply.unknown_in_atlas), _at_least(different["atlas"], reply)
    )
    table.add_row(
        "trace", str(len(reply.missing_in_trace)), str(reply.unknown_in_trace), _at_least(different["trace"], reply)
    )
    out.print(f"{reply.recorded} episodes recorded, {reply.waiting} of them on their way", highlight=False)
    out.print(table)
    _print_lines([f"{e.store}: episode {e.episode_id} differs in {', '.join(e.fields)}" for e in reply.differences])
    if reply.unreadable:
        names = ", ".join(str(seq) for seq in reply.unreadable)
        out.print(f"{len(reply.unreadable)} entries of the record cannot be read: {names}", highlight=False)
    if reply.unrecorded:
        out.print(f"{len(reply.unrecorded)} episodes are in the stores and not in the record:", highlight=False)
        _print_lines([f"episode {name}" for name in reply.unrecorded])
        if reply.first_seq > 1:
            out.print(f"the record begins at sequence {reply.first_seq}: was it trimmed?", highlight=False)
    _print_lines([describe_loss(lost, settings) for lost in reply.lost])


def refuse_disagreement(reply: VerifyReply) -> None:
    """Raise the error that says what to do; none when all agree.

    Raises:
        KikiError: the stores or the record are not whole.
    """
    if reply.lost or reply.unrecorded:
        raise KikiError(
            "the record lost entries: put its files back from a copy. 'kiki memory rebuild' makes the stores from what "
            "is left of it, without the episodes that only they still hold."
        )
    if reply.differs:
        raise KikiError("the stores differ from the record: 'kiki memory rebuild' makes them again from it.")
    if reply.unreadable:
        raise KikiError(
            "the stores agree with what can be read of the record; what the other entries hold is in no store, and "
            "'kiki replay --from SEQUENCE' shows them."
        )


def describe_loss(lost: Range, settings: Settings) -> str:
    """Where the lost sequences are, or were: the embedded broker's files, or the stream alone."""
    first, last = lost
    sequences = f"sequence {first}" if first == last else f"sequences {first} to {last}"
    return f"{EPISODES}: {sequences} missing or unreadable{_where(lost, settings)}"


def _where(lost: Range, settings: Settings) -> str:
    if settings.nats is not None:
        return ""
    files = list(dict.fromkeys(_blocks(lost, settings.data_dir / "nats")))
    return f" in {' and '.join(files)}" if files else ""


def _blocks(lost: Range, directory: Path) -> Iterator[str]:
    for seq in lost:
        block = find_block(directory, EPISODES, seq)
        if block is not None:
            yield str(block)


def _at_least(count: int, reply: VerifyReply) -> str:
    """The number; with a plus where the reply does not name all."""
    return f"{count}+" if reply.different > len(reply.differences) else str(count)


def _print_lines(lines: list[str]) -> None:
    for line in lines[:NAMED]:
        out.print(line, highlight=False, soft_wrap=True, markup=False)
    if len(lines) > NAMED:
        out.print(f"and {len(lines) - NAMED} more", highlight=False)
