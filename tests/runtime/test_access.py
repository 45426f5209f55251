"""The embedded broker with its users: each does what its role says, and everything else is refused."""

import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest
from nats.aio.client import Client

from bus.access.login import NO_LOGIN, OWNER
from bus.access.permissions import Permissions, permissions_of
from bus.broker import EmbeddedBroker, run_broker
from bus.connection import BusSettings, connect
from bus.errors import BrokerUnavailable
from bus.stream import measure_stream, purge
from bus.subjects import Subjects, covers
from bus.topology import EPISODES, STREAMS
from runtime.access import ROLES, TRUSTED, list_users, login_of
from runtime.agents import all_agents
from schemas.calls import AWAITS, SERVICES, STATUS
from schemas.errors import SetupError

pytestmark = pytest.mark.anyio

SUBJECTS = Subjects()
USERS = list_users(Path("nowhere"), SUBJECTS.prefix)
TRIMMERS = {"memory", "services"}
DESTROYING = ("STREAM.PURGE", "STREAM.DELETE", "STREAM.MSG.DELETE", "STREAM.UPDATE", "STREAM.RESTORE")


@pytest.fixture(scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[EmbeddedBroker, Path]]:
    """A broker as 'kiki up' starts it, with all streams, and its directory."""
    directory = tmp_path_factory.mktemp("guarded") / "nats"
    async with run_broker(directory, port=0, users=USERS) as broker:
        async with connect(settings_of(broker, directory, "memory"), name="memory") as bus:
            await bus.reconcile()
        yield broker, directory


def settings_of(broker: EmbeddedBroker, directory: Path, user: str) -> BusSettings:
    """How the user connects."""
    return BusSettings(url=broker.url, login=login_of(directory, user), publish_timeout=1.0)


class Witness:
    """A user's connection that notes which subjects the broker refuses to it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.refused: set[str] = set()

    async def note(self, error: Exception) -> None:
        if "permissions violation" in str(error):
            self.refused.add(str(error).split('"')[1])

    async def publish(self, subjects: set[str]) -> set[str]:
        """Which of the subjects are refused when something is published on them."""
        return await self._try(subjects, publish=True)

    async def subscribe(self, subjects: set[str]) -> set[str]:
        """Which of the subjects are refused when they are subscribed to."""
        return await self._try(subjects, publish=False)

    async def _try(self, subjects: set[str], *, publish: bool) -> set[str]:
        self.refused.clear()
        for subject in subjects:
            if publish:
                await self.client.publish(subject, b"not for you")
            else:
                await self.client.subscribe(subject)
        await self.client.flush()
        await anyio.sleep(0.1)  # refusals come beside the answers
        return {subject for subject in subjects if subject.lower() in self.refused}


async def open_witness(stack: AsyncExitStack, broker: EmbeddedBroker, directory: Path, user: str) -> Witness:
    """The user's connection; it ends with the stack."""
    witness = Witness(Client())
    await witness.client.connect(
        broker.url, error_cb=witness.note, allow_reconnect=False, **login_of(directory, user).options()
    )
    stack.push_async_callback(witness.client.close)
    return witness


def test_every_request_that_a_role_names_is_in_the_contract() -> None:
    agents = [STATUS.at(name) for name in all_agents()]
    verbs = [service.verb for service in (*SERVICES, STATUS, *agents, AWAITS.at("0"))]
    for role in (*ROLES, TRUSTED):
        for rule in (*role.serves, *role.asks):
            assert any(covers(rule, verb) for verb in verbs), (role.name, rule)


def sample(pattern: str) -> str:
    """A subject without wildcards that the pattern covers."""
    return pattern.replace("*", "0").replace(">", "0.0")


def allows(allowed: object, denied: object, subject: str) -> bool:
    """What the table says of a subject."""
    assert isinstance(allowed, list | tuple)
    assert isinstance(denied, list | tuple)
    return any(covers(rule, subject) for rule in allowed) and not any(covers(rule, subject) for rule in denied)


def all_samples() -> tuple[set[str], set[str]]:
    """One subject for each rule of each role, and each way to take something from each stream."""
    rules = [permissions_of(role, SUBJECTS) for role in ROLES]
    publish = {sample(rule) for permissions in rules for rule in permissions.publish}
    publish |= {f"$JS.API.{verb}.{stream}" for verb in DESTROYING for stream in STREAMS}
    publish |= {f"$JS.API.CONSUMER.DELETE.{stream}.0" for stream in STREAMS}
    publish |= {"foreign.subject", "kiki.ask.acme.turn", "$SYS.REQ.SERVER.PING", "$JS.API.ACCOUNT.PURGE.0"}
    subscribe = {sample(rule) for permissions in rules for rule in permissions.subscribe}
    subscribe |= {">", "_INBOX.>", "_INBOX.*.*", "kiki.>", "$JS.>", "$JS.API.>", "$O.>", "foreign.subject"}
    # A subject that takes something away would do so; what is tried with effect is tried alone.
    return publish - {f"$JS.API.STREAM.DELETE.{stream}" for stream in STREAMS}, subscribe


