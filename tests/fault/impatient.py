"""``kiki up`` with the scripted worker and a supervisor that starts each dead process again at once, however often."""

from runtime import supervisor
from tests.fault import scripted

if __name__ == "__main__":
    supervisor.STEADY_SECONDS = 0.0
    scripted.up()
