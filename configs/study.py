"""Few real films on a CPU: the recipe that benchmarks/study starts from.

    python launch.py --config=configs/study.py --config.data_dir=data/study \\
        --mode=folds

EfficientNet-Lite0 (size and cost: configs/efficientnet_unet.py) from ImageNet,
20 epochs, some 500 batches of 8 films at 224 x 224: 14 CPU minutes a fold. On
fold 0, 128 films of 107 patients: Dice 0.730 [0.642, 0.815] where empty masks
have 0.719, AUC of the presence head 0.780 [0.678, 0.875]. No change of it has
been shown to help yet; docs/results.md lists what was tried. A value that is
chosen later stands here with where it was measured.
"""

from configs import default, efficientnet_unet


def get_config():
  config = default.get_config()
  config.update_from_flattened_dict(efficientnet_unet.VARIANTS['lite0'])
  config.data_dir = 'data/study'
  config.pretrained = 'efficientnet-lite0'
  config.image_size = 224
  config.batch_size = 8
  config.total_epochs = 20.0
  config.eval_epochs = 4.0
  config.eval.batch_size = 8
  return config
