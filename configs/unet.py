"""Plain U-Net (Ronneberger et al. 2015, arXiv:1505.04597).

python launch.py --config=configs/unet.py          # 32 channels at stride 1
python launch.py --config=configs/unet.py:wide     # 64, as in the paper

variant  parameters  GFLOPs  memory    with remat
(none)       7.9 M     111  0.51 GiB  0.11 GiB
wide        31.4 M     445  1.03 GiB  0.23 GiB

GFLOPs of one 512x512 image forward (a multiply-add counts two); memory of the
activations kept for its gradient in bfloat16. `python -m benchmarks.models`
counts both from the traced program.
"""

from configs import default

_UNET = {'model.encoder': 'unet'}
VARIANTS = {'': _UNET, 'wide': {**_UNET, 'model.width': 64}}


def get_config(variant=''):
  return default.variant(default.get_config(), variant, VARIANTS)
