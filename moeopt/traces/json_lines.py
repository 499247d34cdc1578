"""JSON documents one after another: JSON Lines, or a file that is one document, found from the content."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from moeopt.errors import TraceError
from moeopt.traces.json_numbers import parse_json

_LONGEST_LINE = 2**28


class JsonLines:
    """The documents of a stream: ``first`` is that of its first line, None where the line is none by itself."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._number = 0
        self._line = self._next()
        while self._line and not self._line.removeprefix(b"\xef\xbb\xbf").strip():
            self._line = self._next()
        try:
            self.first = json.loads(self._line.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            self.first = None

    def _next(self) -> bytes:
        self._number += 1
        return self._stream.readline(_LONGEST_LINE)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Number and document of every line that is not blank; TraceError names the one that is no document."""
        if self.first is not None:
            yield self._number, self.first
        while line := self._next():
            if not line.strip():
                continue
            try:
                document = parse_json(line)
            except TraceError as error:
                cut = "" if line.endswith(b"\n") else " (the last line: was the recording cut off?)"
                raise TraceError(f"line {self._number}: {error}{cut}") from None
            yield self._number, document

    def whole(self, rest: bytes) -> Any:
        """Return the file's one document, where ``rest`` is all that follows the first line."""
        return self.first if self.first is not None and not rest.strip() else parse_json(self._line + rest)
