"""Bounds that no real film meets; without them one file could take all memory.

Worker processes are limited in time and memory, too: see `pool.Limits`.
"""

# A film of 43 x 43 cm with pixels of 0.1 mm has 18 million.
MOST_PIXELS = 100_000_000
# What precedes the pixel data; overlays of the largest films take 2 MB each.
MOST_HEADER_BYTES = 64 << 20
# Of a file, and of a deflated one when it is inflated.
MOST_FILE_BYTES = 2 * MOST_PIXELS + MOST_HEADER_BYTES
# Of a line of a table, in characters; the run lengths of a mask are one cell.
MOST_LINE = 64 << 20
