"""Text that came from outside, made fit for one line of a message."""

from __future__ import annotations

from typing import Any


def printable(text: Any, most: int = 240) -> str:
    """Return ``text`` with every character that is not printable escaped, at most ``most`` characters.

    Line ends, terminal codes, null bytes, bidirectional marks and lone surrogates are escaped. What is
    too long loses its middle, since paths say most at their ends.
    """
    raw = str(text)
    shown = _escaped(raw[:most])
    if len(raw) <= most and len(shown) <= most:
        return shown
    half = most // 2
    return shown[: half - 3] + "..." + _escaped(raw[-half:])[-half:]


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def parser_reason(error: BaseException) -> str:
    """What a foreign parser said about a broken file or value: one line, not too long."""
    lines = str(error).strip().splitlines()
    return printable(lines[0].strip(), 200) if lines else type(error).__name__
