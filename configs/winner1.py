"""The 1st place's recipe (private Dice 0.8679 with 4 networks x 5 folds).

    python launch.py --config=configs/winner1.py:512 \\
        --config.pretrained=resnet34.pth
    python launch.py --config=configs/winner1.py:1024 \\
        --config.init_from=runs/winner1_512

A U-Net with a ResNet-34 encoder (size and cost: configs/resunet.py); BCE, Dice
and focal loss as 3 : 1 : 4; the share of positives falls from 0.8 to 0.4;
mirror images, affine, elastic, grid and optical distortion, brightness,
contrast and gamma; the mean of the 3 best checkpoints; first at 512, then from
there at 1024.

What differs: AdamW with one cosine instead of Adam with restarts and plateaus;
the 3 checkpoints' weights are averaged instead of their predictions (set
--config.eval.checkpoints=3 for those); the presence head is trained together
with the mask; folds keep patients apart, so scores are lower than on that
team's own folds. The team also used ResNet-50 and SE-ResNeXt-50:
--config.model.encoder=resnet50.
"""

from configs import default, resunet

VARIANTS = {
  '512': {
    'image_size': 512,
    'batch_size': 8,
    'total_epochs': 80.0,
    'positive_share': ((0, 0.8), (60, 0.4)),
    'optimizer.learning_rate': 5e-4,
  },
  '1024': {
    'image_size': 1024,
    'batch_size': 4,
    'total_epochs': 30.0,
    'positive_share': ((0, 0.6), (20, 0.4)),
    'optimizer.learning_rate': 1e-4,
  },
}


def get_config(variant='512'):
  config = default.get_config()
  config.update_from_flattened_dict(resunet.VARIANTS['resnet34'])
  config.losses.bce = 3.0
  config.losses.dice = 1.0
  config.losses.focal = 4.0
  config.average_checkpoints = 3
  return default.variant(config, variant, VARIANTS)
