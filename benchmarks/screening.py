"""Which films are refused by their pixels: as they are, turned, mirrored, ...

  python -m benchmarks.screening --dicom_dirs=siim,kaggle_sample

Prints how many of the films in these folders are refused, how they correlate
with the drawn chest, the time of a film, and how many smooth random pictures
pass.
"""

import contextlib
import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from absl import app, flags

from pnx_jax.cli import parse_flags
from pnx_jax.formats import dicom
from pnx_jax.prediction import screening

_DICOM_DIRS = flags.DEFINE_list('dicom_dirs', None, 'Folders of films.')
_RANDOM = 40
_CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  'as they are': lambda film: film,
  'mirrored left to right': lambda film: film[:, ::-1],
  'turned by 180°': lambda film: np.rot90(film, 2),
  'turned by 90°': lambda film: np.rot90(film, 1),
  'turned by 270°': lambda film: np.rot90(film, 3),
  'upside down, mirrored': lambda film: film[::-1],
  'bright and dark exchanged': lambda film: 255 - film,
}


def is_refused(film: np.ndarray) -> bool:
  """Returns whether a film, u8[H, W], is refused by its pixels."""
  try:
    screening.check_pixels(np.ascontiguousarray(film))
  except dicom.UnusableDicom:
    return True
  return False


def random_picture(seed: int) -> np.ndarray:
  """Soft shadows, u8[256, 256]."""
  noise = np.random.default_rng(seed).normal(size=(256, 256))
  soft = cv2.GaussianBlur(noise, (0, 0), 40)
  low, high = soft.min(), soft.max()
  return np.round(255 * (soft - low) / (high - low)).astype(np.uint8)


def main(argv: Sequence[str]) -> None:
  del argv
  films = []
  for folder in _DICOM_DIRS.value:
    for path in dicom.find(folder):
      with contextlib.suppress(dicom.UnusableDicom):  # Not a film at all.
        films.append(dicom.read(path).pixels)
  began = time.process_time()
  as_they_are = [is_refused(film) for film in films]
  seconds = (time.process_time() - began) / len(films)
  print(f'| films | refused of {len(films)} |\n|---|---|')
  for name, change in _CHANGES.items():
    print(f'| {name} | {sum(is_refused(change(film)) for film in films)} |')
  upright, *turned = np.transpose([screening.fits(film) for film in films])
  better = upright - np.max(turned, axis=0)
  print(
    f'{1e3 * seconds:.1f} ms of processor time a film, {sum(as_they_are)} '
    f'refused; correlation {upright.min():.2f} to {upright.max():.2f} '
    f'(1 % below {np.quantile(upright, 0.01):.2f}), more than turned by '
    f'{better.min():.2f} or more'
  )
  passed = sum(not is_refused(random_picture(seed)) for seed in range(_RANDOM))
  print(f'{passed} of {_RANDOM} smooth random pictures pass')


if __name__ == '__main__':
  flags.mark_flag_as_required('dicom_dirs')
  app.run(main, flags_parser=parse_flags)
