"""What only XLA's CPU backend needs; nothing here runs on a GPU or TPU.

`convolution.py` and `batch_norm.py` choose these forms by the platform.

benchmarks/RESULTS.md has the measurements. On a CPU, XLA's own forms take 13 to
50 times as long for depthwise convolution and 8 times for the gradient of max
pooling, and their sums over places add one value at a time. On a TPU they need
2 to 6 times fewer cycles than the forms here.
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
