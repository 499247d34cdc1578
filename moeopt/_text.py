"""Text that came from outside, made fit for one line of a message."""

from __future__ import annotations

from typing import Any


def printable(text: Any, most: int = 240) -> str:
    """Return ``text`` with every character that is not printable escaped, at most ``most`` characters.

    Line ends, terminal codes, null bytes, bidirectional marks and lone surrogates are escaped. What is
    too long loses its middle, since paths say most at their ends.
    """
    raw = str(text)
    if len(raw) > most:
        raw = raw[: most // 2] + raw[-most // 2 :] + " "  # one too many, so that it is cut below
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in raw)
    return shown if len(shown) <= most else shown[: most // 2 - 3] + "..." + shown[-(most // 2) :].rstrip()


def parser_reason(error: Exception) -> str:
    """What a foreign parser said about a broken file or value: one line, not too long."""
    lines = str(error).strip().splitlines()
    return printable(lines[0], 200) if lines else type(error).__name__