@pytest.mark.parametrize("user", [role.name for role in ROLES])
async def test_a_role_is_refused_everything_that_its_table_does_not_name(
    guarded: tuple[EmbeddedBroker, Path], user: str
) -> None:
    permissions: Permissions = USERS[user]
    publish, subscribe = all_samples()
    async with AsyncExitStack() as stack:
        witness = await open_witness(stack, *guarded, user)
        refused_publish = await witness.publish(publish)
        refused_subscribe = await witness.subscribe(subscribe)
    expected = {subject for subject in publish if not allows(permissions.publish, permissions.deny_publish, subject)}
    assert refused_publish == expected
    assert len(expected) > len(publish) / 4
    assert refused_subscribe == {
        subject for subject in subscribe if not allows(permissions.subscribe, permissions.deny_subscribe, subject)
    }


@pytest.mark.parametrize("user", sorted(USERS))
async def test_only_the_memory_and_the_services_take_from_the_record(
    guarded: tuple[EmbeddedBroker, Path], user: str
) -> None:
    async with connect(settings_of(*guarded, OWNER), name="owner") as owner:
        await owner.js.publish(SUBJECTS.stage("episode.recorded", "t1"), b"{}")
        before = (await measure_stream(owner, EPISODES)).messages
        async with AsyncExitStack() as stack:
            witness = await open_witness(stack, *guarded, user)
            destroying = {f"$JS.API.{verb}.{EPISODES}" for verb in DESTROYING if verb != "STREAM.PURGE"}
            refused = await witness.publish(destroying)
        assert refused >= {f"$JS.API.STREAM.{verb}.{EPISODES}" for verb in ("DELETE", "RESTORE")}
        assert user in TRIMMERS or refused == destroying
        async with connect(settings_of(*guarded, user), name=user) as bus:
            if user in TRIMMERS:
                await purge(bus, EPISODES)
            else:
                with pytest.raises(BrokerUnavailable):
                    await purge(bus, EPISODES)
        after = (await measure_stream(owner, EPISODES)).messages
    assert after == (0 if user in TRIMMERS else before)


async def test_nobody_hears_anothers_replies(guarded: tuple[EmbeddedBroker, Path]) -> None:
    async with AsyncExitStack() as stack:
        for user in [role.name for role in ROLES]:
            witness = await open_witness(stack, *guarded, user)
            others = {f"_INBOX.{other}.>" for other in USERS if other != user} | {"_INBOX.>", "_INBOX.*.*", "_INBOX.*"}
            assert await witness.subscribe(others) == others


async def test_a_client_without_a_key_gets_nothing(guarded: tuple[EmbeddedBroker, Path]) -> None:
    broker, _ = guarded
    with pytest.raises(SetupError, match="refused the login"):
        async with connect(BusSettings(url=broker.url, login=NO_LOGIN), name="nobody"):
            pass


async def test_the_files_of_the_broker_are_its_owners_alone(guarded: tuple[EmbeddedBroker, Path]) -> None:
    _, directory = guarded
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "users").stat().st_mode) == 0o700
    seeds = {path.stem: path for path in (directory / "users").iterdir()}
    assert set(seeds) == set(USERS)
    for path in (*seeds.values(), directory / "users.conf"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    configuration = (directory / "nats.conf").read_text() + (directory / "users.conf").read_text()
    assert not [path for path in seeds.values() if path.read_text() in configuration]


async def test_a_directory_that_was_open_is_closed_and_its_seeds_are_kept(tmp_path: Path) -> None:
    directory = tmp_path / "nats"
    directory.mkdir(mode=0o755)
    seeds: list[dict[str, str]] = []
    for _ in range(2):
        async with run_broker(directory, port=0, users=USERS):
            seeds.append({path.stem: path.read_text() for path in (directory / "users").iterdir()})
    assert seeds[0] == seeds[1]
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def format_table() -> str:
    """The table of docs/trust.md."""

    def join(names: Sequence[str]) -> str:
        return ", ".join(f"`{name}`" for name in names)

    rows = ["| role | publishes | hears | answers | asks | reads | takes from |", "|---|---|---|---|---|---|---|"]
    for role in ROLES:
        publishes = join((*role.publishes, *role.publishes_elsewhere))
        sides = (publishes, join(role.listens), join(role.serves), join(role.asks), join(role.reads), join(role.trims))
        rows.append(f"| {role.name} | {' | '.join(sides)} |")
    return "\n".join(rows)


def test_the_docs_say_what_the_roles_may_do() -> None:
    page = (Path(__file__).parents[2] / "docs" / "trust.md").read_text(encoding="utf-8")
    assert format_table() in page, f"docs/trust.md needs this table:\n{format_table()}"
