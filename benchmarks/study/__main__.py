"""What finds real pneumothorax: trains and scores the plan, run by run.

    PNX_REAL_DATA=... make study

or `python -m benchmarks.study --real_data=DIR`. The folds whose tables lie in
benchmarks/study/results are done; the others are trained in the order of
`plan.py`, one at a time. Stop it at any point: the same command resumes. The
report is printed at the end, and alone with `--report`.
"""

import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence

from absl import app, flags

from benchmarks.study import plan, report
from pnx_jax.training import run_files

_REAL_DATA = flags.DEFINE_string(
  'real_data', None, 'Folder that holds siim_study; needed to build records.'
)
_DATA_DIR = flags.DEFINE_string('data_dir', 'data/study', 'The records.')
_OUTPUT_DIR = flags.DEFINE_string('output_dir', 'runs/study', 'For runs.')
_FRESH = flags.DEFINE_bool(
  'fresh', False, 'Train all again; the tables go to --output_dir.'
)
_REPORT = flags.DEFINE_bool('report', False, 'Train nothing.')
_ONLY = flags.DEFINE_list(
  'only', [], 'These runs, as default/seed0_fold0, in this order.'
)
_MINUTES = 30.0  # Of a run, before one has been timed.
COMMITTED = pathlib.Path(__file__).parent / 'results'


def main(_) -> None:
  output = pathlib.Path(_OUTPUT_DIR.value)
  results = COMMITTED
  if _FRESH.value:
    output = output / 'fresh'
    results = output / 'results'
  if not _REPORT.value:
    _build(_DATA_DIR.value)
    runs = [plan.parse(text) for text in _ONLY.value] or plan.runs()
    while waiting := plan.waiting(runs, results):
      print(plan.progress(len(runs), waiting, _minutes(results)), flush=True)
      _train(waiting[0], output, results)
  print(report.text(results, real_data=_REAL_DATA.value))


def _minutes(results: pathlib.Path) -> float:
  """The mean of the timed runs."""
  timed = [
    minutes
    for path in results.glob('*/*.json')
    if (minutes := json.loads(path.read_text())['minutes'])
  ]
  return sum(timed) / len(timed) if timed else _MINUTES


def _real_data(folder: str) -> str:
  if not _REAL_DATA.value:
    raise app.UsageError(f'--real_data is missing: what holds {folder}')
  return _REAL_DATA.value


def _build(data_dir: str, size: int = plan.RECORD_SIZE) -> None:
  if pathlib.Path(data_dir, 'build.json').exists():
    return
  study = pathlib.Path(_real_data('siim_study'), 'siim_study')
  _run(
    'data_prep.build',
    f'--dicom_dir={study}/dicom-images',
    f'--rle_csv={study}/train-rle.csv',
    f'--patient_map={study}/nih_id.csv',
    f'--output_dir={data_dir}',
    f'--image_size={size}',
  )


def _train(run: plan.Run, output: pathlib.Path, results: pathlib.Path) -> None:
  """In a process of its own, which leaves no memory behind."""
  members = plan.members(run)
  for member in members:
    if not _trained(member, output):
      # A table that is there stays: the weights alone are made again.
      there = (results / f'{member}.csv').exists()
      _train(member, output, output / 'again' if there else results)
  averaged = (
    f'--runs={",".join(map(str, members))}',
    f'--output_dir={output}',
    f'--data_dir={_DATA_DIR.value}',
  )
  if run.variant.average_of:
    _run(
      'benchmarks.study.averaged',
      *averaged,
      f'--name={run.variant.name}',
      f'--results_dir={results}',
    )
    return
  if plan.fields(run.variant)['pretrained'] == plan.FINDINGS:
    _pretrain(plan.findings_path(output))
  data_dir = plan.records(run, _DATA_DIR.value)
  if run.variant.teacher:
    _build_pseudo_masks(data_dir, averaged)
  elif run.variant.unlabeled:
    _build_unlabeled(data_dir, run.variant.unlabeled)
  else:
    size = plan.fields(run.variant)['image_size']
    _build(data_dir, max(size, plan.RECORD_SIZE))
  _run(
    'benchmarks.study.fold',
    f'--run={run}',
    f'--data_dir={_DATA_DIR.value}',
    f'--output_dir={output}',
    f'--results_dir={results}',
  )


def _trained(run: plan.Run, output: pathlib.Path) -> bool:
  """Whether the weights of its last step are there."""
  workdir = output / run.variant.name / f'seed{run.seed}'
  folder = run_files.checkpoint_dir(workdir, run.fold)
  return (folder / str(plan.fields(run.variant)['total_steps'])).exists()


def _build_unlabeled(data_dir: str, films: str) -> None:
  """The study's records with others that have no annotation."""
  if pathlib.Path(data_dir, 'build.json').exists():
    return
  folder = {'nih': 'nih_labelled', 'test': 'siim_stage2_320'}[films]
  _run(
    'benchmarks.study.unlabeled',
    f'--real_data={_real_data(folder)}',
    f'--films={films}',
    f'--data_dir={_DATA_DIR.value}',
    f'--output={data_dir}',
  )


def _build_pseudo_masks(data_dir: str, averaged: Sequence[str]) -> None:
  """The study's records with others that an average has annotated."""
  if pathlib.Path(data_dir, 'build.json').exists():
    return
  test_dir = f'{_DATA_DIR.value}_test'
  _build_unlabeled(test_dir, 'test')
  _run(
    'benchmarks.study.pseudo_masks',
    *averaged,
    f'--real_data={_real_data("siim_stage2_320")}',
    f'--test_dir={test_dir}',
    f'--output={data_dir}',
  )


def _pretrain(path: pathlib.Path) -> None:
  """The encoder that `findings` starts from."""
  if path.exists():
    return
  _run(
    'benchmarks.study.pretrain',
    f'--real_data={_real_data("nih_labelled")}',
    f'--output={path}',
  )


def _run(module: str, *arguments: str) -> None:
  found = subprocess.run([sys.executable, '-m', module, *arguments])
  if found.returncode:
    sys.exit(found.returncode)


if __name__ == '__main__':
  app.run(main)
