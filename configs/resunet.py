"""ResUNet: pre-activation residual units (Zhang et al. 2018, arXiv:1711.10684).

python launch.py --config=configs/resunet.py
"""

from configs import default

VARIANTS = {'': {'model.encoder': 'resunet'}}


def get_config(variant=''):
  return default.variant(default.get_config(), variant, VARIANTS)
