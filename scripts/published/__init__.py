"""Published balancers against the proven optimum: what the reader supplies, measured, and the page that shows it."""
