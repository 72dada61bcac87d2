r"""U-Net with an EfficientNet encoder (Tan and Le 2019, arXiv:1905.11946).

python launch.py --config=configs/efficientnet_unet.py        # B0
python launch.py --config=configs/efficientnet_unet.py:b4
python launch.py --config=configs/efficientnet_unet.py:lite0 \
    --config.pretrained=efficientnet-lite0

variant  parameters  GFLOPs  memory    with remat
b0           5.8 M      24  0.76 GiB  0.06 GiB
b1           8.3 M      26  0.97 GiB  0.06 GiB
b2           9.5 M      27  1.01 GiB  0.06 GiB
b3          12.6 M      30  1.26 GiB  0.08 GiB
b4          19.4 M      37  1.59 GiB  0.09 GiB
b5          30.2 M      46  2.10 GiB  0.09 GiB
b6          42.5 M      57  2.62 GiB  0.11 GiB
b7          65.5 M      77  3.44 GiB  0.13 GiB
lite0        5.2 M      24  0.65 GiB  0.05 GiB
lite1        6.0 M      25  0.78 GiB  0.06 GiB
lite2        6.7 M      26  0.80 GiB  0.06 GiB
lite3        8.9 M      29  0.98 GiB  0.06 GiB
lite4       13.8 M      35  1.21 GiB  0.06 GiB
(none)       5.8 M      24  0.76 GiB  0.06 GiB

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
