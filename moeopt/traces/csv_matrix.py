"""Headerless CSV text to a matrix of numbers, and back: the part that every CSV format shares."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._text import printable
from moeopt.errors import TraceError
from moeopt.load import MAX_TOTAL

_BLOCK = 2**18  # characters parsed in one go
_CELLS = 2**12  # cells of one line looked at in one go
_BEYOND_INTEGERS = re.compile(r"[^-0-9,\s]")


def parse_csv(content: bytes, row_name: str, minimum: int = 0) -> NDArray[Any]:
    """Return the numbers of comma-separated ``content``, ``[rows, columns]``, int64 or float64.

    A byte-order mark, CRLF, spaces and trailing blank lines do no harm. Errors count lines from
    1, as editors do, and rows (called ``row_name``) and columns from 0, as layers and experts are.

    Raises
    ------
    TraceError
        Names line, row and column of what is not a number from ``minimum`` to 2**53, ragged or a header.
    """
    try:
        text = content.decode("utf-8-sig").rstrip().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise TraceError(f"neither a known binary format nor UTF-8 text (byte {error.start})") from None
    if "\0" in text:
        raise TraceError(f"neither a known binary format nor text (null byte at {text.index(chr(0))})")
    if not text:
        raise TraceError("the file holds no numbers")
    columns = text.partition("\n")[0].count(",") + 1
    parsed: list[NDArray[Any]] = []
    row = 0
    for block in _blocks(text):
        rows = block.count("\n") + 1
        array = _parse_numbers(block, minimum) if block.count(",") == rows * (columns - 1) else None
        if array is None or len(array) != rows:
            raise TraceError(_first_fault(block, row, columns, row_name, minimum))
        parsed.append(array)
        row += rows
    return np.concatenate(parsed)


def format_csv(matrix: NDArray[Any]) -> str:
    """Headerless CSV of ``matrix [rows, columns]``; floats keep every bit (17 digits)."""
    cell = str if matrix.dtype.kind in "iu" else "{:.17g}".format
    return "".join(",".join(map(cell, row)) + "\n" for row in matrix.tolist())


def _blocks(text: str) -> Iterator[str]:
    """Cut a text into whole lines of about ``_BLOCK`` characters, so that a fault is looked for in one of them."""
    start = 0
    while start <= len(text):
        end = text.find("\n", start + _BLOCK)
        end = len(text) if end < 0 else end
        yield text[start:end]
        start = end + 1


def _parse_numbers(text: str, minimum: int) -> NDArray[Any] | None:
    """Return the numbers of lines, or None where one is not a number from ``minimum`` to 2**53."""
    dtype = np.float64 if _BEYOND_INTEGERS.search(text) else np.int64
    if not text.strip():
        return None
    try:
        array = np.loadtxt(io.StringIO(text), dtype=dtype, delimiter=",", comments=None, ndmin=2)
    except ValueError:
        return None
    return array if ((array >= minimum) & (array <= MAX_TOTAL)).all() else None


def _first_fault(block: str, first_row: int, columns: int, row_name: str, minimum: int) -> str:
    """Say what is wrong in the lines of a block."""
    for row, line in enumerate(block.split("\n"), first_row):
        where = f"line {row + 1} ({row_name} {row})"
        cells = line.split(",")
        if len(cells) != columns:
            have = "is empty" if not line.strip() else f"has {len(cells)} columns"
            return f"{where} {have}, line 1 has {columns}"
        for start in range(0, columns, _CELLS):
            some = cells[start : start + _CELLS]
            if columns > _CELLS and _parse_numbers(",".join(some), minimum) is not None:
                continue
            for column, cell in enumerate(some, start):
                fault = _cell_fault(cell.strip(), minimum)
                if fault:
                    hint = "; a header row? there must be none" if row == 0 else ""
                    return f"{where}, column {column}: {fault}{hint}"
    return "the file is not a table of plain numbers"


def _cell_fault(cell: str, minimum: int) -> str:
    shown = printable(cell, 40)
    try:
        number = Decimal("text" if "_" in cell else cell)
    except InvalidOperation:
        return f"'{shown}' is not a number" if cell else "the cell is empty"
    if not number.is_finite():
        return f"{shown} is not finite"
    if number < minimum:
        return f"{shown} is below {minimum}"
    return f"{shown} is above 2**53" if number > MAX_TOTAL else ""
