"""What finds real pneumothorax: trains and scores the plan, run by run.

    PNX_REAL_DATA=... make study

or `python -m benchmarks.study --real_data=DIR`. The folds whose tables lie in
benchmarks/study/results are done; the others are trained in the order of
`plan.py`, one at a time. Stop it at any point: the same command resumes. The
report is printed at the end, and alone with `--report`.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence

from absl import app, flags

from benchmarks.study import plan, report
from pnx_jax.training import run_files

_MINUTES = 30.0  # Of a run, before one has been timed.
_COMMITTED = pathlib.Path(__file__).parent / 'results'


@dataclasses.dataclass(frozen=True)
class Study:
  """Where everything lies; a step of it is a process that leaves no memory.

  Attributes:
    real_data: the folder of siim_study and the other sets, '' for none.
    data_dir: for the records.
    output: for the runs.
    results: for the tables of films.
  """

  real_data: str
  data_dir: str
  output: pathlib.Path
  results: pathlib.Path

  def train(self, run: plan.Run) -> None:
    """Trains and scores one run, and what it is made from."""
    members = plan.members(run)
    for member in members:
      if not self.is_trained(member):
        # A table that is there stays: the weights alone are made again.
        there = (self.results / f'{member}.csv').exists()
        again = dataclasses.replace(self, results=self.output / 'again')
        (again if there else self).train(member)
    averaged = (
      f'--runs={",".join(map(str, members))}',
      f'--output_dir={self.output}',
      f'--data_dir={self.data_dir}',
    )
    if run.variant.average_of:
      _run(
        'benchmarks.study.averaged',
        *averaged,
        f'--name={run.variant.name}',
        f'--results_dir={self.results}',
      )
      return
    if plan.fields(run.variant)['pretrained'] == plan.FINDINGS:
      self._pretrain(plan.findings_path(self.output))
    records = plan.records(run, self.data_dir, output_dir=str(self.output))
    if run.variant.teacher:
      self._build_pseudo_masks(records, averaged)
    elif run.variant.other_films:
      self._build_other_films(records, run.variant.other_films, fold=run.fold)
    else:
      size = plan.fields(run.variant)['image_size']
      self.build(records, max(size, plan.RECORD_SIZE))
    _run(
      'benchmarks.study.fold',
      f'--run={run}',
      f'--data_dir={self.data_dir}',
      f'--output_dir={self.output}',
      f'--results_dir={self.results}',
    )

  def is_trained(self, run: plan.Run) -> bool:
    """Whether the weights of its last step are there."""
    workdir = self.output / run.variant.name / f'seed{run.seed}'
    folder = run_files.checkpoint_dir(workdir, run.fold)
    return (folder / str(plan.fields(run.variant)['total_steps'])).exists()

  def build(self, records: str, size: int = plan.RECORD_SIZE) -> None:
    """The study's records with images of `size` pixels."""
    if _is_built(records):
      return
    films = self._set('siim_study')
    _run(
      'data_prep.build',
      f'--dicom_dir={films}/dicom-images',
      f'--rle_csv={films}/train-rle.csv',
      f'--patient_map={films}/nih_id.csv',
      f'--output_dir={records}',
      f'--image_size={size}',
    )

  def _build_other_films(
    self, records: str, films: str, *, fold: int = 0
  ) -> None:
    """The study's records with others, see `other_films.py`."""
    if _is_built(records):
      return
    self._set('siim_stage2_320' if films == 'test' else 'nih_labelled')
    _run(
      'benchmarks.study.other_films',
      f'--real_data={self.real_data}',
      f'--films={films}',
      f'--fold={fold}',
      f'--data_dir={self.data_dir}',
      f'--output={records}',
    )

  def _build_pseudo_masks(self, records: str, averaged: Sequence[str]) -> None:
    """The study's records with others that an average has annotated."""
    if _is_built(records):
      return
    unannotated = f'{self.data_dir}_test'
    self._build_other_films(unannotated, 'test')
    _run(
      'benchmarks.study.pseudo_masks',
      *averaged,
      f'--real_data={self.real_data}',
      f'--test_dir={unannotated}',
      f'--output={records}',
    )

  def _pretrain(self, path: pathlib.Path) -> None:
    """The encoder that `findings` starts from."""
    if path.exists():
      return
    self._set('nih_labelled')
    _run(
      'benchmarks.study.pretrain',
      f'--real_data={self.real_data}',
      f'--output={path}',
    )

  def _set(self, name: str) -> pathlib.Path:
    """The folder of one set of films."""
    if not self.real_data:
      raise app.UsageError(f'--real_data is missing: what holds {name}')
    return pathlib.Path(self.real_data, name)


def _is_built(records: str) -> bool:
  return pathlib.Path(records, 'build.json').exists()


def _run(module: str, *arguments: str) -> None:
  found = subprocess.run([sys.executable, '-m', module, *arguments])
  if found.returncode:
    sys.exit(found.returncode)


def _minutes(results: pathlib.Path) -> float:
  """The mean of the timed runs."""
  timed = [
    minutes
    for path in results.glob('*/*.json')
    if (minutes := json.loads(path.read_text()).get('minutes'))
  ]
  return sum(timed) / len(timed) if timed else _MINUTES


def main(_) -> None:
  values = flags.FLAGS
  output, results = pathlib.Path(values.output_dir), _COMMITTED
  if values.fresh:
    output = output / 'fresh'
    results = output / 'results'
    results.mkdir(parents=True, exist_ok=True)
  if not values.report:
    study = Study(values.real_data, values.data_dir, output, results)
    study.build(values.data_dir)
    runs = [plan.parse(text) for text in values.only] or plan.runs()
    while waiting := plan.waiting(runs, results):
      print(plan.progress(len(runs), waiting, _minutes(results)), flush=True)
      study.train(waiting[0])
  print(report.text(results, real_data=values.real_data))


if __name__ == '__main__':
  flags.DEFINE_string(
    'real_data', '', 'Folder that holds siim_study; needed to build records.'
  )
  flags.DEFINE_string('data_dir', 'data/study', 'The records.')
  flags.DEFINE_string('output_dir', 'runs/study', 'For runs.')
  flags.DEFINE_bool(
    'fresh', False, 'Train all again; the tables go to --output_dir.'
  )
  flags.DEFINE_bool('report', False, 'Train nothing.')
  flags.DEFINE_list(
    'only', [], 'These runs, as default/seed0_fold0, in this order.'
  )
  app.run(main)
