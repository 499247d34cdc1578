"""The benchmark: speed and quality measured side by side, and the page that shows them; needs a checkout."""
