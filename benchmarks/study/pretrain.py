"""An encoder that has learned findings of NIH ChestX-ray14 before any mask.

    python -m benchmarks.study.pretrain --real_data=DIR \\
        --output=runs/study/findings.safetensors

DIR holds nih_labelled, siim_study and siim_stage2_320; `nih_films.py` says
which films are used. NIH's pneumothorax label, wrong on 43 % of its positives,
is not used. EfficientNet-Lite0 starts from ImageNet and learns 13 findings; the
file that is written has the names of the published PyTorch weights, so that
`--config.pretrained=FILE` starts from it. The same command resumes.
"""

import json
import logging
import pathlib
import time

import cv2
import flax.linen as nn
import flax.serialization
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from benchmarks.study import nih_films
from pnx_jax.formats import files
from pnx_jax.input.augment import Augmentation
from pnx_jax.metrics.curves import curve
from pnx_jax.models import efficientnet, layers, pretrained, segmenter

FINDINGS = (
  'Atelectasis',
  'Cardiomegaly',
  'Consolidation',
  'Edema',
  'Effusion',
  'Emphysema',
  'Fibrosis',
  'Hernia',
  'Infiltration',
  'Mass',
  'Nodule',
  'Pleural_Thickening',
  'Pneumonia',
)
_ENCODER = 'efficientnet_lite0'
_SIZE = 224
_RATE = 5e-4
_LOG_STEPS = 50
_CHECKPOINT_STEPS = 100
_HELD_OUT = 10  # Every tenth patient shows whether anything was learned.
_SAFETENSORS_TYPE = 'F32'

_AUGMENTATION = Augmentation(
  flip_probability=0.5,
  affine_probability=0.5,
  shift=0.1,
  scale=0.15,
  rotate=15.0,
  intensity_probability=0.3,
  intensity_strength=0.2,
)

_logger = logging.getLogger(__name__)


class Classifier(nn.Module):
  """Encoder, mean over places, one logit per finding."""

  @nn.compact
  def __call__(self, image, train):
    mean, deviation = segmenter.intensities(_ENCODER)
    encoder = efficientnet.EfficientNetEncoder(
      efficientnet.VARIANTS[_ENCODER],
      5,
      0.0,
      layers.Style(platform=jax.default_backend()),
      name='encoder',
    )
    features = encoder((image - mean) / deviation, train)
    pooled = features[max(features)].astype(jnp.float32).mean(axis=(1, 2))
    return nn.Dense(len(FINDINGS), name='findings')(pooled)


def arrays(
  real_data: pathlib.Path, rows: list[dict[str, str]]
) -> tuple[np.ndarray, np.ndarray]:
  """Images uint8[N, S, S] and findings bool[N, 13]."""
  images = [
    cv2.resize(
      nih_films.pixels(real_data, row),
      (_SIZE, _SIZE),
      interpolation=cv2.INTER_AREA,
    )
    for row in rows
  ]
  found = [row['nih_labels'].split('|') for row in rows]
  return np.stack(images), np.array(
    [[name in names for name in FINDINGS] for names in found]
  )


def initial(model: Classifier) -> dict:
  """Variables with the ImageNet weights in the encoder."""
  image = jnp.zeros((1, 64, 64, 1))  # The weights are the same at any size.
  variables = jax.jit(model.init, static_argnums=2)(
    jax.random.key(0), image, False
  )
  return pretrained.load(
    'efficientnet-lite0', dict(variables), encoder=_ENCODER
  )


