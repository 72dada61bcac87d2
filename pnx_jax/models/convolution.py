"""Convolutions and pooling, each in the form its backend runs fastest.

XLA's CPU backend has no fast grouped convolution; sums of shifted products
stand in for it there. All forms of one operation compute the same, which
tests hold them to.
"""

import math

import jax
import jax.numpy as jnp


def padding_of(size, *, kernel, stride, padding):
  """Zeros before and after an axis of `size` values.

  Args:
    size: length of the axis.
    kernel: taps along it.
    stride: of the convolution.
    padding: 'symmetric' (PyTorch) or 'same' (TensorFlow).
  """
  if padding == 'symmetric':
    return (kernel // 2, kernel // 2)
  total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
  return (total // 2, total - total // 2)


def convolve(x, kernel, *, stride=1, padding='symmetric', groups=1):
  """Convolution of x by kernel.

  Args:
    x: `[B, H, W, C]`.
    kernel: `[K, K, C / groups, F]`.
    stride: of both axes.
    padding: see `padding_of`.
    groups: channels are cut into this many independent groups.

  Returns:
    `[B, H / stride, W / stride, F]`.
  """
  size = kernel.shape[0]
  pads = tuple(
    padding_of(length, kernel=size, stride=stride, padding=padding)
    for length in x.shape[1:3]
  )
  if groups > 1 and jax.default_backend() == 'cpu':
    if groups == x.shape[-1] == kernel.shape[-1]:
      return depthwise(x, kernel[:, :, 0], stride, pads)
    return grouped(x, kernel, stride=stride, pads=pads, groups=groups)
  return direct(x, kernel, stride=stride, pads=pads, groups=groups)


def direct(x, kernel, *, stride, pads, groups=1):
  """XLA's own convolution."""
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride, stride),
    padding=pads,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


def depthwise(x, kernel, stride, pads):
  """One filter per channel as a sum of shifted products.

  Args:
    x: `[B, H, W, C]`.
    kernel: `[K, K, C]`.
    stride: of both axes.
    pads: zeros before and after each axis.
  """
  size = kernel.shape[0]
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  rows, columns = ((length - size) // stride + 1 for length in x.shape[1:3])
  total = 0
  for row in range(size):
    for column in range(size):
      part = x[
        :,
        row : row + stride * (rows - 1) + 1 : stride,
        column : column + stride * (columns - 1) + 1 : stride,
      ]
      total += part * kernel[row, column].reshape(1, 1, 1, -1)
  return total


def grouped(x, kernel, *, stride, pads, groups):
  """One dense convolution per group."""
  parts = zip(
    jnp.split(x, groups, axis=-1),
    jnp.split(kernel, groups, axis=-1),
    strict=True,
  )
  return jnp.concatenate(
    [direct(*part, stride=stride, pads=pads) for part in parts], axis=-1
  )
