"""Why a source cannot give a file. The kinds have different mends, so a message never leaves open which one it is.

SetupError
+-- SourceError         a source cannot give a file; the next one may
    +-- SourceOffline   nothing answers: no network, no name, no connection, or offline by choice
    +-- Intercepted     something between here and the source answers in its place: a proxy, a wrong certificate
    +-- SourceRefused   the source itself answers, but does not give the file
    +-- WrongBytes      the source gives a file, and its digest or size is not the pinned one
"""

import re
import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING

from schemas.errors import SetupError

if TYPE_CHECKING:
    import httpx

HUB_MEND = "set HTTPS_PROXY if a proxy is needed, or HF_ENDPOINT to a mirror"
PIP_MEND = "set HTTPS_PROXY if a proxy is needed, or pip's index (PIP_INDEX_URL) to a mirror"
PROXY_MEND = "put its user and password into HTTPS_PROXY, or have it let the address through"
CERTIFICATE_MEND = "set SSL_CERT_FILE (for pip: PIP_CERT) to the proxy's CA certificate"


class SourceError(SetupError):
    """A source cannot give a file; the message names the source, the reason and the mend."""


class SourceOffline(SourceError):
    """Nothing answers there."""


class Intercepted(SourceError):
    """Something between this machine and the source answers in its place."""


class SourceRefused(SourceError):
    """The source answers, but does not give the file."""


class WrongBytes(SourceError):
    """What the source gives is not the pinned file."""


def explain_request(error: "httpx.RequestError", title: str) -> SourceError:
    """The kind of failure behind an error of httpx; ``title`` is the source, as in 'the Hugging Face hub'."""
    import httpx

    reason = first_line(error)
    if isinstance(error, (httpx.TooManyRedirects, httpx.DecodingError)):
        return Intercepted(f"something else answers in place of {title} ({reason}): a proxy or a login page")
    if isinstance(error, httpx.ProxyError):
        return Intercepted(f"a proxy stands before {title} and refuses ({reason}): {PROXY_MEND}")
    if any(isinstance(cause, ssl.SSLError) for cause in _causes(error)) or "CERTIFICATE_VERIFY_FAILED" in reason:
        return Intercepted(f"the certificate of {title} cannot be verified ({reason}): {CERTIFICATE_MEND}")
    return SourceOffline(f"{title} cannot be reached ({reason}): {HUB_MEND}")


_PIP_SIGNS: tuple[tuple[type[SourceError], tuple[str, ...], str, str], ...] = (
    (
        Intercepted,
        ("Tunnel connection failed", "Proxy Authentication Required", "ProxyError", "407 Client Error"),
        "a proxy stands before PyPI and refuses",
        PROXY_MEND,
    ),
    (
        Intercepted,
        ("CERTIFICATE_VERIFY_FAILED", "SSLError", "SSLCertVerificationError"),
        "the certificate of PyPI cannot be verified",
        CERTIFICATE_MEND,
    ),
    (
        WrongBytes,
        ("DO NOT MATCH THE HASHES", "is invalid.", "BadZipFile", "has an invalid wheel"),
        "PyPI gives other content than it should",
        "run 'pip cache purge', or look at pip's index and the proxy",
    ),
    (
        SourceOffline,
        ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "ReadTimeoutError", "Connection refused",
         "Network is unreachable", "Connection aborted", "Failed to resolve"),
        "PyPI cannot be reached",
        PIP_MEND,
    ),
)  # fmt: skip
"""What pip prints, with the kind of failure, what is said of it and its mend; the first that fits holds."""


def explain_pip(log: str, requirement: str) -> SourceError:
    """The kind of failure behind what pip printed while it fetched ``requirement``."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for kind, signs, meaning, mend in _PIP_SIGNS:
        if line := next((line for line in reversed(lines) if any(sign in line for sign in signs)), None):
            return kind(f"{meaning} ({requirement}: {_shorten(line)}): {mend}")
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    reason = errors[-1] if errors else "pip printed nothing"
    return SourceRefused(f"pip could not download {requirement} ({reason}): {PIP_MEND}")


def _shorten(line: str) -> str:
    """A line of pip without what its retries and objects look like inside."""
    return re.sub(r"<[^>]*>(: )?", "", line.partition("broken by ")[2] or line)


def first_line(error: BaseException) -> str:
    """An error's first line, or the name of its class."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__
