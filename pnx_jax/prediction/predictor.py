"""A trained model, ready for new films."""

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pnx_jax.formats import boxes, dicom, letterbox
from pnx_jax.prediction import screening
from pnx_jax.prediction.deployment import Deployment
from pnx_jax.prediction.network import Network, compiled_predict
from pnx_jax.prediction.postprocess import Postprocess
from pnx_jax.training import sharding

_VERSION_LENGTH = 12

# `probs` f32[B, SIZE, SIZE] and `probability` f32[B] for uint8[B, S, S, 1].
Answer = Callable[[np.ndarray], dict[str, jax.Array]]


class Prediction(NamedTuple):
  """What a model says of one film.

  Attributes:
    probability: that it shows a pneumothorax, calibrated.
    operating_point: the strictest one that it reaches, empty for none.
    mask: bool[H, W] in the film's own pixels.
    boxes: i32[N, 5] of its regions, see `formats.boxes`.
  """

  probability: float
  operating_point: str
  mask: np.ndarray
  boxes: np.ndarray

  def __repr__(self):
    height, width = self.mask.shape
    return (
      f'Prediction(probability={self.probability:.3f}, '
      f'operating_point={self.operating_point!r}, mask=bool[{height}, {width}] '
      f'of {np.count_nonzero(self.mask):,} px, boxes={self.boxes.tolist()})'
    )


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Model:
  """Networks and everything between a film and a finding.

  Attributes:
    answer: of the networks, see `Answer`.
    image_size: S, the side of the square they see.
    window: how grey levels are made, see `greyscale.to_uint8`.
    postprocess: from their answer to a mask and a calibrated probability.
    version: tells models apart; of the weights and the network.
    data: what it was trained and scored on, in words.
  """

  answer: Answer
  image_size: int
  window: str
  postprocess: Postprocess
  version: str
  data: str

  def __repr__(self):
    points = ', '.join(
      f'{point.name} from {point.threshold:.3f}'
      for point in self.postprocess.operating_points
    )
    return (
      f'<Model {self.version}, rules {self.rules_version}: '
      f'{self.image_size} x {self.image_size}, '
      f'mask where {self.postprocess.rule}; {points or "no operating points"}>'
    )

  @property
  def rules_version(self) -> str:
    """Tells the rules and thresholds apart."""
    return digest(repr(self.postprocess).encode())

  def predict(self, path: str | os.PathLike) -> Prediction:
    """Reads one DICOM file, a frontal chest radiograph.

    The decoders are C code, which a damaged file can crash together with
    this process; `--mode=predict` keeps them in processes of their own.

    Raises:
      UnusableDicom: the file holds no upright frontal chest radiograph.
    """
    film = dicom.read(path, window=self.window)
    screening.check(film)
    answer = jax.device_get(self.answer(self.square(film)[None]))
    return self.finding(
      answer['probs'][0], float(answer['probability'][0]), film.header
    )

  def square(self, film: dicom.Film) -> np.ndarray:
    """The film as the networks see it, uint8[S, S, 1]."""
    return letterbox.letterbox(
      film.pixels, self.image_size, pixel_aspect=film.header.pixel_aspect
    )[..., None]

  def finding(
    self, probs: np.ndarray, probability: float, header: dicom.Header
  ) -> Prediction:
    """From an answer, f32[SIZE, SIZE] and its `probability`, to a finding."""
    mask = self.postprocess.film_mask(probs, probability, header)
    calibrated = float(self.postprocess.calibrated(probability))
    return Prediction(
      calibrated,
      self.postprocess.reached(calibrated),
      mask,
      boxes.boxes(mask),
    )


def load(workdir: str | os.PathLike) -> Model:
  """The networks of an evaluated run, as they were evaluated.

  Raises:
    UserError: there is no run, or it was not evaluated as it is now.
  """
  deployment = Deployment.load(workdir)
  networks = deployment.networks(workdir, sharding.mesh())
  return of(workdir, deployment, networks)


def of(
  workdir: str | os.PathLike,
  deployment: Deployment,
  networks: Sequence[Network],
) -> Model:
  """The model of a run whose networks are loaded; see `load`."""
  return Model(
    answer=functools.partial(
      mean_answer, networks, flip=deployment.flip, scales=deployment.scales
    ),
    image_size=max(network.image_size for network in networks),
    window=deployment.window,
    postprocess=Postprocess.load(
      pathlib.Path(workdir, 'eval', 'postprocess.json')
    ),
    version=version(networks, deployment),
    data=deployment.data,
  )


def mean_answer(
  networks: Sequence[Network],
  images: Any,
  *,
  flip: bool,
  scales: tuple[float, ...],
) -> dict[str, jax.Array]:
  """The mean of what some networks answer, see `network.predict`.

  Args:
    networks: which; those that see less than S get the images shrunk.
    images: uint8[B, S, S, 1].
    flip: average with the mirrored image, too.
    scales: average over the image resized by these factors.
  """
  predict = compiled_predict()
  return mean(
    predict(
      network.variables,
      shrunk(images, network.image_size),
      model=network.model,
      presence=network.presence,
      flip=flip,
      scales=scales,
    )
    for network in networks
  )


def mean(answers: Iterable[dict[str, jax.Array]]) -> dict[str, jax.Array]:
  """The mean of some answers, of which only the sum is kept."""
  answers = iter(answers)
  total, count = next(answers), 1
  for answer in answers:
    total, count = jax.tree.map(jnp.add, total, answer), count + 1
  return jax.tree.map(lambda x: x / count, total)


def version(networks: Sequence[Network], deployment: Deployment) -> str:
  """The same for the same weights, sizes and augmentation, on any device."""
  options = [
    [(network.image_size, network.presence) for network in networks],
    deployment.flip,
    deployment.scales,
  ]
  weights = jax.tree.leaves([network.variables for network in networks])
  return digest(repr(options).encode(), *map(np.asarray, weights))


def digest(*parts: bytes | np.ndarray) -> str:
  """The first digits of a SHA-256."""
  sha = hashlib.sha256()
  for part in parts:
    sha.update(part)
  return sha.hexdigest()[:_VERSION_LENGTH]


def shrunk(images: Any, size: int) -> Any:
  """Images `[B, S, S, 1]` on a square of `size`."""
  if images.shape[1] == size:
    return images
  shape = (images.shape[0], size, size, 1)
  return jax.image.resize(images.astype(jnp.float32), shape, 'bilinear')
