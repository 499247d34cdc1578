"""How far is every published balancer from the best possible? ``python scripts/peers.py --help``.

The balancers are files that the reader supplies; nothing of theirs is in this repository.
"""

import os
import sys

for library in ("OMP", "OPENBLAS", "MKL", "NUMBA"):  # before numpy, torch and numba are loaded: one thread for all
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

if __name__ == "__main__":
    try:
        from published.command import main

        sys.exit(main())
    except KeyboardInterrupt:  # during the import; main catches its own
        sys.exit(130)
