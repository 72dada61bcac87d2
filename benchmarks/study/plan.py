"""What the study trains, in the order in which it is trained.

Every fold is one `Run`. A variant names the one it starts from (`parent`) and
what it changes; all share `BASE`. `runs()` lists every fold in order, so that
a study which ends early ends with its most useful results.
"""

import dataclasses
import datetime
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import ml_collections

from configs import efficientnet_unet

# EfficientNet-Lite0 from ImageNet, 500 steps of 8 films of 224 x 224, 14 CPU
# minutes; everything else is configs/efficientnet_unet.py:lite0.
BASE = {
  'image_size': 224,
  'batch_size': 8,
  'total_steps': 500,
  'pretrained': 'efficientnet-lite0',
}
# Stands for the encoder that `pretrain.py` writes.
FINDINGS = 'findings'
# Pixels along the side of the records; larger networks have their own.
RECORD_SIZE = 256
FOLDS = 5
# What `other_films.py` puts beside the study's films.
OTHER_FILMS = ('nih', 'nih_negatives', 'test')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
  """One recipe.

  Attributes:
    name: of its folder of results.
    why: the expectation that it tests.
    parent: the variant that it changes, '' for BASE.
    changes: config fields by name.
    folds: that are held out, one run each.
    seeds: one run each.
    all_folds: whether the first seed is trained on every fold.
    score_best: whether the checkpoint that validation prefers is scored, too.
    average_of: seeds of the parent whose networks are averaged; nothing of its
      own is trained.
    other_films: what else is in the records, one of `OTHER_FILMS`.
    teacher: the average whose masks are trained on, too, see `pseudo_masks.py`.
  """

  name: str
  why: str
  parent: str = ''
  changes: dict[str, Any] = dataclasses.field(default_factory=dict)
  folds: tuple[int, ...] = (0,)
  seeds: tuple[int, ...] = (0,)
  all_folds: bool = False
  score_best: bool = False
  average_of: tuple[int, ...] = ()
  other_films: str = ''
  teacher: str = ''


