"""Draws a film with its prediction, as in docs/images/library.jpg.

python docs/library.py runs/demo film.dcm picture.jpg
"""

import sys

import cv2

import pnx_jax
from pnx_jax import draw
from pnx_jax.formats import dicom

SIZE = 480


def main(run: str, film: str, output: str) -> None:
  predictor = pnx_jax.load(run)
  found = predictor.predict(film)
  print(predictor, found, sep='\n')

  pixels = dicom.read(film, window=predictor.ensemble.window).pixels
  picture = draw.outline(
    draw.picture(pixels, SIZE), found.mask, color=draw.PREDICTION, fill=0.2
  )
  picture = draw.box(picture, found.boxes, scale=SIZE / max(pixels.shape))
  words = f'pneumothorax: {found.probability:.1%}, {found.operating_point}'
  cv2.imwrite(output, draw.caption(picture, [words])[..., ::-1])


if __name__ == '__main__':
  main(*sys.argv[1:])
