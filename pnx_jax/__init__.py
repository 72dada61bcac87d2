"""Pneumothorax detection and segmentation in chest radiographs, in JAX.

model = pnx_jax.load('runs/resunet')  # or an export
predictor.predict('film.dcm')
"""


def load(path):
  """The `inference.model.Model` of an evaluated run, or of an export.

  Raises:
    pnx_jax.errors.UserError: the folder holds neither.
  """
  # Imported here: most of pnx_jax needs no networks.
  import pathlib

  from pnx_jax.prediction import exported, predictor

  if pathlib.Path(path, exported.SETTINGS).exists():
    return exported.load(path)
  return predictor.load(path)
