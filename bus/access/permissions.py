"""What a user of the broker may do: a role in the runtime's terms, and the subjects of NATS that this comes to."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bus.access.login import INBOX, tenant_inbox
from bus.subjects import Subjects
from bus.topology import EPISODES, STREAMS

OBJECTS = "objects"
"""In a role's streams: the object store."""

TENANTS_REQUESTS = "ask.*.*"
"""Where tenants' services ask, after the prefix."""

_API = "$JS.API"
_READ = (
    "STREAM.MSG.GET.{0}",
    "DIRECT.GET.{0}",
    "DIRECT.GET.{0}.>",
    "CONSUMER.CREATE.{0}",
    "CONSUMER.CREATE.{0}.>",
    "CONSUMER.DURABLE.CREATE.{0}.*",
    "CONSUMER.INFO.{0}.*",
    "CONSUMER.NAMES.{0}",
    "CONSUMER.MSG.NEXT.{0}.*",
)
_LOOK = ("INFO", "STREAM.NAMES", "STREAM.LIST", "STREAM.INFO.*", "CONSUMER.LIST.*")
_TRIM = ("STREAM.PURGE.{0}", "STREAM.MSG.DELETE.{0}")
_DESTROY = (*_TRIM, "STREAM.DELETE.{0}", "STREAM.UPDATE.{0}", "STREAM.RESTORE.{0}")
"""Whatever takes something from a stream: an update does that, too, when it makes the stream smaller."""


@dataclass(frozen=True, kw_only=True)
class Role:
    """What processes of one kind do on the bus. Subjects are without the prefix and end, for a turn's id, in ``*``.

    Attributes:
        name: of the role and of its user.
        publishes: subjects of events and signals.
        publishes_elsewhere: whole subjects outside the prefix.
        listens_elsewhere: whole subjects outside the prefix.
        listens: subjects that are read as they pass by; ``*.*.*`` leaves out what :data:`serves` of others take.
        serves: verbs of requests that it answers.
        asks: verbs of requests that it sends.
        reads: streams of which it reads what is stored, by consumers or by sequence.
        trims: streams of which it deletes messages, or purges.
        keeps_consumers: streams of which it may delete consumers.
    """

    name: str
    publishes: Sequence[str] = ()
    publishes_elsewhere: Sequence[str] = ()
    listens: Sequence[str] = ()
    listens_elsewhere: Sequence[str] = ()
    serves: Sequence[str] = ()
    asks: Sequence[str] = ()
    reads: Sequence[str] = ()
    trims: Sequence[str] = ()
    keeps_consumers: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Permissions:
    """Subjects that a user may publish and subscribe to; what is denied is taken from what is allowed."""

    publish: Sequence[str]
    subscribe: Sequence[str]
    deny_publish: Sequence[str] = ()
    deny_subscribe: Sequence[str] = ()


def permissions_of(role: Role, subjects: Subjects, *, served: Iterable[str] = (), is_agent: bool = True) -> Permissions:
    """A role's permissions. ``served`` are the verbs that all roles serve: nobody else hears requests for them.

    An agent answers who asked it, and brings the streams to their declarations when it starts.
    """
    prefix = subjects.prefix
    publish = [*(f"{prefix}.{name}" for name in role.publishes), *role.publishes_elsewhere]
    publish += [subjects.service(verb) for verb in role.asks]
    for name in role.reads:
        stream = stream_name(name, subjects)
        publish += [f"{_API}.{pattern.format(stream)}" for pattern in _READ] + [f"$JS.ACK.{stream}.>"]
    for name in role.keeps_consumers:
        publish.append(f"{_API}.CONSUMER.DELETE.{stream_name(name, subjects)}.*")
    for name in role.trims:
        publish += [f"{_API}.{pattern.format(stream_name(name, subjects))}" for pattern in _TRIM]
    if OBJECTS in role.reads:
        publish += [f"$O.{prefix}-{OBJECTS}.>", "$JS.FC.>"]
    if is_agent:
        publish += [f"{INBOX}.>", *(f"{_API}.{name}" for name in _LOOK), f"{_API}.STREAM.CREATE.*"]
        publish += [f"{_API}.STREAM.UPDATE.{stream_name(name, subjects)}" for name in _streams_updated_by(role)]
    subscribe = [f"{INBOX}.{role.name}.>", *(f"{prefix}.{name}" for name in role.listens), *role.listens_elsewhere]
    subscribe += [subjects.service(verb) for verb in role.serves] + (["$SRV.>"] if is_agent else [])
    others = sorted(subjects.service(verb) for verb in set(served) - set(role.serves))
    if TENANTS_REQUESTS not in role.listens:
        others.append(f"{prefix}.{TENANTS_REQUESTS}")
    is_wide = "*.*.*" in role.listens
    return Permissions(publish=publish, subscribe=subscribe, deny_subscribe=others if is_wide else ())


def tenant_permissions(name: str, tenant: str, subjects: Subjects) -> Permissions:
    """A user from outside that may ask the gate as the tenant, and hear its answers."""
    return Permissions(publish=[subjects.ask(tenant, ">")], subscribe=[f"{tenant_inbox(tenant)}.{name}.>"])


def owner_permissions(subjects: Subjects) -> Permissions:
    """The person of the machine: everything but to take something from the record."""
    record = subjects.stream(EPISODES)
    return Permissions(
        publish=(">",), subscribe=(">",), deny_publish=[f"{_API}.{pattern.format(record)}" for pattern in _DESTROY]
    )


def stream_name(name: str, subjects: Subjects) -> str:
    """What the broker calls a stream of a role."""
    return f"OBJ_{subjects.prefix}-{OBJECTS}" if name == OBJECTS else subjects.stream(name)


def _streams_updated_by(role: Role) -> list[str]:
    return [name for name in STREAMS if name != EPISODES or EPISODES in role.trims]
