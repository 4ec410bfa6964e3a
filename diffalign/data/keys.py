"""Content keys: the same parts give the same key, in every process, on every machine, in every version."""

import hashlib

Part = str | bytes | int | float | bool | None | tuple


def content_key(*parts: Part) -> str:
    """A 32-digit hexadecimal key (128 bits of sha256) of the parts, in order.

    Every part is written with its type and its length, so ``("ab", "c")`` and ``("a", "bc")``, or ``1`` and ``"1"``, never meet.
    Raises ValueError for a part whose text is not fixed by the language (a tensor, a set, a numpy number).
    """
    return _digest(parts).hexdigest()[:32]


def hash_uniform(*parts: Part) -> float:
    """A number in [0, 1) that is a pure function of the parts (52 bits of the same hash)."""
    return int(_digest(parts).hexdigest()[:13], 16) / 2**52


def _digest(parts: tuple):
    digest = hashlib.sha256()
    for part in parts:
        data = _encode(part)
        digest.update(f"{type(part).__name__}:{len(data)}:".encode())
        digest.update(data)
    return digest


def _encode(part: Part) -> bytes:
    if isinstance(part, bytes):
        return part
    if isinstance(part, str):
        return part.encode("utf-8", "surrogatepass")
    if isinstance(part, tuple):
        return _digest(part).digest()
    if part is None or type(part) in (int, float, bool):
        return repr(part).encode()
    raise ValueError(f"content_key: {part!r} is a {type(part).__name__}; allowed are str, bytes, int, float, bool, None and tuples.")
