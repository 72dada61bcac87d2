"""Whether the pixel spacing of a film can be true.

Headers often carry the spacing of another matrix of pixels: the films of the
SIIM-ACR challenge have that of the original detector, and would show chests 14
to 20 cm wide.
"""

UNKNOWN = (-1.0, -1.0)
IMPLAUSIBLE = 'implausible'
# Longer side of a film in mm: cassettes have 300 to 430, those for children
# less, and detectors lie up to a tenth closer to the tube or farther from it.
_FIELD_OF_VIEW = 250.0, 600.0


def is_plausible(
  pixel_spacing: tuple[float, float], height: int, width: int
) -> bool:
  """Returns whether a film has the size of a chest film, or an unknown one.

  Args:
    pixel_spacing: Millimeters between rows and between columns; not positive
      where unknown.
    height: Rows of the film.
    width: Columns of the film.
  """
  rows, columns = pixel_spacing
  if not (rows > 0 and columns > 0):
    return True
  low, high = _FIELD_OF_VIEW
  return low <= max(rows * height, columns * width) <= high
