"""Random numbers of compiled functions: xorshift64, G. Marsaglia, doi 10.18637/jss.v008.i14.

The state is an array of one word that each kernel seeds for itself: a numpy Generator handed into
compiled code may be torn down under it when the user interrupts.
"""

import numpy as np

from moeopt._kernel import kernel


@kernel
def random_state(seed, stream):  # type: ignore[no-untyped-def]
    """State ``[1]`` of a generator: its own for every seed and for every stream below 1,000,003."""
    state = np.empty(1, np.uint64)
    state[0] = np.uint64(88172645463325252) + np.uint64(seed) * np.uint64(1000003) + np.uint64(stream)
    for _ in range(4):
        advance(state)
    return state


@kernel
def advance(state):  # type: ignore[no-untyped-def]
    """Next 64 random bits."""
    word = state[0]
    word ^= word << np.uint64(13)
    word ^= word >> np.uint64(7)
    word ^= word << np.uint64(17)
    state[0] = word
    return word


@kernel
def below(state, n):  # type: ignore[no-untyped-def]
    """Random integer in [0, n)."""
    return np.int64((advance(state) >> np.uint64(11)) % np.uint64(n))


@kernel
def uniform(state):  # type: ignore[no-untyped-def]
    """Random number in [0, 1)."""
    return np.float64(advance(state) >> np.uint64(11)) * (1.0 / 9007199254740992.0)
