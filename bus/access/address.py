"""Where a broker is, and with which login: read from its URL, and printed without the login.

Needs :mod:`schemas` only.
"""

from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from schemas.errors import SetupError


@dataclass(frozen=True)
class BrokerAddress:
    """The servers without their login, and the login as options of :func:`nats.connect`."""

    servers: tuple[str, ...]
    login: dict[str, str] = field(default_factory=dict, repr=False)


def read_address(url: str) -> BrokerAddress:
    """Read one URL, or several with commas between; user, password and token are percent-decoded.

    nats-py would send them as they stand in the URL, and send none to a server that it discovers later.

    Raises:
        SetupError: it is no URL, or the URLs have different logins.
    """
    parts = [_split(server.strip()) for server in url.split(",")]
    logins = [login for part in parts if (login := _login_of(part))]
    if any(login != logins[0] for login in logins):
        raise SetupError(
            "the broker's URLs have different logins: give all servers the same user and password.", param="nats"
        )
    servers = tuple(part._replace(netloc=part.netloc.rpartition("@")[2]).geturl() for part in parts)
    return BrokerAddress(servers, logins[0] if logins else {})


def is_local(url: str) -> bool:
    """Whether every server of the URL or URLs is on this machine."""
    hosts = {urlsplit(server).hostname for server in read_address(url).servers}
    return hosts <= {"127.0.0.1", "localhost", "::1"}


def without_login(url: str) -> str:
    """The URL or URLs without what stands before the host, to be printed; also of a text that is no URL."""
    return ",".join(_strip_login(server.strip()) for server in url.split(","))


def _strip_login(server: str) -> str:
    scheme, separator, rest = server.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _split(server: str) -> SplitResult:
    try:
        part = urlsplit(server if "://" in server else f"nats://{server}")
        host, _ = part.hostname, part.port  # reading the port checks it
        if host:
            return part
        problem = "it names no host"
    except ValueError:
        problem = "a '/', '?', '#' or '[' in its password must be percent-encoded, as must '@', ':', ',' and '%'"
    raise SetupError(
        f"'{_strip_login(server)}' is no broker's address: {problem}; expected nats://USER:PASSWORD@HOST:PORT.",
        param="nats",
    )


def _login_of(part: SplitResult) -> dict[str, str]:
    if part.username is None:
        return {}
    if part.password is None:
        return {"token": unquote(part.username)}
    return {"user": unquote(part.username), "password": unquote(part.password)}
