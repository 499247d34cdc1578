"""Routed experts: the logical experts that every token went to, ``[tokens, layers, top_k]``, request after request."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt._text import parser_reason, printable
from moeopt.errors import TraceError
from moeopt.traces.json_numbers import number_array
from moeopt.traces.matrix import NPY_MAGIC, array_of, npy_header, refuse_too_many
from moeopt.traces.recording import Recording
from moeopt.traces.request import Request
from moeopt.traces.trace import Trace

ROUTED_NAMES = ("prompt_routed_experts", "routed_experts")
"""The engines' fields, in the order in which their tokens are served."""

_INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "int64")
_BLOCK = 2**20  # ids looked at in one go
_DEEPEST = 8  # dictionaries and lists in one another, where responses are looked through


class RoutedTokens:
    """Tokens that come in request after request, counted and cut into windows.

    A window holds ``request.window_tokens`` tokens, those of the next request after those of the one
    before; the last window holds what is left. Without it, every request is a window.

    A token's ids that are -1 count for nothing, nor do those that are all 0 where there are more than
    one: engines write both where a layer or token has no experts.
    """

    def __init__(self, request: Request) -> None:
        if request.num_experts is None:
            raise TraceError("holds routed experts, which do not say how many experts there are: num_experts is needed")
        self._request = request
        self._num_experts = request.num_experts
        self._shape: tuple[int, int] | None = None
        self._recording: Recording | None = None
        self._open: NDArray[np.int64] = np.zeros((0, 0), dtype=np.int64)
        self._in_open = 0
        self._seen = self._ended = 0
        self._requests = 0

    def add(self, ids: NDArray[Any]) -> None:
        """Count ``ids [tokens, layers, top_k]``.

        Raises
        ------
        TraceError
            For another shape than the first one's; names token and layer of an id that is none, or
            that comes twice, which no router does.
        """
        if ids.ndim != 3:
            raise TraceError(f"routed experts must be [tokens, layers, top_k], got shape {printable(ids.shape, 60)}")
        if not len(ids):
            return
        if self._shape is None:
            self._start(ids.shape[1:])
        if ids.shape[1:] != self._shape:
            raise TraceError(
                f"routed experts of {ids.shape[1]} layers and top_k {ids.shape[2]}, the first have {self._shape}"
            )
        step = max(1, _BLOCK // math.prod(ids.shape[1:]))
        for start in range(0, len(ids), step):
            block = self._checked(ids[start : start + step])
            while len(block):
                size = self._request.window_tokens
                taken = len(block) if size is None else min(size - self._in_open, len(block))
                self._count(block[:taken])
                block = block[taken:]
                if self._in_open == size:
                    self._close()

    def end_request(self) -> None:
        """Say that the tokens that follow are another request's."""
        self._requests += self._seen > self._ended
        self._ended = self._seen
        if self._request.window_tokens is None:
            self._close()

    def trace(self, source: str, sha256: str) -> Trace:
        """Return the trace; TraceError where no token came in."""
        self._close()
        if self._recording is None:
            raise TraceError("no routed experts: every field is empty")
        note = "" if self._requests == 1 else "requests one after another: its windows are no steps of the engine"
        return self._recording.trace(source, sha256, ordered=self._requests == 1, note=note)

    def _start(self, shape: tuple[int, int]) -> None:
        layers, top_k = shape
        request = self._request
        for name, asked, found in (("num_layers", request.num_layers, layers), ("top_k", request.top_k, top_k)):
            if asked is not None and asked != found:
                raise TraceError(f"routed experts of {layers} layers and top_k {top_k}, not {name}={asked}")
        if not layers or not 0 < top_k <= self._num_experts:
            raise TraceError(
                f"routed experts must be [tokens, layers, top_k] with top_k from 1 to num_experts={self._num_experts}, "
                f"got [tokens, {layers}, {top_k}]"
            )
        refuse_too_many("a window", (layers, self._num_experts))
        self._shape = shape
        self._recording = Recording(layers, self._num_experts, steps_per_window=request.steps_per_window)
        self._open = np.zeros((layers, self._num_experts), dtype=np.int64)

    def _checked(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        """Return ids as int64, -1 where there is no expert."""
        if ids.dtype.kind not in "iuf":
            raise TraceError(f"routed experts must be integers, got dtype {printable(ids.dtype, 40)}")
        bad = ~((ids >= -1) & (ids < self._num_experts)) | (ids % 1 != 0 if ids.dtype.kind == "f" else False)
        if bad.any():
            token, layer, place = (int(i) for i in np.argwhere(bad)[0])
            raise TraceError(
                f"token {self._seen + token}, layer {layer}: {ids[token, layer, place]} is no expert of 0 to "
                f"{self._num_experts - 1}"
            )
        experts = ids.astype(np.int64)
        if experts.shape[2] > 1:
            experts[(experts == 0).all(axis=2)] = -1
            ordered = np.sort(experts, axis=2)
            twice = (ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)
            if twice.any():
                token, layer, place = (int(i) for i in np.argwhere(twice)[0])
                raise TraceError(
                    f"token {self._seen + token}, layer {layer}: expert {ordered[token, layer, place]} comes twice, "
                    "which no router does; are these loads [windows, layers, experts]?"
                )
        self._seen += len(experts)
        return experts

    def _count(self, experts: NDArray[np.int64]) -> None:
        layers, _ = self._open.shape
        at = experts + (np.arange(layers) * self._num_experts)[:, None]
        counts = np.bincount(at[experts >= 0], minlength=self._open.size)
        self._open += counts.reshape(self._open.shape)
        self._in_open += len(experts)

    def _close(self) -> None:
        if self._in_open and self._recording is not None:
            self._recording.add(self._open[None].copy())
            self._open[:] = 0
            self._in_open = 0


def holds_routed_experts(document: Any) -> bool:
    """Whether a response, or a list of them, has one of the engines' fields, be it empty."""
    return any(True for _ in routed_fields(document))


def routed_fields(document: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Name and value of the fields of a response, wherever they are in it; the prompt's come first."""
    if depth > _DEEPEST:
        return
    if isinstance(document, dict):
        for name in ROUTED_NAMES:
            if name in document:
                yield name, document[name]
        for key, value in document.items():
            if key not in ROUTED_NAMES:
                yield from routed_fields(value, depth + 1)
    elif isinstance(document, list):
        for value in document:
            if not isinstance(value, dict | list):
                return
            yield from routed_fields(value, depth + 1)


def add_responses(tokens: RoutedTokens, document: Any, request: Request) -> None:
    """Count a response, or every response of a list, as one request each."""
    for response in document if isinstance(document, list) else [document]:
        for name, value in routed_fields(response):
            if value is not None:
                tokens.add(ids_of(name, value, request))
        tokens.end_request()


def ids_of(name: str, value: Any, request: Request) -> NDArray[Any]:
    """Return ids as SGLang and vLLM write them: nested lists, base64 of int32 or of a ``.npy``, or with a shape."""
    if isinstance(value, list):
        return np.zeros((0, 0, 0), dtype=np.int64) if not value else number_array(name, value)
    shape = dtype = None
    if isinstance(value, dict):
        shape, dtype, value = value.get("shape"), value.get("dtype"), value.get("data")
        if dtype not in _INTEGERS or not _is_shape(shape):
            raise TraceError(f"{name} must have a shape [tokens, layers, top_k] and an integer dtype")
    if not isinstance(value, str):
        raise TraceError(f"{name} must be a list, or text in base64, got {type(value).__name__}")
    try:
        content = base64.b64decode(value, validate=True)
    except ValueError as error:
        raise TraceError(f"{name} is no base64: {parser_reason(error)}") from None
    if content.startswith(NPY_MAGIC):
        file = io.BytesIO(content)
        header = npy_header(file, len(content))
        return array_of(content[file.tell() :], header)
    if shape is None:
        if request.num_layers is None or request.top_k is None:
            raise TraceError(f"{name} is bare int32 without a shape: num_layers and top_k are needed")
        row = request.num_layers * request.top_k
        if len(content) % (4 * row):
            raise TraceError(
                f"{name} holds {len(content)} bytes, which are no whole tokens of num_layers={request.num_layers} "
                f"times top_k={request.top_k} int32"
            )
        shape, dtype = [len(content) // (4 * row), request.num_layers, request.top_k], "int32"
    little = np.dtype(dtype).newbyteorder("<")
    if math.prod(shape) * little.itemsize != len(content):
        raise TraceError(f"{name} holds {len(content)} bytes, not those of shape {printable(shape, 60)} of {dtype}")
    return np.frombuffer(content, little).reshape(shape)


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and len(shape) == 3 and all(type(size) is int and size >= 0 for size in shape)
