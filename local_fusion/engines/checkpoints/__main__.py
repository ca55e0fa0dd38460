"""`python -m local_fusion.engines.checkpoints SOURCE` prints the checkpoint folder of a model source."""

from __future__ import annotations

import signal
import sys

from local_fusion.engines.checkpoints.sources import resolve
from local_fusion.errors import LocalFusionError


def main() -> int:
    """The exit code: 0 when the folder was printed, else the error's own."""
    if len(sys.argv) != 2:
        print("Usage: python -m local_fusion.engines.checkpoints SOURCE", file=sys.stderr)
        return 2
    # Like Ctrl-C, so that nothing half-written is left.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        print(resolve(sys.argv[1], progress=lambda line: print(line, file=sys.stderr)))
    except LocalFusionError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
