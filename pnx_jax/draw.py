"""Pictures of radiographs: outlines, boxes, text, panels, contact sheets.

Images are uint8[H, W], masks bool[H, W], pictures uint8[H, W, 3] in RGB. Every
function returns a new picture.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Distinguishable for color-blind readers too (Okabe and Ito, 2008).
TRUTH = (86, 180, 233)
PREDICTION = (230, 159, 0)
BOX = (240, 228, 66)
TEXT = (255, 255, 255)
BACKGROUND = (24, 24, 24)


def picture(image: np.ndarray, size: int | None = None) -> np.ndarray:
  """A gray image as a picture whose longer side has `size` pixels."""
  return cv2.cvtColor(_resized(image, size), cv2.COLOR_GRAY2RGB)


def outline(
  picture: np.ndarray,
  mask: np.ndarray,
  *,
  color: Sequence[int] = TRUTH,
  fill: float = 0.0,
) -> np.ndarray:
  """Outlines a mask, which may be of another size than the picture.

  Args:
    picture: uint8[H, W, 3].
    mask: bool[h, w] of the same shape but for its scale.
    color: Red, green, blue.
    fill: How much of the color covers the inside, 0 to 1.
  """
  result = picture.copy()
  height, width = picture.shape[:2]
  mask = cv2.resize(
    np.ascontiguousarray(mask, np.uint8) * 255,
    (width, height),
    interpolation=cv2.INTER_LINEAR,
  )
  mask = (mask > 127).astype(np.uint8)
  if fill:
    inside = mask != 0
    tint = np.array(color) * fill + picture[inside] * (1 - fill)
    result[inside] = np.round(tint)
  contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
  cv2.drawContours(
    result, contours, -1, tuple(color), _stroke(picture), cv2.LINE_AA
  )
  return result


def box(
  picture: np.ndarray,
  boxes: np.ndarray,
  *,
  color: Sequence[int] = BOX,
  scale: float = 1.0,
) -> np.ndarray:
  """Draws boxes, int[N, 4 or more] `x, y, width, height, ...`.

  Args:
    picture: uint8[H, W, 3].
    boxes: In pixels of the image the picture was made from.
    color: Red, green, blue.
    scale: Pixels of the picture per pixel of that image.
  """
  result = picture.copy()
  gap = 2 * _stroke(picture)
  for x, y, width, height in np.asarray(boxes)[:, :4] * scale:
    cv2.rectangle(
      result,
      (round(x) - gap, round(y) - gap),
      (round(x + width) + gap - 1, round(y + height) + gap - 1),
      tuple(color),
      max(1, _stroke(picture) // 2),
    )
  return result


def text(
  picture: np.ndarray,
  words: str,
  *,
  at: tuple[int, int],
  size: int = 16,
  color: Sequence[int] = TEXT,
) -> np.ndarray:
  """Writes words on a dark background, top left corner at (x, y)."""
  canvas = Image.fromarray(picture)
  pen = ImageDraw.Draw(canvas)
  font = ImageFont.load_default(size)
  left, top, right, bottom = pen.multiline_textbbox(at, words, font=font)
  # The background is moved into the picture if it fits.
  x = max(0, min(at[0], picture.shape[1] - (right - at[0]) - size // 4))
  y = max(0, min(at[1], picture.shape[0] - (bottom - at[1]) - size // 4))
  left, right = left + x - at[0], right + x - at[0]
  top, bottom = top + y - at[1], bottom + y - at[1]
  pad = size // 4
  pen.rectangle(
    (left - pad, top - pad, right + pad, bottom + pad), fill=BACKGROUND
  )
  pen.multiline_text((x, y), words, font=font, fill=tuple(color))
  return np.array(canvas)


def caption(
  picture: np.ndarray,
  lines: Sequence[str],
  *,
  size: int = 16,
  colors: Sequence[Sequence[int]] = (),
) -> np.ndarray:
  """Adds a bar with lines of text below a picture; long lines are cut.

  Args:
    picture: uint8[H, W, 3].
    lines: Text, top to bottom.
    size: Height of the letters in pixels.
    colors: Of the lines; white beyond the last one.
  """
  width = picture.shape[1]
  step = round(1.35 * size)
  bar = Image.new('RGB', (width, step * len(lines) + size // 2), BACKGROUND)
  pen = ImageDraw.Draw(bar)
  font = ImageFont.load_default(size)
  for number, line in enumerate(lines):
    color = colors[number] if number < len(colors) else TEXT
    place = (size // 2, size // 4 + number * step)
    words = _cut(line, font, width - size)
    pen.text(place, words, font=font, fill=tuple(color))
  return np.concatenate([picture, np.array(bar)])


def panel(
  image: np.ndarray,
  label: np.ndarray,
  prediction: np.ndarray | None = None,
  *,
  text: str = '',
  size: int = 320,
) -> np.ndarray:
  """Radiograph, truth and prediction side by side over a line of text.

  Args:
    image: uint8[H, W].
    label: bool[H, W].
    prediction: bool[H, W], or None for a panel without it.
    text: What to write below.
    size: Longer side of each of the pictures in pixels.
  """
  plain = picture(image, size)
  tiles = [caption(plain, ['radiograph'])]
  masks = [('truth', label, TRUTH), ('prediction', prediction, PREDICTION)]
  for name, mask, color in masks:
    if mask is None:
      continue
    share = float(np.mean(mask))
    words = f'{name}: {share:.1%} of the image' if share else f'{name}: none'
    marked = outline(plain, mask, color=color, fill=0.25)
    tiles.append(caption(marked, [words], colors=[color]))
  result = np.concatenate(tiles, axis=1)
  return caption(result, text.split('\n')) if text else result


def contact_sheet(
  pictures: Sequence[np.ndarray], *, columns: int = 4, gap: int = 8
) -> np.ndarray:
  """Puts pictures of any size in a grid, each at its cell's top left."""
  columns = min(columns, len(pictures))
  rows = [pictures[n : n + columns] for n in range(0, len(pictures), columns)]
  width = max(picture.shape[1] for picture in pictures) + gap
  heights = [max(picture.shape[0] for picture in row) + gap for row in rows]
  sheet = np.empty((gap + sum(heights), gap + width * columns, 3), np.uint8)
  sheet[:] = 60
  top = gap
  for row, height in zip(rows, heights, strict=True):
    for column, picture in enumerate(row):
      left = gap + column * width
      sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = (
        picture
      )
    top += height
  return sheet


def encoded(picture: np.ndarray, kind: str = '.png') -> bytes:
  """A picture uint8[H, W, 3], RGB, as the bytes of a file."""
  return cv2.imencode(kind, picture[..., ::-1])[1].tobytes()


def _resized(image: np.ndarray, size: int | None) -> np.ndarray:
  height, width = image.shape
  if size is None or size == max(height, width):
    return image
  scale = size / max(height, width)
  how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
  shape = max(1, round(width * scale)), max(1, round(height * scale))
  return cv2.resize(image, shape, interpolation=how)


def _stroke(picture: np.ndarray) -> int:
  """Width of a line that is visible and hides little."""
  return max(1, round(max(picture.shape[:2]) / 400))


def _cut(
  line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> str:
  """Shortens a line to a width in pixels."""
  if font.getlength(line) <= width:
    return line
  while line and font.getlength(line + '...') > width:
    line = line[:-1]
  return line + '...'
