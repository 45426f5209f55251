"""The scripted worker of a soak: ``python -m runtime.soak.worker``, in the place of the process ``inference``.

It decodes nothing. Its answer names the marks of what it was given to read (:func:`runtime.soak.history.write_answer`),
so that the judge sees whose words reached whom.
"""

from functools import partial

import anyio

from bus.testing import ScriptedWorker
from runtime import process
from runtime.agents import replace_agent
from runtime.observability import configure
from runtime.settings import Settings, load_settings
from runtime.soak.history import write_answer
from schemas.events import RecallDone
from schemas.jobs import Job

CONCURRENCY = 32

NAME = "inference"


def answer_turn(event: RecallDone) -> str:
    """The answer to a turn."""
    *before, question = [message.content for message in event.query.messages if message.role == "user"]
    return write_answer(question, before, [hit.question for hit in event.recall.hits])


def answer_job(job: Job) -> dict[str, float] | str:
    """Every choice is as likely as the others, and a text is the same for everybody."""
    return dict.fromkeys(job.choices, -1.0) if job.choices else "Yes."


def build(_: Settings) -> ScriptedWorker:
    """The agent that takes the real worker's place."""
    return ScriptedWorker(on_turn=answer_turn, on_job=answer_job, concurrency=CONCURRENCY)


def main() -> None:
    """Run the worker until the process is stopped."""
    replace_agent(NAME, build)
    settings = load_settings()
    configure(settings, service=NAME)
    anyio.run(partial(process.serve, [NAME], settings), backend="asyncio")


if __name__ == "__main__":
    main()
