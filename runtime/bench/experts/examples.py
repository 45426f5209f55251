"""The small fleet's examples, ``configs/adapters/<domain>``: what was asked, the answer, and how a reply is judged."""

from importlib.resources import files
from pathlib import Path
from typing import Literal

import msgspec

from runtime.bench.experts.commands import judge_command
from runtime.bench.experts.french import judge_french
from runtime.bench.experts.netlists import judge_netlist
from runtime.bench.experts.queries import judge_query
from runtime.bench.experts.sexpressions import judge_sexpressions
from runtime.bench.experts.verdict import ExpertVerdict
from schemas.chat import Message

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


class ExpertExample(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of the data. ``database`` names the script in ``databases/`` that SQL runs on; ``facts`` are what a French
    answer must say where its wording is free."""

    messages: tuple[Message, ...]
    database: str = ""
    facts: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        """What is asked."""
        return self.messages[0].content

    @property
    def answer(self) -> str:
        """The answer that is learnt, or that a reply is compared with."""
        return self.messages[-1].content


def examples_folder() -> Path:
    """``configs/adapters``."""
    return Path(str(files("configs"))) / "adapters"


def list_domains() -> tuple[str, ...]:
    """The domains that have examples, in alphabetical order."""
    return tuple(sorted(path.parent.name for path in examples_folder().glob("*/test.jsonl")))


def read_examples(domain: str, split: Split) -> tuple[ExpertExample, ...]:
    """The examples of one split."""
    lines = (examples_folder() / domain / f"{split}.jsonl").read_bytes().splitlines()
    return tuple(msgspec.json.decode(line, type=ExpertExample) for line in lines)


def judge_reply(domain: str, split: Split, example: ExpertExample, reply: str) -> ExpertVerdict:
    """Judge a reply to an example of a domain by the domain's program."""
    folder = examples_folder() / domain
    match domain:
        case "sql":
            database = (folder / "databases" / f"{example.database}.sql").read_text(encoding="utf-8")
            return judge_query(reply, example.answer, database)
        case "shell":
            script = "test-folder.sh" if split == "test" else "folder.sh"
            return judge_command(reply, example.answer, (folder / script).read_text(encoding="utf-8"))
        case "kicad-dsl":
            return judge_sexpressions(reply, example.answer)
        case "spice":
            return judge_netlist(reply, example.answer)
        case "chat-fr":
            return judge_french(reply, example.answer, example.facts)
        case _:
            raise ValueError(f"no judge for the domain '{domain}'")