def train(
  model: Classifier,
  images: np.ndarray,
  findings: np.ndarray,
  *,
  steps: int,
  batch_size: int,
  checkpoint: pathlib.Path,
) -> dict:
  """Returns the variables after the last step.

  Args:
    model: of which the encoder is kept.
    images: uint8[N, S, S].
    findings: bool[N, 13].
    steps: in all.
    batch_size: images per step.
    checkpoint: the file that an interrupted training resumes from.
  """
  variables = initial(model)
  schedule = optax.warmup_cosine_decay_schedule(0.0, _RATE, steps // 20, steps)
  optimizer = optax.adamw(schedule, weight_decay=1e-4)
  state = optimizer.init(variables['params'])

  @jax.jit
  def update(variables, state, key, image, label):
    image = image[..., None].astype(jnp.float32) / 255
    image, _ = _AUGMENTATION(key, image, jnp.zeros(image.shape, bool))

    def loss(params):
      logits, changed = model.apply(
        {**variables, 'params': params},
        image,
        train=True,
        mutable=['batch_stats'],
      )
      return optax.sigmoid_binary_cross_entropy(logits, label).mean(), changed

    (value, changed), grads = jax.value_and_grad(loss, has_aux=True)(
      variables['params']
    )
    updates, state = optimizer.update(grads, state, variables['params'])
    params = optax.apply_updates(variables['params'], updates)
    return {'params': params, **changed}, state, value

  random = np.random.default_rng(0)
  order = np.concatenate(
    [
      random.permutation(len(images))
      for _ in range(steps * batch_size // len(images) + 1)
    ]
  )
  first = 0
  if checkpoint.exists():
    first, variables, state = flax.serialization.from_bytes(
      (first, variables, state), checkpoint.read_bytes()
    )
  start = time.monotonic()
  for step in range(first, steps):
    rows = order[step * batch_size : (step + 1) * batch_size]
    variables, state, value = update(
      variables,
      state,
      jax.random.key(step),
      images[rows],
      findings[rows].astype(np.float32),
    )
    if (step + 1) % _LOG_STEPS == 0:
      rate = (step + 1 - first) * batch_size / (time.monotonic() - start)
      _logger.info(
        'step %d/%d  loss %.4f  %.1f images/s',
        step + 1,
        steps,
        float(value),
        rate,
      )
    if (step + 1) % _CHECKPOINT_STEPS == 0:
      files.write(
        checkpoint,
        flax.serialization.to_bytes((step + 1, variables, state)),
      )
  return variables


def mean_auc(
  model: Classifier, variables: dict, images: np.ndarray, findings: np.ndarray
) -> float:
  """The mean AUC of the findings that some of the films show."""
  predict = jax.jit(lambda image: model.apply(variables, image, train=False))
  logits = np.concatenate(
    [
      np.asarray(predict(images[i : i + 1, ..., None].astype(np.float32) / 255))
      for i in range(len(images))
    ]
  )
  scores = [
    float(curve(logits[:, i], findings[:, i]).auc)
    for i in range(len(FINDINGS))
    if findings[:, i].any()
  ]
  return float(np.mean(scores))


def write(path: str, variables: dict) -> None:
  """Writes the encoder as safetensors under the published weights' names."""
  names = pretrained.torch_names(variables, encoder=_ENCODER)
  flat = flax.traverse_util.flatten_dict(dict(variables))
  header, parts, offset = {}, [], 0
  for place, name in names.items():
    array = np.asarray(flat[place], np.float32)
    if array.ndim == 4:
      array = array.transpose(3, 2, 0, 1)  # As PyTorch holds kernels.
    data = np.ascontiguousarray(array).tobytes()
    header[name] = {
      'dtype': _SAFETENSORS_TYPE,
      'shape': array.shape,
      'data_offsets': (offset, offset + len(data)),
    }
    parts.append(data)
    offset += len(data)
  text = json.dumps(header).encode()
  files.write(path, b''.join([len(text).to_bytes(8, 'little'), text, *parts]))


def main(_) -> None:
  logging.basicConfig(format='%(asctime)s %(message)s', level=logging.INFO)
  values = flags.FLAGS
  real_data = pathlib.Path(values.real_data)
  rows = nih_films.usable(real_data)
  images, findings = arrays(real_data, rows)
  held_out = np.array([int(row['patient']) % _HELD_OUT == 0 for row in rows])
  model = Classifier()
  checkpoint = pathlib.Path(
    f'{values.output}.{values.steps}x{values.batch_size}.checkpoint'
  )
  variables = train(
    model,
    images[~held_out],
    findings[~held_out],
    steps=values.steps,
    batch_size=values.batch_size,
    checkpoint=checkpoint,
  )
  _logger.info(
    'Mean AUC of the findings on %d films of other patients: %.3f.',
    held_out.sum(),
    mean_auc(model, variables, images[held_out], findings[held_out]),
  )
  write(values.output, variables)
  checkpoint.unlink(missing_ok=True)


if __name__ == '__main__':
  flags.DEFINE_string('real_data', None, 'Folder of the films.')
  flags.DEFINE_string('output', None, 'The safetensors file.')
  flags.DEFINE_integer('steps', 1200, 'Batches.')
  flags.DEFINE_integer('batch_size', 16, 'Films per batch.')
  flags.mark_flags_as_required(['real_data', 'output'])
  app.run(main)
