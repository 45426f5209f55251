"""Every stock client, unchanged, is served by a live runtime: a test per client and check."""

from collections.abc import Iterator

import pytest

from tests.clients.catalogue import CLIENTS, StockClient
from tests.clients.conftest import Reports


def parameters() -> Iterator[object]:
    """Each client with each of its checks."""
    for client in CLIENTS:
        for check in client.checks:
            marks = [] if check in client.core else [pytest.mark.soak]
            # The first check of a client waits for its environment and its whole program.
            marks.append(pytest.mark.timeout(1500 if check in client.core else 3300))
            yield pytest.param(
                client, check, id=f"{client.language}-{client.name}-{check}".replace(" ", "-"), marks=marks
            )


@pytest.mark.parametrize(("client", "check"), list(parameters()))
def test_a_stock_client_is_served(reports: Reports, client: StockClient, check: str) -> None:
    problem = reports.read(client).get(check, "the program did not run this check")
    if problem is not None:
        pytest.fail(f"{client.name}, {check}: {problem}", pytrace=False)
