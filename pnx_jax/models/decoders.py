"""Decoders: features by stride to decoded features by stride."""

import flax.linen as nn
import jax.numpy as jnp

from pnx_jax.models import layers


class UNetDecoder(nn.Module):
  """Expanding path of U-Net, upsampling by nearest neighbour.

  Channels double with each stride up to 16 times `width`.
  """

  width: int
  style: layers.Style

  @nn.compact
  def __call__(self, features, train):
    stride = max(features)
    x = features[stride]
    decoded = {}
    while stride > 1:
      stride //= 2
      x = layers.upsample(x)
      if stride in features:
        x = jnp.concatenate([x, features[stride]], axis=-1)
      for index in (1, 2):
        x = layers.ConvNorm(
          self.width * min(stride, 16),
          self.style,
          name=f'stride{stride}_conv{index}',
        )(x, train)
      decoded[stride] = x
    return decoded
