"""Films whose ids a spreadsheet takes for formulas, and folders with odd names.

They go all the way from the build to the worklist.
"""

import os
import pathlib
import shutil

import pytest
import small_run

from data_prep import dataset
from data_prep.request import Request
from pnx_jax.errors import UserError
from pnx_jax.evaluation.evaluate import evaluate
from pnx_jax.formats import built_dataset, evaluation_files, files, rle
from pnx_jax.inference.predict import predict
from pnx_jax.training.checkpoint import Checkpoints
from pnx_jax.training.train import train

ODD = ('-1', '=x', '+2', '@a', "'=q", "'", '0', 'nan', '=1+1,2')
NOT_UTF_8 = os.fsdecode(b'named \xff')


@pytest.fixture(scope='module')
def films(phantom_films, tmp_path_factory) -> pathlib.Path:
  """Eighteen films, half of them with odd names, and their masks."""
  folder = tmp_path_factory.mktemp('odd_names')
  (folder / 'films').mkdir()
  masks = rle.read_csv(phantom_films / 'train-rle.csv')
  found = sorted(phantom_films.rglob('*.dcm'))
  positive = [path for path in found if masks.get(path.stem)][:9]
  negative = [path for path in found if masks.get(path.stem) == []][:9]
  names = [*ODD, *(f'plain{n}' for n in range(9))]
  rows = []
  for name, path in zip(names, [*positive, *negative], strict=True):
    shutil.copy(path, folder / 'films' / f'{name}.dcm')
    rows.append((name, (masks[path.stem] or [rle.EMPTY])[0]))
  rle.write_csv(folder / 'rle.csv', rows)
  return folder


@pytest.mark.slow
def test_every_table_gives_back_the_ids(films, tmp_path):
  ids = {path.stem for path in (films / 'films').iterdir()}
  assert ids > set(ODD)
  data = tmp_path / 'records'
  summary = dataset.build(
    Request(
      dicom_dir=str(films / 'films'),
      rle_csv=str(films / 'rle.csv'),
      output_dir=str(data),
      image_size=32,
      num_folds=2,
    )
  )
  assert summary['written'] == 18
  folds = built_dataset.folds_of(data)
  assert folds.keys() == ids
  run = tmp_path / 'run'
  train(small_run.config(str(data), total_steps=1, log_steps=1), run)
  changes = {'eval.bootstrap': 5, 'eval.num_overlays': 0}
  evaluate(small_run.config(str(data), **changes), run)
  held_out = {name for name, fold in folds.items() if fold == 0}
  assert held_out & set(ODD)
  folder = run / 'eval'
  table = evaluation_files.read_per_image(folder / 'per_image.csv')
  assert set(table.image_id.tolist()) == held_out
  assert rle.read_csv(folder / 'masks.csv').keys() == held_out
  output = tmp_path / NOT_UTF_8
  readings = predict([str(films / 'films')], output, model=run)
  assert {reading.image_id for reading in readings} == ids
  rows = files.read_csv(output / 'worklist.csv', ('image_id',), remedy='')
  assert {row['image_id'] for row in rows} == ids
  assert rle.read_csv(output / 'masks' / 'masks.csv').keys() == ids


def test_a_folder_that_libraries_cannot_name_is_one_line(films, tmp_path):
  folder = tmp_path / NOT_UTF_8
  with pytest.raises(UserError, match=r'named .udcff.* is not UTF-8'):
    dataset.build(
      Request(
        dicom_dir=str(films / 'films'),
        rle_csv=str(films / 'rle.csv'),
        output_dir=str(folder / 'records'),
      )
    )
  with pytest.raises(UserError, match=r'named .udcff.* is not UTF-8'):
    Checkpoints(folder / 'checkpoints')
  assert not folder.exists()