# In the order of expected gain: what keeps a short run from learning at all
# first, then data and length, then details.
VARIANTS = (
  Variant(
    name='default',
    why='The reference: how far seeds alone move every metric.',
    folds=(0, 1),
    seeds=(0, 1, 2),
    all_folds=True,
  ),
  Variant(
    name='three_networks',
    why=(
      'Networks of different seeds differ in what they find: their mean should '
      'be better than each.'
    ),
    parent='default',
    folds=(0, 1),
    average_of=(0, 1, 2),
  ),
  Variant(
    name='mild',
    why=(
      'Defaults made for long runs hold short ones back: the mask head starts '
      'at a prior of 0.003, where Dice has next to no gradient, and blocks '
      'are left out at random. Dice over the batch weighs films by size and '
      'leaves small masks to the cross-entropy. 140 positive films for 20 '
      'epochs are far from overfitted.'
    ),
    parent='default',
    changes={
      'model.drop_path': 0.0,
      'model.pixel_prevalence': 0.3,
      'losses.presence': 0.1,
      'losses.dice': 0.0,
      'losses.batch_dice': 1.0,
      'augmentation.distortion_probability': 0.0,
      'augmentation.noise_probability': 0.0,
    },
    folds=(0, 1),
    seeds=(0, 1),
  ),
  Variant(
    name='plain',
    why=(
      'What torch_baseline.py trains with: whether the recipe or the code '
      'makes a difference.'
    ),
    parent='mild',
    changes={
      'losses.bce': 1.0,
      'losses.presence': 0.0,
      'model.pixel_prevalence': 0.5,
      'augmentation.intensity_probability': 0.0,
      'optimizer.clip_norm': 0.0,
      'optimizer.warmup_epochs': 0.0,
    },
  ),
  Variant(
    name='findings',
    why=(
      'An encoder that has learned 13 findings on NIH films of other patients '
      'starts closer than one from ImageNet.'
    ),
    parent='mild',
    changes={'pretrained': FINDINGS},
  ),
  Variant(
    name='more_negatives',
    why=(
      'Half of the negatives are films of NIH without the label pneumothorax: '
      'more variety, fewer false alarms; or the network learns which source a '
      'film is from.'
    ),
    parent='default',
    changes={'source_weights': 'siim=1,nih=1'},
    other_films='nih_negatives',
  ),
  Variant(
    name='mean_teacher',
    why='Films without annotation say what does not matter to a mask.',
    parent='mild',
    # Beside the same 8 annotated films of each step.
    changes={'batch_size': 16, 'mean_teacher.unlabeled_share': 0.5},
    other_films='nih',
  ),
  Variant(
    name='mean_teacher_test',
    why=(
      "NIH's films without annotation show hardly any pneumothorax, those of "
      'the second test set do.'
    ),
    parent='mean_teacher',
    other_films='test',
  ),
  Variant(
    name='self_training',
    why=(
      'What the mean of three networks is sure of on the films of the second '
      'test set makes more films.'
    ),
    parent='default',
    # As many films of the study as 500 steps have. With the others an epoch is
    # three times as long, so what is counted in epochs shrinks.
    changes={
      'total_steps': 1000,
      'source_weights': 'siim=1,test=1',
      'positive_share': ((0, 0.8), (26, 0.4)),
      'optimizer.warmup_epochs': 0.6,
    },
    folds=(0, 1),
    teacher='three_networks',
  ),
  Variant(
    name='default_1000',
    why='Whether it is the films or the steps that help in `self_training`.',
    parent='default',
    changes={'total_steps': 1000},
    folds=(0, 1),
  ),
  Variant(
    name='steps_1000',
    why='Twice the steps; also says which checkpoint validation would take.',
    parent='mild',
    # Validates five times in its 35 epochs.
    changes={'total_steps': 1000, 'eval_epochs': 7.0},
    score_best=True,
  ),
  Variant(
    name='steps_350',
    why='Fewer steps, if 500 already overfit.',
    parent='mild',
    changes={'total_steps': 350},
  ),
  Variant(
    name='strong',
    why='More variety and decay, against overfitting.',
    parent='default',
    changes={
      'augmentation.affine_probability': 0.9,
      'augmentation.scale': 0.25,
      'augmentation.rotate': 20.0,
      'augmentation.intensity_probability': 0.6,
      'augmentation.intensity_strength': 0.3,
      'optimizer.weight_decay': 0.02,
    },
  ),
  Variant(
    name='stride2',
    why='A decoder that ends at stride 2 is faster; is it worse?',
    parent='mild',
    changes={'model.output_stride': 2},
    folds=(0, 1),
    seeds=(0, 1),
  ),
  Variant(
    name='size_384',
    why=(
      'A pleural line is one or two pixels wide at 1024 x 1024 and gone at '
      '224 x 224; a fold still trains in 25 minutes on two cores.'
    ),
    parent='stride2',
    changes={'image_size': 384},
  ),
  # The learning curve; `mild` is its end.
  Variant(
    name='half_films',
    why='Whether more films would help, or something else is missing.',
    parent='mild',
    # An epoch is half as long: what is counted in epochs is doubled.
    changes={
      'patient_share': 0.5,
      'positive_share': ((0, 0.8), (80, 0.4)),
      'optimizer.warmup_epochs': 2.0,
    },
  ),
  Variant(
    name='quarter_films',
    why='The same, from a quarter of the patients.',
    parent='mild',
    changes={
      'patient_share': 0.25,
      'positive_share': ((0, 0.8), (160, 0.4)),
      'optimizer.warmup_epochs': 4.0,
    },
  ),
)


