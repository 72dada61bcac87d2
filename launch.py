"""Trains, evaluates, reads new films.

python launch.py --config=configs/resunet.py
python launch.py --mode=eval --workdir=runs/resunet
python launch.py --mode=predict --workdir=runs/resunet \\
    --input=STUDIES --output_dir=OUT
"""

import logging
import os
import pathlib
import re
import sys
import traceback

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from pnx_jax.cli import one_line, parse_flags
from pnx_jax.errors import UserError

_DEFAULTS = pathlib.Path(__file__).with_name('configs') / 'default.py'

# JAX is imported in functions: processes that decode films import this file.

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
  'train: one fold (--config.fold). folds: all, one after another. '
  'eval: scores what was trained and writes the submission. '
  'predict: reads new films. With --workdir these two need no --config.',
)
_INPUT = flags.DEFINE_multi_string(
  'input', [], 'File or folder of films to predict; may be given repeatedly.'
)
_OUTPUT_DIR = flags.DEFINE_string(
  'output_dir', None, 'Folder for the worklist of --mode=predict.'
)
_MODEL = flags.DEFINE_string(
  'model', None, 'Folder of an export, for --mode=predict without --workdir.'
)
_DICOM_SEG = flags.DEFINE_bool(
  'dicom_seg', False, 'Write masks of --mode=predict as DICOM SEG, too.'
)
_ACCEPT_MODALITY = flags.DEFINE_list(
  'accept_modality',
  ['CR', 'DX'],
  'Modalities that --mode=predict assesses; empty for all.',
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator_address', None, 'host:port of process 0, for several hosts.'
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'How many processes train together.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'The number of this process, from 0.'
)


def main(_) -> None:
  if _MODE.value == 'predict':
    _predict()
    return
  config = _CONFIG.value
  workdir = _WORKDIR.value or _default_workdir()
  if config.get('deterministic'):
    os.environ['XLA_FLAGS'] = (
      os.environ.get('XLA_FLAGS', '') + ' --xla_gpu_deterministic_ops=true'
    )
  _join_cluster()
  _log_to_terminal()
  _cache_compilations()
  # Imported here, so that a mistyped flag is reported at once.
  if _MODE.value == 'eval':
    from pnx_jax.evaluation.evaluate import evaluate
    from pnx_jax.training.run_files import load_with_overrides

    overrides = config_flags.get_override_values(flags.FLAGS['config'])
    if not config.eval.predictions:
      config = load_with_overrides(workdir, overrides, defaults=config)
    evaluate(config, workdir)
    return
  from pnx_jax.input import pipeline
  from pnx_jax.training.train import train

  if _MODE.value == 'train':
    train(config, workdir)
    return
  for fold in range(len(pipeline.folds(config.data_dir))):
    with config.unlocked():
      config.fold = fold
    if train(config, workdir) is None:  # A signal ended it.
      return


def _predict() -> None:
  _log_to_terminal()
  _cache_compilations()
  from pnx_jax.inference.predict import predict

  predict(
    _INPUT.value,
    _OUTPUT_DIR.value,
    model=_WORKDIR.value or _MODEL.value,
    accept_modality=_ACCEPT_MODALITY.value,
    with_dicom_seg=_DICOM_SEG.value,
  )


def _default_workdir() -> str:
  """runs/resunet for configs/resunet.py, runs/resunet_b4 for ...py:b4."""
  path, _, variant = flags.FLAGS['config'].config_filename.partition(':')
  name = pathlib.Path(path).stem
  return os.path.join('runs', f'{name}_{variant}' if variant else name)


