"""Films in, predictions out: what the library and --mode=predict go through."""

import collections
import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any, TypeVar, overload

import jax
import numpy as np
import pydicom

from pnx_jax import pool
from pnx_jax.errors import UserError
from pnx_jax.formats import boxes, dicom, letterbox
from pnx_jax.prediction import (
  array_film,
  decoding,
  deployment,
  exported,
  screening,
)
from pnx_jax.prediction.decoding import (
  DecodedFilm,
  Film,
  ReadOptions,
  RefusedFilm,
  UnchangedFilm,
)
from pnx_jax.prediction.deployment import Deployment
from pnx_jax.prediction.ensemble import Ensemble
from pnx_jax.prediction.network import SIZE
from pnx_jax.storage import local
from pnx_jax.training import sharding

# Films that a device takes at a time; a CPU gains nothing by several.
_FILMS_ON_CPU = 1
_FILMS_ON_ACCELERATOR = 32
_IN_MEMORY = (np.ndarray, pydicom.Dataset)

Result = TypeVar('Result')


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Prediction:
  """What is predicted for one film.

  Attributes:
    probability: of a pneumothorax, calibrated; NaN where not assessed.
    operating_point: the strictest one that the probability reaches, or ''.
    mask: bool[H, W] in the film's own pixels; bool[0, 0] where not assessed.
    boxes: i32[N, 5] of the mask's regions, see `formats.boxes`.
    square_probs: f32[SIZE, SIZE], the probability map on the letterboxed
      square.
    pixel_aspect: of the film, see `letterbox`.
    reason: why the film was not assessed, '' where it was.
    detail: more about the reason.
    spread: standard deviation over networks of the probability before
      calibration; NaN for a single network.
  """

  probability: float = float('nan')
  operating_point: str = ''
  mask: np.ndarray = dataclasses.field(
    default_factory=lambda: np.zeros((0, 0), bool)
  )
  boxes: np.ndarray = dataclasses.field(
    default_factory=lambda: np.zeros((0, 5), np.int32)
  )
  square_probs: np.ndarray = dataclasses.field(
    default_factory=lambda: np.zeros((SIZE, SIZE), np.float32)
  )
  pixel_aspect: float = 1.0
  reason: str = ''
  detail: str = ''
  spread: float = float('nan')

  @functools.cached_property
  def probs(self) -> np.ndarray:
    """f32[H, W], the probability map in the film's own pixels."""
    if not self.mask.size:
      return np.zeros(self.mask.shape, np.float32)
    return letterbox.unletterbox(
      self.square_probs, *self.mask.shape, pixel_aspect=self.pixel_aspect
    )

  def __repr__(self) -> str:
    if self.reason:
      return f'Prediction(reason={self.reason!r}, detail={self.detail!r})'
    height, width = self.mask.shape
    return (
      f'Prediction(probability={self.probability:.3f}, '
      f'operating_point={self.operating_point!r}, mask=bool[{height}, {width}] '
      f'of {np.count_nonzero(self.mask):,} px, boxes={self.boxes.tolist()})'
    )


