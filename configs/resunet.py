r"""U-Nets with residual encoders.

Plain: ResUNet, pre-activation residual units (Zhang et al. 2018,
arXiv:1711.10684). By name: ResNet (He 2016, arXiv:1512.03385) and SE-ResNeXt
(Xie 2017, arXiv:1611.05431; Hu 2018, arXiv:1709.01507), the encoders of the
competition's first five places; they take published ImageNet weights.

python launch.py --config=configs/resunet.py
python launch.py --config=configs/resunet.py:resnet34 \
    --config.pretrained=resnet34.safetensors

variant       parameters  GFLOPs  memory    with remat
(none)             8.0 M     118  0.60 GiB  0.17 GiB
resnet34          24.4 M      62  0.27 GiB  0.07 GiB
resnet50          32.5 M      84  0.50 GiB  0.11 GiB
se_resnext50      34.5 M      86  0.67 GiB  0.11 GiB

GFLOPs of one 512x512 image forward (a multiply-add counts two); memory of the
activations kept for its gradient in bfloat16. `python -m benchmarks.models`
counts both from the traced program.
"""

from configs import default

VARIANTS = {
  '': {'model.encoder': 'resunet'},
  **{
    name: {'model.encoder': name, 'model.width': 16, 'model.depth': 5}
    for name in ('resnet34', 'resnet50', 'se_resnext50')
  },
}


def get_config(variant=''):
  return default.variant(default.get_config(), variant, VARIANTS)
