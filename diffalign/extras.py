"""Optional dependencies: one helper that imports a package or says which extra brings it."""

import importlib
from types import ModuleType


def require(package: str, *, extra: str) -> ModuleType:
    """Import ``package``, which is part of the optional ``diffalign[extra]``.

    Errors: ImportError that names the package, the extra and the command, both when it is missing and when it does not load
    (a build for another torch, say).
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"'{package}' is needed here and could not be imported ({error}): pip install 'diffalign[{extra}]'") from error
