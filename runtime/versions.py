"""Which packages are installed."""

from __future__ import annotations


def installed_version(package: str) -> str | None:
    """The version of an installed distribution, or None where it is not installed."""
    import importlib.metadata  # 5 MB with all that it imports

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
