"""A small ResUNet that learns synthetic radiographs on a CPU in minutes.

make demo
"""

from configs import default


def get_config():
  config = default.get_config()
  config.data_dir = 'data/demo'
  config.image_size = 128
  config.batch_size = 8
  config.total_epochs = 10.0
  config.positive_share = ((0, 0.6),)
  config.model.encoder = 'resunet'
  config.model.width = 16
  config.model.depth = 4
  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup_epochs = 0.25
  config.optimizer.ema_decay = 0.98
  config.eval_epochs = 2.0
  config.log_steps = 20
  config.losses.presence = 0.5
  config.augmentation.distortion_probability = 0.0
  return config
