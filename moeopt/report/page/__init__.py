"""Pages to explore: one file each that holds its data, a plotting library and a little script of our own."""
