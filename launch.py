"""Trains, evaluates, predicts.

python launch.py --config=configs/resunet.py
python launch.py --mode=eval --workdir=runs/resunet
python launch.py --mode=predict --workdir=runs/resunet \\
    --input=STUDIES --output_dir=OUT
"""

import logging

from absl import app, flags
from ml_collections import config_flags

from pnx_jax import cli
from pnx_jax.config import DEFAULT_RECIPE
from pnx_jax.errors import UserError
from pnx_jax.inference import predict_flags

# What needs JAX is imported where it is used: a mistyped flag is reported at
# once, and the processes that decode radiographs import this file, too.

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'The recipe, for example configs/resunet.py.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the run; default runs/<config>[_<variant>].'
)
_MODE = flags.DEFINE_enum(
  'mode',
  'train',
  ['train', 'folds', 'eval', 'predict'],
  'train: trains one fold (--config.fold). folds: trains all, one after '
  'another, or in a SLURM job array one per task. eval: evaluates the run and '
  'writes the submission. predict: reads new radiographs. With --workdir, eval '
  'and predict need no --config.',
)
_ACCEPT_EDITED = flags.DEFINE_bool(
  'accept_edited',
  False,
  'Continue although files of the run or of its evaluation were edited after '
  'they were sealed; every output names the files.',
)
predict_flags.define()
flags.adopt_module_key_flags(predict_flags)
_COORDINATOR = flags.DEFINE_string(
  'coordinator_address', None, 'host:port of process 0, for several hosts.'
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'How many processes train together.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'The number of this process, from 0.'
)


# Flags that take gs:// and s3://, too.
_BUCKETS = (
  *('workdir', 'input', 'output_dir', 'model'),
  *('config.data_dir', 'config.init_from', 'config.pretrained'),
)


def main(_: list[str]) -> int:
  """Runs the chosen mode and returns the exit code."""
  from pnx_jax.training import cluster, compilation, preemption

  with cluster.ending_together(), cli.one_line():
    if _MODE.value != 'predict':
      if _CONFIG.value.deterministic:
        compilation.use_deterministic_operations()
      cluster.join(
        coordinator_address=_COORDINATOR.value,
        num_processes=_NUM_PROCESSES.value,
        process_id=_PROCESS_ID.value,
      )
    cli.log_to_terminal()  # First: JAX would tell which devices it lacks.
    if not cluster.is_first():
      logging.getLogger('pnx_jax').setLevel(logging.WARNING)
    compilation.keep_programs()
    {'eval': _evaluate, 'predict': _predict}.get(_MODE.value, _train)()
  if not preemption.stopped():
    return 0
  preemption.ignore_signals()
  return cli.STOPPED


def _train() -> None:
  from pnx_jax.training.train import train, train_folds

  function = train_folds if _MODE.value == 'folds' else train
  function(_CONFIG.value, _workdir(), accept_edited=_ACCEPT_EDITED.value)


def _evaluate() -> None:
  from pnx_jax.evaluation.evaluate import evaluate
  from pnx_jax.training import run_copy
  from pnx_jax.training.run_files import load_with_overrides

  config = _CONFIG.value
  with run_copy.of_evaluation(_workdir(), config) as copy:
    if not config.eval.predictions:  # Those have no run with a config.
      overrides = config_flags.get_override_values(flags.FLAGS['config'])
      config = load_with_overrides(copy.path, overrides)
      run_copy.configure(config)
    evaluate(config, copy.path, accept_edited=_ACCEPT_EDITED.value)


def _predict() -> None:
  from pnx_jax.inference.predict import predict

  with predict_flags.local_arguments() as arguments:
    predict(**arguments)


def _workdir() -> str:
  recipe = flags.FLAGS['config'].config_filename
  return _WORKDIR.value or cli.default_workdir(recipe)


def parse(argv: list[str]) -> list[str]:
  """Parses the flags; a mistake in them ends the program with one line."""
  program = cli.parse_flags(argv, recipe=DEFAULT_RECIPE, buckets=_BUCKETS)
  with cli.one_line():
    if _MODE.value == 'predict':
      predict_flags.check()
    elif flags.FLAGS['config'].config_filename == DEFAULT_RECIPE and not (
      _MODE.value == 'eval' and _WORKDIR.value
    ):
      raise UserError(
        '--config is missing, for example configs/resunet.py; '
        '--mode=eval needs only --workdir'
      )
  return program


if __name__ == '__main__':
  app.run(main, flags_parser=parse)
