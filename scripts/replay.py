"""Is rebalancing worth it? ``python scripts/replay.py --help``.

The same as ``moeopt replay``, from a checkout.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 0; 1 if a claim was found to be wrong; 2 for unusable input; 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        from moeopt.cli import script  # here, so that Ctrl-C during the import is caught, too
    except KeyboardInterrupt:
        return 130
    return script("replay", arguments)


if __name__ == "__main__":
    sys.exit(main())
