"""What every judge says of a reply, and how the asked text is taken out of a chatty one."""

import re
from dataclasses import dataclass

_FENCE = re.compile(r"```[^\n]*\n(.*?)(?:\n?```|\Z)", re.DOTALL)


@dataclass(frozen=True)
class ExpertVerdict:
    """``right``: what was asked for is in the reply. ``alone``: the reply holds nothing else and has the house form."""

    right: bool
    alone: bool = False


def extract_block(reply: str) -> str:
    """The first fenced block of a reply, or else the whole reply."""
    match = _FENCE.search(reply)
    return (match[1] if match else reply).strip()
