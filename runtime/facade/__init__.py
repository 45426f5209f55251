"""The HTTP facade: OpenAI's API over turns on the bus.

:mod:`.routes` holds the endpoints, a file a noun or dialect; :mod:`.chat` is a chat request on its way from its body to
its answer. Beside them: :mod:`.app` and :mod:`.server`, what the endpoints are given (:mod:`.dependencies`), bodies and
clients that leave (:mod:`.body`, :mod:`.disconnect`), and every refusal as an OpenAI error object (:mod:`.errors`).
"""

from runtime.facade.app import create_app
from runtime.facade.server import serve
from runtime.facade.settings import FacadeSettings

__all__ = ["FacadeSettings", "create_app", "serve"]
