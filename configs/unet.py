"""Plain U-Net (Ronneberger et al. 2015, arXiv:1505.04597).

python launch.py --config=configs/unet.py
"""

from configs import default

VARIANTS = {'': {'model.encoder': 'unet'}}


def get_config(variant=''):
  return default.variant(default.get_config(), variant, VARIANTS)
