"""U-Net++: nested skips (Zhou et al. 2018, arXiv:1807.10165).

python launch.py --config=configs/unetpp.py                   # plain encoder
python launch.py --config=configs/unetpp.py:resnet34

variant          parameters  GFLOPs  memory    with remat
(none)                9.2 M     276  1.23 GiB  0.18 GiB
resnet34             25.8 M     106  0.46 GiB  0.08 GiB
se_resnext50         37.7 M     163  0.92 GiB  0.12 GiB
efficientnet_b4      20.5 M      74  1.16 GiB  0.09 GiB

GFLOPs of one 512x512 image forward (a multiply-add counts two); memory of the
activations kept for its gradient in bfloat16. `python -m benchmarks.models`
counts both from the traced program. Deep supervision as in the paper:
--config.model.deep_supervision=True --config.losses.deep=0.5
"""

from configs import default

_NESTED = {'model.decoder': 'unetpp'}
VARIANTS = {
  '': {**_NESTED, 'model.encoder': 'unet'},
  **{
    name: {
      **_NESTED,
      'model.encoder': name,
      'model.width': 16,
      'model.depth': 5,
    }
    for name in ('resnet34', 'se_resnext50', 'efficientnet_b4')
  },
}


def get_config(variant=''):
  return default.variant(default.get_config(), variant, VARIANTS)
