"""Pneumothorax detection and segmentation in chest radiographs, in JAX.

predictor = pnx_jax.load('runs/resunet')  # or an export
prediction = predictor.predict('film.dcm')
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from pnx_jax.models import create_model
  from pnx_jax.prediction.predictor import Prediction, Predictor, load

__version__ = '0.1.0'
__all__ = [
  'Prediction',
  'Predictor',
  '__version__',
  'create_model',
  'load',
]

# Imported when they are first used: most of pnx_jax needs no networks.
_MODULES = {
  'Prediction': 'pnx_jax.prediction.predictor',
  'Predictor': 'pnx_jax.prediction.predictor',
  'create_model': 'pnx_jax.models',
  'load': 'pnx_jax.prediction.predictor',
}


def __getattr__(name: str) -> object:
  if name not in _MODULES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
  return __all__
