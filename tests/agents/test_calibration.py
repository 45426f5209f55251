import math

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.calibration import Priors, calibrated, key
from schemas.chat import Message
from schemas.errors import Unavailable
from schemas.stages import AdapterUse

LABELS = ("KEEP", "REFUSE", "NEUTRAL")
logprobs = st.fixed_dictionaries({label: st.floats(-50, 0) for label in LABELS})
KEY = key("digest", LABELS, (), (Message(role="user", content="N/A"),))


@given(logprobs, logprobs)
def test_probabilities_sum_to_one(scores: dict[str, float], prior: dict[str, float]) -> None:
    assert math.isclose(sum(map(math.exp, calibrated(scores, prior).values())), 1.0, rel_tol=1e-9)


@given(logprobs)
def test_what_the_blank_prompt_says_too_says_nothing(scores: dict[str, float]) -> None:
    assert all(math.isclose(value, -math.log(3), abs_tol=1e-9) for value in calibrated(scores, scores).values())


def test_a_habit_is_taken_away() -> None:
    prior = {"KEEP": -1.0, "REFUSE": -9.0, "NEUTRAL": -9.0}
    scores = {"KEEP": -1.0, "REFUSE": -6.0, "NEUTRAL": -9.0}
    assert max(calibrated(scores, prior).items(), key=lambda pair: pair[1])[0] == "REFUSE"


def test_a_prior_depends_on_model_adapters_labels_and_prompt() -> None:
    message = Message(role="user", content="N/A")
    keys = {
        KEY,
        key("other", LABELS, (), (message,)),
        key("digest", ("YES", "NO"), (), (message,)),
        key("digest", LABELS, (AdapterUse(name="python"),), (message,)),
        key("digest", LABELS, (), (Message(role="user", content="N/A?"),)),
    }
    assert len(keys) == 5


@pytest.mark.anyio
async def test_many_turns_ask_once() -> None:
    priors, asked = Priors(), 0

    async def score() -> dict[str, float]:
        nonlocal asked
        asked += 1
        await anyio.sleep(0.01)
        return {"KEEP": -1.0}

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(priors.of, KEY, score)
    assert asked == 1
    assert len(priors) == 1


@pytest.mark.anyio
async def test_a_failure_is_not_remembered() -> None:
    priors = Priors()

    async def fails() -> dict[str, float]:
        raise Unavailable("no worker")

    async def answers() -> dict[str, float]:
        return {"KEEP": -2.0}

    with pytest.raises(Unavailable):
        await priors.of(KEY, fails)
    assert await priors.of(KEY, answers) == {"KEEP": -2.0}


@pytest.mark.anyio
async def test_a_cancelled_turn_leaves_the_question_to_the_next() -> None:
    priors = Priors()

    async def never() -> dict[str, float]:
        await anyio.sleep_forever()
        raise AssertionError

    async def answers() -> dict[str, float]:
        return {"KEEP": -2.0}

    with anyio.move_on_after(0.02) as turn:
        await priors.of(KEY, never)
    assert turn.cancelled_caught
    with anyio.fail_after(5):
        assert await priors.of(KEY, answers) == {"KEEP": -2.0}
