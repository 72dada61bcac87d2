r"""U-Net with an EfficientNet encoder (Tan and Le 2019, arXiv:1905.11946).

python launch.py --config=configs/efficientnet_unet.py        # B0
python launch.py --config=configs/efficientnet_unet.py:b4
python launch.py --config=configs/efficientnet_unet.py:lite0 \
    --config.pretrained=efficientnet-lite0

variant  parameters  GFLOPs  memory    with remat
b0           5.8 M      24  0.48 GiB  0.05 GiB
b1           8.3 M      26  0.61 GiB  0.05 GiB
b2           9.5 M      27  0.63 GiB  0.05 GiB
b3          12.6 M      30  0.79 GiB  0.06 GiB
b4          19.4 M      37  1.00 GiB  0.07 GiB
b5          30.2 M      46  1.33 GiB  0.08 GiB
b6          42.5 M      57  1.66 GiB  0.09 GiB
b7          65.5 M      77  2.18 GiB  0.10 GiB
lite0        5.2 M      24  0.36 GiB  0.04 GiB
lite1        6.0 M      25  0.43 GiB  0.04 GiB
lite2        6.7 M      26  0.45 GiB  0.04 GiB
lite3        8.9 M      29  0.54 GiB  0.05 GiB
lite4       13.8 M      35  0.67 GiB  0.05 GiB
(none)       5.8 M      24  0.48 GiB  0.05 GiB

GFLOPs of one 512x512 image forward (a multiply-add counts two); memory of the
activations kept for its gradient in bfloat16. `python -m benchmarks.models`
counts both from the traced program.
"""

from configs import default

_NAMES = (
  *(f'b{number}' for number in range(8)),
  *(f'lite{number}' for number in range(5)),
)
VARIANTS = {
  name: {
    'model.encoder': f'efficientnet_{name}',
    'model.width': 16,
    'model.depth': 5,
    'model.drop_path': 0.2,
  }
  for name in _NAMES
}
VARIANTS[''] = VARIANTS['b0']


def get_config(variant=''):
  return default.variant(default.get_config(), variant, VARIANTS)
