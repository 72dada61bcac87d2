"""A model as a library; drew docs/images/library.jpg.

python docs/library.py runs/demo film.dcm picture.jpg
"""

import sys

import cv2

from pnx_jax import draw, load
from pnx_jax.formats import dicom

SIZE = 480


def main(run, film, output):
  model = load(run)
  found = model.predict(film)
  print(model, found, sep='\n')

  pixels = dicom.read(film, window=model.window).pixels
  picture = draw.outline(
    draw.picture(pixels, SIZE), found.mask, color=draw.PREDICTION, fill=0.2
  )
  picture = draw.box(picture, found.boxes, scale=SIZE / max(pixels.shape))
  words = f'pneumothorax: {found.probability:.1%}, {found.operating_point}'
  cv2.imwrite(output, draw.caption(picture, [words])[..., ::-1])


if __name__ == '__main__':
  main(*sys.argv[1:])
