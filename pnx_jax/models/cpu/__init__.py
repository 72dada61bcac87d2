"""What only XLA's CPU backend needs; nothing here runs on a GPU or TPU.

`convolution.py` and `batch_norm.py` choose these forms by the platform.

`python -m benchmarks.layers --tables=forms` measures them, RESULTS.md beside it
has the results. With gradients XLA's own forms take 20 to 60 times as long for
depthwise convolution and 7 times for max pooling, and their sums over places
add one value at a time.
"""

from pnx_jax.models.cpu.convolution import (
  convolve_3x3,
  convolve_narrow,
  convolve_upsampled,
  depthwise,
  pointwise,
)
from pnx_jax.models.cpu.pooling import max_pool, max_pool_overlapping
from pnx_jax.models.cpu.reductions import channel_sum, place_sum, scale

__all__ = [
  'channel_sum',
  'convolve_3x3',
  'convolve_narrow',
  'convolve_upsampled',
  'depthwise',
  'max_pool',
  'max_pool_overlapping',
  'place_sum',
  'pointwise',
  'scale',
]
