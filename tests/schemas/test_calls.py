"""The requests of the contract, each defined once."""

from schemas import calls
from schemas.calls import ADVISE, AWAITS, MEMORY_SEARCH, SERVICES, STATUS, TENANT_SERVICES, Service


def test_every_request_is_in_the_contract() -> None:
    defined = {value for value in vars(calls).values() if isinstance(value, Service)}
    asked_by_name = {ADVISE, AWAITS, STATUS}
    assert defined - asked_by_name <= {*SERVICES, *TENANT_SERVICES}
    by_name = [service.verb for service in SERVICES if service not in defined]
    assert by_name == ["advise.nerve-wml", "advise.kiki-flow", "advise.{advisor}"]


def test_no_two_requests_share_a_verb() -> None:
    for services in (SERVICES, TENANT_SERVICES):
        assert len({service.verb for service in services}) == len(services)


def test_a_request_to_one_by_its_name_has_the_same_structs() -> None:
    there = MEMORY_SEARCH.at("here")
    assert (there.verb, there.request, there.reply) == (
        "memory.search.here",
        MEMORY_SEARCH.request,
        MEMORY_SEARCH.reply,
    )
