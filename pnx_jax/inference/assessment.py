"""The loop: films through a model, their files left behind."""

import collections
from collections.abc import Iterator, Sequence
from concurrent import futures

import jax
import numpy as np

from pnx_jax import pool
from pnx_jax.case import Case, square_millimeters
from pnx_jax.formats import rle
from pnx_jax.inference.decoding import Film, Refused
from pnx_jax.inference.outputs import Outputs
from pnx_jax.inference.readings import Reading
from pnx_jax.prediction.predictor import Model
from pnx_jax.training import sharding

# Films a device takes at a time. A CPU reads one as fast as each of many.
_ON_CPU = 1
_ON_ACCELERATOR = 32


class Reader:
  """Reads films with a model; the next ones are on the devices meanwhile.

  Args:
    model: which.
    outputs: of the films.
    mesh: of the devices that batches are split over; without one, one device.

  Attributes:
    versions: of the `model` and its `rules`.
  """

  def __init__(
    self, model: Model, outputs: Outputs, *, mesh: jax.sharding.Mesh | None
  ):
    self.versions = {'model': model.version, 'rules': model.rules_version}
    self._model = model
    self._outputs = outputs
    each = _ON_CPU if jax.default_backend() == 'cpu' else _ON_ACCELERATOR
    self._batch_size = each * (mesh.size if mesh else 1)
    self._mesh = mesh

  def readings(self, found: Iterator[Film | Refused]) -> Iterator[Reading]:
    """Of every film, in no particular order."""
    batch, under_way = [], collections.deque()
    with futures.ThreadPoolExecutor(pool.num_cores()) as threads:

      def finished():
        films, answer = under_way.popleft()
        answer = jax.device_get(answer)
        probability = answer['probability'].tolist()
        return threads.map(self._read, films, answer['probs'], probability)

      for film in found:
        if isinstance(film, Refused):
          yield self._refused(film)
          continue
        batch.append(film)
        if len(batch) == self._batch_size:
          under_way.append((batch, self._answer(batch)))
          batch = []
          if len(under_way) > 1:
            yield from finished()
      if batch:
        under_way.append((batch, self._answer(batch)))
      while under_way:
        yield from finished()

  def _answer(self, batch: Sequence[Film]) -> dict[str, jax.Array]:
    """Of the model; the batch is filled up, so that there is one program."""
    images = np.zeros((self._batch_size, *batch[0].square.shape), np.uint8)
    images[: len(batch)] = [film.square for film in batch]
    if self._mesh:
      images = sharding.put({'image': images}, self._mesh)['image']
    return self._model.answer(images)

  def _read(self, film: Film, probs: np.ndarray, probability: float) -> Reading:
    """Decides, and leaves the film's files."""
    header, source = film.header, film.source
    found = self._model.finding(probs, probability, header)
    case = Case(
      image=film.small,
      mask=found.mask,
      image_id=source.image_id,
      view=header.view,
      sex=header.sex,
      age=header.age,
      pixel_spacing=header.pixel_spacing,
      spacing_plane=header.spacing_plane,
      mirrored=header.mirrored,
      probability=found.probability,
    )
    detail = self._outputs.write(source, case, self.versions)
    area = int(np.count_nonzero(found.mask))
    return Reading(
      **source._asdict(),
      detail=detail,
      probability=found.probability,
      operating_point=found.operating_point,
      area=area,
      area_mm2=square_millimeters(area, header.pixel_spacing),
      spacing_plane=header.spacing_plane,
      side=' and '.join(case.sides),
      boxes=tuple(map(tuple, found.boxes.tolist())),
      rle=rle.encode(found.mask),
      height=header.height,
      width=header.width,
      view=header.view,
      sex=header.sex,
      age=header.age,
      **self.versions,
    )

  def _refused(self, film: Refused) -> Reading:
    self._outputs.remove(film.source.name)
    return Reading(
      **film.source._asdict(),
      reason=film.reason,
      detail=film.detail,
      **self.versions,
    )
