"""Whose request it is: the tenant of its key, and the user whom it names."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from schemas.envelope import MAX_USER, PERSON, USER_PATTERN
from schemas.errors import InvalidInput

USER_HEADERS = ("X-User-Id", "X-OpenWebUI-User-Id")
"""Headers that name the user; the second one is Open WebUI's, which it forwards when it is set to."""


class Owner(NamedTuple):
    """The tenant of a request and the user whom it names; ``user`` is empty when it names none."""

    tenant: str
    user: str


def name_user(headers: Mapping[str, str], *fields: tuple[str, str | None], one_memory: bool) -> str:
    """The user whom a request names in its headers or in ``fields`` (pairs of a field's name and value).

    Without a name it is nobody, the empty text; with ``one_memory`` it is the machine's person.

    Raises:
        InvalidInput: two of them differ, or one is no name.
    """
    named = [*fields, *((header, headers.get(header)) for header in USER_HEADERS)]
    users = {field: value for field, value in named if value}
    for field, value in users.items():
        if len(value) > MAX_USER or not re.fullmatch(USER_PATTERN, value):
            raise InvalidInput(f"'{field}' is no name: one line of at most {MAX_USER} characters.", param=field)
    if len(set(users.values())) > 1:
        raise InvalidInput(f"{' and '.join(users)} name different users: send one.", param=next(iter(users)))
    return next(iter(users.values()), PERSON if one_memory else "")
