"""How names of distributions are spelled. Without regular expressions, whose import every worker would pay for."""

from __future__ import annotations

_SEPARATORS = str.maketrans("_.", "--")
_NO_SEPARATORS = str.maketrans("", "", "-_.")


def normalise(name: str) -> str:
    """Spell a distribution's name as an index does (PEP 503): runs of ``-``, ``_`` and ``.`` are one ``-``."""
    name = name.translate(_SEPARATORS).lower()
    while "--" in name:
        name = name.replace("--", "-")
    return name


def is_name(text: str) -> bool:
    """Tell whether this is what pip calls a valid name: leftovers of an interrupted installation are none (PEP 508)."""
    return text.isascii() and text[:1].isalnum() and text[-1:].isalnum() and text.translate(_NO_SEPARATORS).isalnum()
