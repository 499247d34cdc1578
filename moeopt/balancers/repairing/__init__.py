"""How ``repair`` mends a placement: rows, kernels, and the best placement known of every layer."""