class Predictor:
  """Predicts pneumothorax in films, with an ensemble.

  Args:
    ensemble: its networks should be in memory.

  Attributes:
    ensemble: as given.
    batch_size: films that the devices take at a time.
  """

  def __init__(self, ensemble: Ensemble):
    self.ensemble = ensemble
    on_cpu = jax.devices()[0].platform == 'cpu'
    each = _FILMS_ON_CPU if on_cpu else _FILMS_ON_ACCELERATOR
    self.batch_size: int = each * (ensemble.mesh.size if ensemble.mesh else 1)

  def __repr__(self) -> str:
    ensemble = self.ensemble
    points = ', '.join(
      f'{point.name} from {point.threshold:.3f}'
      for point in ensemble.postprocess.operating_points
    )
    return (
      f'<Predictor {ensemble.version}, rules {ensemble.rules_version}: '
      f'{ensemble.image_size} x {ensemble.image_size}, '
      f'mask where {ensemble.postprocess.rule}; '
      f'{points or "no operating points"}; {ensemble.seal}>'
    )

  def predict(
    self,
    film: str | os.PathLike[str] | pydicom.Dataset | np.ndarray,
    *,
    bits: int | None = None,
    photometric: str | None = None,
    pixel_spacing: Sequence[float] | None = None,
    screen: bool = False,
  ) -> Prediction:
    """Predicts one frontal chest radiograph.

    The decoders are C code, which a damaged file can crash together with this
    process; `predict_many` keeps them in processes of their own.

    Args:
      film: path of a DICOM file, a DICOM dataset with pixels, or an array
        uint8[H, W] or uint16[H, W], bright where dense.
      bits: of an array: how many bits of its values are used; uint16 needs it.
      photometric: of an array: MONOCHROME1 where dense is dark.
      pixel_spacing: of an array: millimeters between rows and columns.
      screen: whether an array is screened, as paths and datasets always are.

    Raises:
      UnusableDicom: not an upright frontal chest radiograph.
      UserError: an array, or what is said of it, makes no sense.
    """
    try:
      read = self._read(film, bits, photometric, pixel_spacing, screen)
    except dicom.UnusableDicom as error:
      name = 'the film' if isinstance(film, _IN_MEMORY) else os.fspath(film)
      error.args = (
        f'{name} cannot be assessed: {error.detail} ({error.reason})',
      )
      raise
    (prediction,) = self.run([decoding.prepare(read, self._options())])
    return prediction

  def _read(self, film, bits, photometric, pixel_spacing, screen) -> dicom.Film:
    window = self.ensemble.window
    if isinstance(film, np.ndarray):
      dataset = array_film.as_dataset(
        film, bits=bits, photometric=photometric, pixel_spacing=pixel_spacing
      )
      read = dicom.from_dataset(dataset, window=window, accept_modality=())
    elif (bits, photometric, pixel_spacing) != (None, None, None):
      raise UserError(
        'bits, photometric and pixel_spacing are for arrays; DICOM files and '
        'datasets have their own'
      )
    elif isinstance(film, pydicom.Dataset):
      read, screen = dicom.from_dataset(film, window=window), True
    else:
      read, screen = dicom.read(film, window=window), True
    if screen:
      screening.check(read)
    return read

  def predict_many(
    self,
    paths: Iterable[str | os.PathLike[str]],
    *,
    num_workers: int | None = None,
  ) -> Iterator[Prediction]:
    """Predicts films in batches; worker processes decode them.

    The calling script needs `if __name__ == '__main__':`, as worker processes
    import it.

    Args:
      paths: DICOM files.
      num_workers: half of the cores where not given.

    Yields:
      One prediction for each path, in order. A film that cannot be assessed
      has a `reason` and a `detail`.
    """
    paths = list(paths)
    num_workers = num_workers or max(1, pool.num_cores() // 2)
    with decoding.read(
      paths, self._options(), num_workers=num_workers
    ) as films:
      yield from self.run(decoding.in_order(films))

  @overload
  def run(self, films: Iterable[Film]) -> Iterator[Prediction]: ...

  @overload
  def run(
    self, films: Iterable[Film], finish: Callable[[Film, Prediction], Result]
  ) -> Iterator[Result]: ...

  def run(
    self,
    films: Iterable[Film],
    finish: Callable[[Film, Prediction], Any] | None = None,
  ) -> Iterator[Any]:
    """Predicts decoded films in batches, in order.

    Films that are not decoded have a prediction with a `reason`: their own, or
    `unchanged`.

    Args:
      films: to predict; the devices work on one batch while the next ones are
        taken.
      finish: called in one of several threads with each film and its
        prediction; what it returns is yielded instead of the prediction.
    """
    pending: collections.deque[Any] = collections.deque()
    with futures.ThreadPoolExecutor(pool.num_cores()) as threads:

      def finished() -> Iterator[Any]:
        batch, found = pending.popleft()
        rows = iter(_rows(found))
        pairs = [
          (film, next(rows) if isinstance(film, DecodedFilm) else None)
          for film in batch
        ]
        return threads.map(lambda pair: self._finish(*pair, finish), pairs)

      for batch in _batches(films, self.batch_size):
        pending.append((batch, self._predicted(batch)))
        if len(pending) > 1:
          yield from finished()
      while pending:
        yield from finished()

  def _predicted(self, batch):
    """The probabilities of a batch; filled up, so that one program serves."""
    squares = [film.square for film in batch if isinstance(film, DecodedFilm)]
    if not squares:
      return None
    images = np.zeros((self.batch_size, *squares[0].shape), np.uint8)
    images[: len(squares)] = squares
    if self.ensemble.mesh:
      images = sharding.put({'image': images}, self.ensemble.mesh)['image']
    return self.ensemble(images)

  def _finish(self, film, row, finish):
    if isinstance(film, RefusedFilm):
      prediction = Prediction(reason=film.reason, detail=film.detail)
    elif isinstance(film, UnchangedFilm):
      prediction = Prediction(reason='unchanged')
    else:
      prediction = self._prediction(*row, film.header)
    return finish(film, prediction) if finish else prediction

  def _prediction(
    self,
    probs: np.ndarray,
    probability: float,
    spread: float,
    header: dicom.Header,
  ) -> Prediction:
    post = self.ensemble.postprocess
    mask = post.film_mask(probs, probability, header)
    calibrated = float(post.calibrated(probability))
    return Prediction(
      probability=calibrated,
      operating_point=post.reached(calibrated),
      mask=mask,
      boxes=boxes.boxes(mask),
      square_probs=probs,
      pixel_aspect=header.pixel_aspect,
      spread=spread,
    )

  def _options(self) -> ReadOptions:
    return ReadOptions(self.ensemble.image_size, self.ensemble.window)


def load(
  path: str | os.PathLike[str], *, accept_edited: bool = False
) -> Predictor:
  """Loads the predictor of an evaluated run or of an export.

  Args:
    path: the folder, or its address in a bucket.
    accept_edited: go on where files were edited after they were sealed;
      `Ensemble.seal` names them.

  Raises:
    UserError: the folder holds neither, or a damaged or edited one.
  """
  path = local.fetched(path)
  read = exported.load if exported.is_export(path) else deployment.load
  return Predictor(read(path, accept_edited=accept_edited))


def read_options(
  path: str | os.PathLike[str], *, accept_edited: bool = False
) -> ReadOptions:
  """How films are read for a run or an export, known before it is loaded.

  Args:
    path: see `load`.
    accept_edited: see `load`.

  Raises:
    UserError: see `load`.
  """
  path = local.fetched(path)
  if exported.is_export(path):
    settings = exported.read_settings(path, accept_edited=accept_edited)
    return ReadOptions(settings['image_size'], settings['window'])
  deployed = Deployment.load(path, accept_edited=accept_edited)
  return ReadOptions(deployed.image_size(path), deployed.window)


def _batches(films, size):
  """Lists of films of which up to `size` are decoded."""
  batch, count = [], 0
  for film in films:
    batch.append(film)
    count += isinstance(film, DecodedFilm)
    if count == size or len(batch) == 2 * size:
      yield batch
      batch, count = [], 0
  if batch:
    yield batch


def _rows(found):
  """Probability map, probability and spread of each image."""
  if found is None:
    return ()
  found = jax.device_get(found)
  probability = found['probability']
  spread = found.get('spread', np.full(len(probability), np.nan))
  return zip(found['probs'], probability.tolist(), spread.tolist(), strict=True)
