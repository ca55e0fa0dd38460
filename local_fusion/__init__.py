"""A local ensemble runner: several open-weight models as one panel, judged and fused on your own machine."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("local-fusion")
except PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
