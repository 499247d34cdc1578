"""How fast is everything, and how close to the best possible? ``python scripts/benchmark.py --help``.

Runs from a checkout: the plain versions to compare with are the ones in tests/oracles.py.
"""

import os
import sys

for library in ("OMP", "OPENBLAS", "MKL"):  # before numpy and torch are loaded: no threads behind our back
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

if __name__ == "__main__":
    try:
        from benchmarking.command import main

        sys.exit(main())
    except KeyboardInterrupt:  # during the import; main catches its own
        sys.exit(130)
