"""From TFRecords to batches of numpy arrays.

A training batch is a pure function of (seed, schedule, step), whatever the
number of processes: process p of P loads the p-th part of every global batch.
Evaluation pads the last batch with `valid=False`, so every image counts once.

A batch is a dict of `image` u8[B, S, S, 1], `label` bool[B, S, S, 1], `valid`
bool[B] and `index` i32[B], the position of the record in the dataset. Where not
every mask is known, it also has `mask_weight` and `presence_weight` f32[B], see
`truths`, perhaps `presence` f32[B], the label of the record, and, where some
images are known outside of their boxes, `unknown` bool[B, S, S, 1].
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import cv2
import grain
import numpy as np

from pnx_jax.errors import UserError
from pnx_jax.formats import built_dataset, letterbox, record_reader, rle, schema
from pnx_jax.input import truths
from pnx_jax.input.sampling import Schedule

Example: TypeAlias = dict[str, np.ndarray]
Batch: TypeAlias = dict[str, np.ndarray]

# Images are decoded in the loader's threads; OpenCV's own would compete.
cv2.setNumThreads(1)


class Dataset:
  """The records of some splits: small fields in memory, images on disk.

  Args:
    data_dir: A folder written by `python -m data_prep.build`.
    splits: Names of splits, such as ('fold0', 'fold2').
    labeled_only: Whether to leave out records without an annotation.
    patient_share: Share of the patients whose records are kept; the patients
      of a smaller share belong to every larger one.

  Attributes:
    records: The fields of every record, without the images.
  """

  def __init__(
    self,
    data_dir: str,
    splits: Sequence[str],
    *,
    labeled_only: bool = True,
    patient_share: float = 1.0,
  ):
    self._data_dir = data_dir
    records = record_reader.read(data_dir, splits)
    patients = records.column('patient')
    wanted = np.isin(patients, _some(patients, patient_share))
    if labeled_only:
      wanted &= records.column('label') != schema.UNLABELED
    self.records: record_reader.Records = records.chosen(wanted)

  def __len__(self) -> int:
    return len(self.records)

  @functools.cached_property
  def labels(self) -> np.ndarray:
    """i64[N]: 1 pneumothorax, 0 none, -1 not annotated."""
    return self.records.column('label').astype(np.int64)

  @property
  def sources(self) -> list[str]:
    """N names of the sources, empty where unknown."""
    return self.records.column('source').tolist()

  @functools.cached_property
  def mask_known(self) -> np.ndarray:
    """bool[N]: whether the truth of all pixels is known."""
    columns = map(self.records.column, ('truth', 'label'))
    return truths.mask_known(*columns)

  @functools.cached_property
  def partly_known(self) -> np.ndarray:
    """bool[N]: whether the truth of the pixels outside of boxes is known."""
    columns = map(self.records.column, ('truth', 'boxes_exhaustive'))
    return truths.partly_known(*columns)

  def read_ahead(self, indices: Iterable[int]) -> None:
    """Tells in which order images will be asked for."""
    self.records.expect(indices)

  def image(self, index: int, size: int) -> np.ndarray:
    """Returns the image of a record as u8[size, size].

    Args:
      index: Position of the record.
      size: Side of the image; at most that of the stored image.

    Raises:
      UserError: The stored image is smaller, or cannot be decoded.
    """
    image = self._stored(index)
    self._check_size(len(image), size)
    if len(image) > size:
      image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return image

  def check_size(self, size: int) -> None:
    """Raises UserError where the stored images are smaller than `size`."""
    self._check_size(self.stored_size, size)

  def _check_size(self, stored: int, size: int) -> None:
    if stored < size:
      raise UserError(
        f'image_size is {size} but {self._data_dir} holds images of {stored}; '
        f'build larger ones with `python -m data_prep.build '
        f'--image_size={size} ...`, or set --config.image_size={stored}'
      )

  @functools.cached_property
  def stored_size(self) -> int:
    """Side of the stored images."""
    return len(self._stored(0))

  def _stored(self, index: int) -> np.ndarray:
    record = self.records.payload(index)
    png = np.frombuffer(record.image, np.uint8)
    image = cv2.imdecode(png, cv2.IMREAD_GRAYSCALE)
    if image is None:
      raise UserError(
        f'{self._data_dir}: the image of {record.image_id} cannot be decoded; '
        'the dataset is damaged: build it again'
      )
    return image

  def label(self, index: int, size: int) -> np.ndarray:
    """Returns the mask of a record, letterboxed to bool[size, size].

    It is empty where the mask is not known.
    """
    record = self.records[index]
    mask = rle.decode(record.rle, record.height, record.width)
    return letterbox.letterbox(mask, size, pixel_aspect=record.pixel_aspect)

  def unknown(self, index: int, size: int) -> np.ndarray:
    """Returns bool[size, size], the inside of boxes of a partly known record.

    Pixels that a box covers in part belong to it.
    """
    inside = np.zeros((size, size), bool)
    if self.partly_known[index]:
      for left, top, right, bottom in self.boxes(index, size):
        rows = slice(math.floor(top), math.ceil(bottom))
        inside[rows, math.floor(left) : math.ceil(right)] = True
    return inside

  def boxes(self, index: int, size: int) -> np.ndarray:
    """Returns the boxes of a record on the square of side `size`.

    Returns:
      f64[N, 4]: left, top, right and bottom edges in pixels.
    """
    record = self.records[index]
    place = letterbox.place(
      record.height, record.width, size, pixel_aspect=record.pixel_aspect
    )
    scale = np.array([place.width / record.width, place.height / record.height])
    start = np.array([place.left, place.top]) + record.boxes[:, :2] * scale
    return np.concatenate([start, start + record.boxes[:, 2:4] * scale], axis=1)


def _some(patients: np.ndarray, share: float) -> np.ndarray:
  """A random share of the patients, rounded up, the same at every call."""
  order = np.random.default_rng(0).permutation(np.unique(patients))
  return order[: math.ceil(share * len(order))]


def folds(data_dir: str) -> list[str]:
  """Returns the names of the cross-validation splits, in order."""
  sizes = built_dataset.split_sizes(data_dir)
  names = (schema.fold_split(fold) for fold in range(len(sizes)))
  return [name for name in names if name in sizes]


def split_names(data_dir: str, fold: int) -> tuple[list[str], list[str]]:
  """Returns the splits to train on and to validate on.

  Args:
    data_dir: A folder written by `python -m data_prep.build`.
    fold: The fold that is held out.

  Raises:
    UserError: There is no such fold.
  """
  names = folds(data_dir)
  if not 0 <= fold < len(names):
    raise UserError(
      f'fold={fold}: {data_dir} has {len(names)} folds, numbered from 0'
    )
  return names[:fold] + names[fold + 1 :], [names[fold]]


@dataclasses.dataclass(frozen=True)
class Loader:
  """How this process loads its part of every batch.

  Attributes:
    batch_size: Images per step, over all processes.
    process_index: The number of this process, from 0.
    process_count: How many processes share a batch.
    threads: Threads that decode images; each prepares one batch ahead.

  Raises:
    UserError: The batch does not divide among the processes.
  """

  batch_size: int
  process_index: int = 0
  process_count: int = 1
  threads: int = 8

  def __post_init__(self) -> None:
    if self.batch_size % self.process_count:
      raise UserError(
        f'batch_size={self.batch_size} does not divide among '
        f'{self.process_count} processes'
      )

  @property
  def local_batch_size(self) -> int:
    """Images per step of this process."""
    return self.batch_size // self.process_count

  def global_position(self, local_position: int) -> int:
    """Returns the position in the global sequence of a local one."""
    batch, place = divmod(local_position, self.local_batch_size)
    offset = self.process_index * self.local_batch_size
    return batch * self.batch_size + offset + place

  def positions(self, first: int, last: int) -> Iterator[int]:
    """Yields positions in the global sequence, as `batches` asks for them."""
    local = self.local_batch_size
    return map(self.global_position, range(first * local, last * local))

  def batches(
    self, example: Callable[[int], Example], first: int, last: int
  ) -> Iterator[Batch]:
    """Loads this process' part of the batches `first` to `last` (exclusive).

    Args:
      example: Returns the example at a position of the global sequence.
      first: The number of the first batch.
      last: The number after that of the last batch.
    """
    local = self.local_batch_size
    dataset = (
      grain.MapDataset.range(first * local, last * local)
      .map(lambda position: example(self.global_position(position)))
      .batch(local)
    )
    options = grain.ReadOptions(
      num_threads=self.threads, prefetch_buffer_size=self.threads
    )
    return iter(dataset.to_iter_dataset(options))


@dataclasses.dataclass(frozen=True)
class Unlabeled:
  """Images without annotation that are seen beside the annotated ones.

  Attributes:
    dataset: The images.
    schedule: Their order.
    batch_size: Images per step, over all processes.
  """

  dataset: Dataset
  schedule: Schedule
  batch_size: int

  @classmethod
  def read(cls, data_dir: str, *, batch_size: int, seed: int) -> 'Unlabeled':
    """Reads the split `unlabeled`, each image once a pass.

    Args:
      data_dir: A folder written by `python -m data_prep.build`.
      batch_size: Images per step, over all processes.
      seed: Seeds the order.

    Raises:
      UserError: There is no such split.
    """
    if schema.UNLABELED_SPLIT not in built_dataset.split_sizes(data_dir):
      raise UserError(
        'mean_teacher.unlabeled_share needs images without annotation: '
        f'{data_dir} has no split {schema.UNLABELED_SPLIT!r}; build it from a '
        'manifest with films that have neither label nor annotation'
      )
    dataset = Dataset(data_dir, [schema.UNLABELED_SPLIT], labeled_only=False)
    order = Schedule(np.zeros(len(dataset), np.int64), seed=seed)
    return cls(dataset, order, batch_size)

  def image(self, position: int, size: int) -> np.ndarray:
    """Returns the image u8[size, size, 1] at a position of the sequence."""
    return self.dataset.image(self.schedule.record(position), size)[..., None]


def training_batches(
  dataset: Dataset,
  schedule: Schedule,
  *,
  image_size: int,
  loader: Loader,
  first_step: int,
  last_step: int,
  accumulate_steps: int = 1,
  cropped: bool = False,
  unlabeled: Unlabeled | None = None,
) -> Iterator[Batch]:
  """Loads the batches that follow `first_step`, up to that of `last_step`.

  Args:
    dataset: The training images.
    schedule: Their order.
    image_size: S of the batches.
    loader: Batch size, processes and threads.
    first_step: Number of steps taken before.
    last_step: Number of steps taken after the last batch.
    accumulate_steps: Steps per update of the weights, over which the losses
      of images with some truth are averaged.
    cropped: Whether images are cropped, so that a record's label says nothing
      of what remains of a positive one.
    unlabeled: Where batches are also to have `unlabeled` u8[U, S, S, 1].
  """
  truth_fields = None
  if not dataset.mask_known.all():
    positive = dataset.labels == schema.POSITIVE
    truth_fields = truths.TruthFields(
      mask=dataset.mask_known | dataset.partly_known,
      presence=dataset.mask_known if cropped else np.ones(len(dataset), bool),
      label=None if cropped else positive.astype(np.float32),
      record=schedule.record,
      images_per_update=accumulate_steps * loader.batch_size,
    )
  some_boxes = dataset.partly_known.any()

  def example(position: int) -> Example:
    index = schedule.record(position)
    example = _example(dataset, index, image_size)
    if truth_fields:
      example |= truth_fields(position)
    if some_boxes:
      example['unknown'] = dataset.unknown(index, image_size)[..., None]
    return example

  positions = loader.positions(first_step, last_step)
  dataset.read_ahead(map(schedule.record, positions))
  batches = loader.batches(example, first_step, last_step)
  if unlabeled is None:
    return batches

  def other(position: int) -> Example:
    return {'unlabeled': unlabeled.image(position, image_size)}

  others = dataclasses.replace(loader, batch_size=unlabeled.batch_size)
  positions = others.positions(first_step, last_step)
  unlabeled.dataset.read_ahead(map(unlabeled.schedule.record, positions))
  pairs = zip(
    batches, others.batches(other, first_step, last_step), strict=True
  )
  return (batch | films for batch, films in pairs)


def evaluation_batches(
  dataset: Dataset,
  *,
  image_size: int,
  loader: Loader,
  truth_size: int | None = None,
  with_truths: bool = False,
) -> Iterator[Batch]:
  """Loads every record once, in order; padding is not `valid`.

  Args:
    dataset: The images to evaluate.
    image_size: S of the batches.
    loader: Batch size, processes and threads.
    truth_size: T, where batches are also to have `truth` bool[B, T, T], the
      label letterboxed to that side, and `place` i32[B, 4], the radiograph's
      place on that square (see `letterbox.Place`).
    with_truths: Whether batches are also to tell what is known of an image,
      as those of the training. Known outside of boxes is not known here.
  """
  truth_fields = None
  if with_truths:
    truth_fields = truths.TruthFields(
      mask=dataset.mask_known,
      presence=np.ones(len(dataset), bool),
      label=(dataset.labels == schema.POSITIVE).astype(np.float32),
      record=lambda position: position,
      images_per_update=len(dataset),
    )

  def example(position: int) -> Example:
    valid = position < len(dataset)
    index = position if valid else 0
    example = _example(dataset, index, image_size)
    if truth_fields:
      example |= truth_fields(index)
    if truth_size is not None:
      record = dataset.records[index]
      example['truth'] = dataset.label(index, truth_size)
      example['place'] = np.array(
        letterbox.place(
          record.height,
          record.width,
          truth_size,
          pixel_aspect=record.pixel_aspect,
        ),
        np.int32,
      )
    return example | {'valid': np.bool_(valid)}

  num_batches = -(-len(dataset) // loader.batch_size)
  positions = loader.positions(0, num_batches)
  dataset.read_ahead(p for p in positions if p < len(dataset))
  return loader.batches(example, 0, num_batches)


def _example(dataset: Dataset, index: int, size: int) -> Example:
  return {
    'image': dataset.image(index, size)[..., None],
    'label': dataset.label(index, size)[..., None],
    'valid': np.bool_(True),
    'index': np.int32(index),
  }
