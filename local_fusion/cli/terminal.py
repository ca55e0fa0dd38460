"""The terminal from which this process was started, if there is one."""

from __future__ import annotations

import os
import signal

_TERMINAL = "/dev/tty"  # whatever terminal controls this process


class Terminal:
    """What SIGHUP means depends on it: that it was closed, or else, by custom, that a configuration has changed."""

    def __init__(self) -> None:
        self.outlived = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        """Whether this process was started to live on without it, as `nohup` does."""
        self._was_there = _is_there()

    def was_closed(self) -> bool:
        """Whether there was one, it is not there any more, and nobody said that this process is to live on."""
        return self._was_there and not self.outlived and not _is_there()


def _is_there() -> bool:
    try:
        os.close(os.open(_TERMINAL, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:  # none controls us, or the kernel has taken away the one that did
        return False
    return True
