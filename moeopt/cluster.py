"""A Dask cluster for exact methods: while it is connected, joblib's work runs there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from moeopt.errors import InputError

PATIENCE = 10.0
"""Seconds to wait for the scheduler and for the first worker."""


@dataclass(frozen=True)
class Cluster:
    """Where layers ran: the scheduler's address, and what there was when it began.

    Every thread of every worker takes a layer at a time.
    """

    address: str
    workers: int
    threads: int

    def __str__(self) -> str:
        return f"{self.workers} workers with {self.threads} threads together at {self.address}"


@contextmanager
def connected(address: str | None) -> Iterator[Cluster | None]:
    """Send what joblib runs side by side to the cluster at ``address``; None changes nothing.

    A worker that is lost costs time only: what it had begun is begun again elsewhere.

    Parameters
    ----------
    address
        Of a Dask scheduler, such as ``tcp://10.0.0.1:8786``.

    Raises
    ------
    InputError
        If ``distributed`` is not installed, nobody answers, there is no worker, or a worker has another
        version of this package.
    """
    if address is None:
        yield None
        return
    try:
        import distributed
        import joblib
    except ImportError:
        raise InputError("cluster needs the package distributed: pip install 'moeopt[cluster]'") from None
    try:
        client: Any = distributed.Client(address, timeout=PATIENCE, set_as_default=False)  # type: ignore[no-untyped-call]
    except Exception as error:  # addresses, sockets and protocols each fail in ways of their own
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"cluster={address}: no scheduler answers ({type(error).__name__}: {reason})") from None
    try:
        found = _checked(client, address)
        with joblib.parallel_config(backend="dask", client=client):
            yield found
    finally:
        client.close()


def _checked(client: Any, address: str) -> Cluster:
    """Return what the cluster is made of, after a look at every worker."""
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
        versions = client.run(installed)
    except Exception as error:  # a worker without this package fails while it unpacks the call
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"cluster={address}: no worker that can run moeopt ({type(error).__name__}: {reason})"
        ) from None
    for worker, found in versions.items():
        if found != installed():
            raise InputError(f"cluster={address}: moeopt is {installed()} here and {found} at {worker}")
    threads = client.nthreads()
    return Cluster(address, len(threads), sum(threads.values()))


def installed() -> str:
    """Return the version of this package, and fail where exact methods cannot run."""
    import importlib

    importlib.import_module("solvers")
    return version("moeopt")
