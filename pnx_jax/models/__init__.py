"""Segmentation networks; `create_model` makes one."""

from pnx_jax.models.segmenter import (
  DECODERS,
  ENCODERS,
  Segmenter,
  create_model,
)
from pnx_jax.strides import OUTPUT_STRIDES

__all__ = [
  'DECODERS',
  'ENCODERS',
  'OUTPUT_STRIDES',
  'Segmenter',
  'create_model',
]