def _join_cluster() -> None:
  """Joins the other processes where flags or the cluster say there are some."""
  import jax  # Notes in the environment whether there are TPUs.

  told = (
    _COORDINATOR.value or os.environ.get('JAX_COORDINATOR_ADDRESS'),
    _NUM_PROCESSES.value,
    _PROCESS_ID.value,
  )
  tasks = int(os.environ.get('SLURM_NTASKS', 1))
  if None in told and tasks > 1 and 'SLURM_STEP_NODELIST' not in os.environ:
    raise UserError(
      f'SLURM gives {tasks} tasks but srun did not start this one: put srun '
      'before the command'
    )
  if None in told and tasks == 1 and not _on_tpu_pod():
    if told != (None, None, None):
      raise UserError(
        'several processes need all of --coordinator_address=HOST:PORT, '
        '--num_processes and --process_id'
      )
    return
  try:
    jax.distributed.initialize(
      *told, heartbeat_timeout_seconds=30, shutdown_timeout_seconds=60
    )
  except Exception as error:  # Each cluster fails in its own way.
    raise UserError(
      f'cannot join the other processes: {" ".join(str(error).split())}'
    ) from error


def _on_tpu_pod() -> bool:
  """Whether this host is one of several that hold the TPUs."""
  names = ('TPU_PROCESS_ADDRESSES', 'TPU_WORKER_HOSTNAMES')
  hosts = next((os.environ[name] for name in names if name in os.environ), None)
  if hosts is not None:
    slices = int(os.environ.get('MEGASCALE_NUM_SLICES') or 1)
    return ',' in hosts or slices > 1
  # Over ssh no variable tells; JAX asks the metadata server.
  return (
    'TPU_ML_PLATFORM' in os.environ and 'TPU_SKIP_MDS_QUERY' not in os.environ
  )


def _log_to_terminal() -> None:
  """The project's own lines, and the warnings of others."""
  import jax

  absl_logging.set_verbosity(absl_logging.WARNING)
  handler = logging.StreamHandler(sys.stdout)
  handler.setFormatter(logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S'))
  logger = logging.getLogger('pnx_jax')
  logger.addHandler(handler)
  logger.propagate = False
  logger.setLevel(logging.INFO if jax.process_index() == 0 else logging.WARNING)


def _cache_compilations() -> None:
  """Compiled programs outlive the process: a second start takes seconds."""
  import jax

  if not jax.config.jax_compilation_cache_dir:
    cache = pathlib.Path.home() / '.cache' / 'pnx_jax'
    jax.config.update('jax_compilation_cache_dir', str(cache))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


def parse(argv: list[str]) -> list[str]:
  """Parses the flags; a mistake in them ends in one line."""
  rest = parse_flags(argv, recipe=str(_DEFAULTS))
  given = flags.FLAGS['config'].config_filename != str(_DEFAULTS)
  with one_line():
    if _MODE.value == 'predict':
      _check_predict_flags()
    elif not given and not (_MODE.value == 'eval' and _WORKDIR.value):
      raise UserError(
        '--config is missing, for example configs/resunet.py; '
        '--mode=eval needs no more than --workdir'
      )
  return rest


def _check_predict_flags() -> None:
  changed = config_flags.get_override_values(flags.FLAGS['config'])
  if changed:
    raise UserError(
      f'--config.{min(changed)} is nothing for --mode=predict: a model answers '
      'as it was evaluated'
    )
  if bool(_WORKDIR.value) == bool(_MODEL.value):
    raise UserError(
      'give one of --workdir, an evaluated run, and --model, an export of one'
    )
  if not _INPUT.value:
    raise UserError('--input is missing: a file or folder of films')
  if not _OUTPUT_DIR.value:
    raise UserError('--output_dir is missing: a folder for the worklist')


def run(argv: list[str]) -> None:
  try:
    with one_line():
      try:
        main(argv)
      except FloatingPointError as error:
        raise UserError(str(error)) from None
  except BaseException as error:
    if _alone():
      raise
    # An orderly end would wait for the other processes, which wait for this.
    if re.search('closed by peer|reset by peer', str(error)):
      print(
        f'error: another process has ended, see there why ({error})',
        file=sys.stderr,
      )
    elif not isinstance(error, SystemExit):
      traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)


def _alone() -> bool:
  import jax

  return not jax.distributed.is_initialized()


if __name__ == '__main__':
  app.run(run, flags_parser=parse)
