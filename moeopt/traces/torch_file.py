"""``.pt`` files: tensors and plain containers, nothing that runs and nothing that explodes."""

from __future__ import annotations

import io
import pickletools
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from moeopt._text import parser_reason
from moeopt.errors import TraceError

_MOST_PARTS = 2**24
_LEGACY_PICKLES = 5  # magic number, protocol, system, the object, the keys of its storages


def load_pt(content: bytes | BinaryIO) -> Any:
    """Return what a ``.pt`` file holds: tensors and plain containers only, so that nothing in it runs.

    ``content`` is all of it, or the open file, which is read piece by piece.

    Raises
    ------
    TraceError
        For anything else, and for tuples of tuples that unfold to more than 2**24 parts: a few hundred
        bytes can name so many that a dictionary never finishes with such a key.
    """
    import torch  # heavy, and only this format needs it

    file = io.BytesIO(content) if isinstance(content, bytes) else content
    try:
        for pickled in _pickles(file):
            if _largest_tuple(pickled) > _MOST_PARTS:
                raise ValueError(f"it holds a tuple of more than {_MOST_PARTS} parts")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken or hostile file can fail anywhere in the parser
        reason = parser_reason(error)
        raise TraceError(f"not a .pt file of plain tensors (nothing in it was run): {reason}") from None


def _pickles(file: BinaryIO) -> Iterator[BinaryIO]:
    """The pickles of the file, each as a stream that stands at its begin."""
    file.seek(0)
    is_archive = file.read(2) == b"PK"
    file.seek(0)
    if is_archive:
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                if name.endswith("data.pkl"):
                    yield io.BytesIO(archive.read(name))
    else:
        for _ in range(_LEGACY_PICKLES):
            yield file


def _largest_tuple(pickled: BinaryIO) -> int:
    """Follow a pickle without building anything; return the number of parts of the largest tuple, unfolded.

    Only tuples count: lists and dictionaries share what they repeat, and nobody walks through it.
    """
    stack: list[int | None] = []  # parts of every object, None is a mark
    memo: dict[Any, int | None] = {}
    largest = 0
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name == "MARK":
            stack.append(None)
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif "PUT" in opcode.name:
            memo[argument] = stack[-1]
        elif "GET" in opcode.name:
            stack.append(memo[argument])
        elif opcode.name == "DUP":
            stack.append(stack[-1])
        else:
            taken = [_pop(stack, kind is pickletools.stackslice) for kind in reversed(opcode.stack_before)
                     if kind is not pickletools.markobject]  # fmt: skip
            parts = 1 + sum(taken) if "TUPLE" in opcode.name else 1
            stack += [parts] * len(opcode.stack_after)
            largest = max(largest, parts)
    return largest


def _pop(stack: list[int | None], slice_: bool) -> int:
    """Take one object from the stack, or all down to the mark and the mark; return their parts."""
    if not slice_:
        return stack.pop() or 1
    taken = 0
    while (parts := stack.pop()) is not None:
        taken += parts
    return taken