@dataclasses.dataclass(frozen=True)
class Run:
  """One fold of one variant with one seed."""

  variant: Variant
  seed: int
  fold: int

  def __str__(self) -> str:
    return f'{self.variant.name}/seed{self.seed}_fold{self.fold}'


def variant(name: str) -> Variant:
  """Returns the variant of that name.

  Raises:
    KeyError: there is none.
  """
  return {each.name: each for each in VARIANTS}[name]


def fields(chosen: Variant) -> dict[str, Any]:
  """Returns every config field that a variant sets, its parents' included."""
  inherited = fields(variant(chosen.parent)) if chosen.parent else BASE
  return {**inherited, **chosen.changes}


def findings_path(output_dir: str | os.PathLike) -> pathlib.Path:
  """Where the encoder lies that learned NIH's findings."""
  return pathlib.Path(output_dir, 'findings.safetensors')


def trained_fold(held_out: int) -> int:
  """A fold that is trained on, for films that no fold has."""
  return (held_out + 1) % FOLDS


def records(run: Run, data_dir: str, *, output_dir: str) -> str:
  """Where the records lie that a run is trained on.

  Those with masks that networks have drawn lie beside the networks.
  """
  if run.variant.teacher:
    return f'{output_dir}/{run.variant.teacher}/masks_fold{run.fold}'
  kind = run.variant.other_films
  if kind:
    part = str(run.fold) if kind == 'nih_negatives' else ''
    return f'{data_dir}_{kind}{part}'
  size = fields(run.variant)['image_size']
  return f'{data_dir}_{size}' if size > RECORD_SIZE else data_dir


def config(
  run: Run, data_dir: str, *, output_dir: str
) -> ml_collections.ConfigDict:
  """Returns the whole config of a run."""
  made = efficientnet_unet.get_config('lite0')
  chosen = fields(run.variant)
  if chosen['pretrained'] == FINDINGS:
    chosen['pretrained'] = str(findings_path(output_dir))
  made.update_from_flattened_dict(
    {
      'data_dir': records(run, data_dir, output_dir=output_dir),
      'seed': run.seed,
      'fold': run.fold,
      'eval.batch_size': 8,
      # The last validation is at the end, whatever this says.
      'eval_epochs': 1000.0,
      'checkpoint_steps': 250,
      'read_threads': 2,
      **chosen,
    }
  )
  return made


def runs() -> list[Run]:
  """Returns every run of the study in order."""
  return [
    Run(each, seed, fold)
    for each in VARIANTS
    for seed in each.seeds
    for fold in (
      range(FOLDS) if each.all_folds and seed == each.seeds[0] else each.folds
    )
  ]


def members(run: Run) -> list[Run]:
  """Returns the runs whose networks are averaged for a run, if any."""
  average = variant(run.variant.teacher) if run.variant.teacher else run.variant
  if not average.average_of:
    return []
  parent = variant(average.parent)
  return [Run(parent, seed, run.fold) for seed in average.average_of]


def waiting(runs: Sequence[Run], results: pathlib.Path) -> list[Run]:
  """Returns the runs whose table is not there yet, in order."""
  return [run for run in runs if not (results / f'{run}.csv').exists()]


def progress(total: int, left: Sequence[Run], minutes: float) -> str:
  """Returns the line before a run.

  Args:
    total: of the runs asked for.
    left: those that are not done, the next one first.
    minutes: that a run takes.
  """
  time = datetime.timedelta(minutes=round(minutes * len(left)))
  return (
    f'study: {total - len(left)} of {total} runs done; next {left[0]}; '
    f'about {time} left'
  )


def parse(text: str) -> Run:
  """Returns the run that prints as `text`.

  Raises:
    ValueError: it is not one.
  """
  for run in (
    Run(each, seed, fold)
    for each in VARIANTS
    for seed in range(max(each.seeds) + 10)
    for fold in range(FOLDS)
  ):
    if str(run) == text:
      return run
  raise ValueError(f'no run {text!r}; for example default/seed0_fold0')
