"""The parts of a subject, read back from what the same class builds."""

import pytest

from bus.subjects import Subjects
from schemas.events import STAGE_EVENTS
from schemas.services import ServiceRegistered


@pytest.mark.parametrize("prefix", ["kiki", "lab-2"])
def test_a_subject_says_its_kind_and_its_key(prefix: str) -> None:
    subjects = Subjects(prefix)
    for kind in STAGE_EVENTS:
        subject = subjects.stage(kind.subject, "t-1")
        assert (Subjects.kind(subject), Subjects.key(subject)) == (kind.subject, "t-1")
    registered = subjects.stage(ServiceRegistered.subject, "dream")
    assert (Subjects.kind(registered), Subjects.key(registered)) == ("service.registered", "dream")


def test_a_runtime_owns_the_subjects_of_its_prefix_alone() -> None:
    subjects = Subjects("kiki")
    assert subjects.owns("kiki.query.received.t")
    assert subjects.owns("kiki")
    assert not subjects.owns("kikis.query.received.t")
    assert not subjects.owns("_INBOX.kiki.1")
