"""Headerless CSV text to a matrix of numbers, and back: the part that every CSV format shares."""

from __future__ import annotations

import io
import re
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt.errors import TraceError
from moeopt.traces.trace import MAX_TOTAL

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
    rows, columns = text.count("\n") + 1, text.partition("\n")[0].count(",") + 1
    if text.count(",") == rows * (columns - 1):
        array = _parse_numbers(text)
        if array is not None and len(array) == rows and ((array >= minimum) & (array <= MAX_TOTAL)).all():
            return array
    raise TraceError(_first_fault(text, columns, row_name, minimum))


def format_csv(matrix: NDArray[Any]) -> str:
    """Headerless CSV of ``matrix [rows, columns]``; floats keep every bit (17 digits)."""
    cell = str if matrix.dtype.kind in "iu" else "{:.17g}".format
    return "".join(",".join(map(cell, row)) + "\n" for row in matrix.tolist())


def _parse_numbers(text: str) -> NDArray[Any] | None:
    dtype = np.float64 if _BEYOND_INTEGERS.search(text) else np.int64
    try:
        return np.loadtxt(io.StringIO(text), dtype=dtype, delimiter=",", comments=None, ndmin=2)
    except ValueError:
        return None


def _first_fault(text: str, columns: int, row_name: str, minimum: int) -> str:
    """Say what is wrong, walking the lines: slow, but only a faulty file gets here."""
    for row, line in enumerate(text.split("\n")):
        where = f"line {row + 1} ({row_name} {row})"
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != columns:
            have = "is empty" if not line.strip() else f"has {len(cells)} columns"
            return f"{where} {have}, line 1 has {columns}"
        for column, cell in enumerate(cells):
            fault = _cell_fault(cell, minimum)
            if fault:
                hint = "; a header row? there must be none" if row == 0 else ""
                return f"{where}, column {column}: {fault}{hint}"
    return "the file is not a table of plain numbers"


def _cell_fault(cell: str, minimum: int) -> str:
    try:
        number = Decimal("text" if "_" in cell else cell)
    except InvalidOperation:
        return f"{cell[:40]!r} is not a number" if cell else "the cell is empty"
    if not number.is_finite():
        return f"{cell} is not finite"
    if number < minimum:
        return f"{cell[:40]} is below {minimum}"
    return f"{cell[:40]} is above 2**53" if number > MAX_TOTAL else ""
