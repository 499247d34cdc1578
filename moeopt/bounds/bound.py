"""Bound: what is proven about every layer, what proves it, and what proves it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moeopt._arrays import ArrayFields, LayerIndex, frozen, layer_indices
from moeopt.errors import InputError
from moeopt.metrics import FLOAT_SLACK

Certificate = dict[str, Any]
"""What an independent checker needs beside the problem, as JSON carries it; ``method`` names the check."""


@dataclass(frozen=True, eq=False)
class Bound(ArrayFields):
    """A lower bound on the objective of every layer.

    Parameters
    ----------
    value
        ``[layers]`` bound; NaN = nothing is known.
    source
        Name of what proves it, per layer.
    certificate
        What proves it again, per layer; None where it rests on a solver's search. Unknown by default.

    Raises
    ------
    InputError
        If the three differ in length.

    Examples
    --------
    >>> Bound([7, 9], ("mean_load", "mine")).join(Bound([8, 8], ("other", "other"))).source
    ('other', 'mine')
    """

    value: NDArray[np.float64]
    source: tuple[str, ...]
    certificate: tuple[Certificate | None, ...] = ()

    if TYPE_CHECKING:  # what may be passed is wider than what is stored

        def __init__(
            self, value: Any, source: Sequence[str], certificate: Sequence[Certificate | None] = ()
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", frozen(np.atleast_1d(np.asarray(self.value, dtype=float))))
        object.__setattr__(self, "source", tuple(self.source))
        object.__setattr__(self, "certificate", tuple(self.certificate) or (None,) * len(self.source))
        if self.value.ndim != 1 or not len(self.value) == len(self.source) == len(self.certificate):
            raise InputError(
                f"a bound needs a value, a source and a certificate for every layer, got {self.value.shape}, "
                f"{len(self.source)} and {len(self.certificate)}"
            )

    @classmethod
    def unknown(cls, num_layers: int) -> Bound:
        """Return a bound that says nothing about any layer."""
        return cls(np.full(num_layers, np.nan), ("",) * num_layers)

    @classmethod
    def of_layer(cls, value: float | None, source: str, certificate: Certificate | None = None) -> Bound:
        """Return the bound of one layer; None = unknown."""
        return cls.unknown(1) if value is None else cls([value], (source,), (certificate,))

    @classmethod
    def stack(cls, parts: Sequence[Bound]) -> Bound:
        """Return the bound of all layers of ``parts``, one part after another."""
        return cls(
            np.concatenate([part.value for part in parts]),
            [source for part in parts for source in part.source],
            [certificate for part in parts for certificate in part.certificate],
        )

    def updated(self, layers: NDArray[np.intp], later: Bound) -> Bound:
        """Return the same bound with that of some layers replaced by ``later``, which has these alone."""
        order = np.arange(len(self))
        order[layers] = len(self) + np.arange(len(layers))
        return Bound.stack([self, later])[order]

    def join(self, other: Bound) -> Bound:
        """Return the larger bound of every layer; this one where they differ by rounding only."""
        with np.errstate(invalid="ignore"):
            higher = np.isnan(self.value) | (other.value > self.value * (1 + FLOAT_SLACK))
        return Bound(
            np.where(higher, other.value, self.value),
            [b if better else a for a, b, better in zip(self.source, other.source, higher, strict=True)],
            [b if better else a for a, b, better in zip(self.certificate, other.certificate, higher, strict=True)],
        )

    def without(self, layers: NDArray[np.bool_]) -> Bound:
        """Return a bound that says nothing about some ``[layers]``."""
        if not layers.any():
            return self
        return Bound(
            np.where(layers, np.nan, self.value),
            ["" if gone else name for name, gone in zip(self.source, layers, strict=True)],
            [None if gone else proof for proof, gone in zip(self.certificate, layers, strict=True)],
        )

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: LayerIndex) -> Bound:
        rows = layer_indices(index, len(self))
        return Bound(self.value[rows], [self.source[i] for i in rows], [self.certificate[i] for i in rows])
