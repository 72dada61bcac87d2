"""Segmentation networks; `create_model` makes one."""

from pnx_jax.models.segmenter import (
  DECODERS,
  ENCODERS,
  Segmenter,
  create_model,
)

__all__ = [
  'DECODERS',
  'ENCODERS',
  'Segmenter',
  'create_model',
]
