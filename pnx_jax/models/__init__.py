"""Segmentation networks; `create_model` makes one."""

from pnx_jax.config import OUTPUT_STRIDES
from pnx_jax.models.segmenter import (
  DECODERS,
  ENCODERS,
  Segmenter,
  create_model,
)

__all__ = [
  'DECODERS',
  'ENCODERS',
  'OUTPUT_STRIDES',
  'Segmenter',
  'create_model',
]
