"""What the study trains, in which order, from what."""

import numpy as np
import pytest
import small_run
from study_tables import made_up

from benchmarks.study import __main__ as study
from benchmarks.study import (
  films,
  fold,
  plan,
  score,
)
from pnx_jax.config import check_config
from pnx_jax.evaluation.dataset_predictor import DatasetPredictor
from pnx_jax.input import pipeline
from pnx_jax.prediction.ensemble import Ensemble
from pnx_jax.prediction.network import Network
from pnx_jax.training import sharding


def test_every_variant_makes_a_config_that_can_train():
  names = [variant.name for variant in plan.VARIANTS]
  assert len(set(names)) == len(names)
  for place, variant in enumerate(plan.VARIANTS):
    assert variant.parent in ('', *names[:place])
    run = plan.Run(variant, 0, 1)
    config = plan.config(run, 'data', output_dir='out')
    check_config(config)
    assert plan.parse(str(run)) == run
  with pytest.raises(ValueError, match='nobody/seed0_fold0'):
    plan.parse('nobody/seed0_fold0')


def test_an_average_names_the_runs_that_it_is_made_of():
  run = plan.parse('three_networks/seed0_fold1')
  assert [str(member) for member in plan.members(run)] == [
    'default/seed0_fold1',
    'default/seed1_fold1',
    'default/seed2_fold1',
  ]
  assert not plan.members(plan.parse('default/seed0_fold1'))


def test_progress_names_the_next_run_and_the_time_left():
  line = plan.progress(9, plan.runs()[2:4], 30.0)
  assert line == (
    'study: 7 of 9 runs done; next default/seed0_fold2; about 1:00:00 left'
  )


def test_the_last_weights_of_a_fold_are_scored(trained_run, dataset_dir):
  config = small_run.config(dataset_dir)
  mesh = sharding.mesh()
  network = fold.last_network(config, trained_run, mesh)
  found = fold.score([network], config, mesh)
  dataset = pipeline.Dataset(dataset_dir, ['fold0'])
  assert found.image_id.tolist() == [each.image_id for each in dataset.records]
  assert found.label.tolist() == (dataset.labels == 1).tolist()
  # Validated once, at its end: the best weights are the last.
  wanted = DatasetPredictor(
    Ensemble(
      networks=[
        Network.load(
          trained_run, 0, image_probability='presence_head', mesh=mesh
        )
      ],
      mesh=mesh,
    ),
    pipeline.Loader(batch_size=8),
  ).statistics(dataset)
  np.testing.assert_allclose(
    found.probability, wanted['probability'], rtol=1e-4
  )
  np.testing.assert_array_equal(found.truth_area, wanted['truth_area'])


def test_runs_whose_table_is_there_are_not_trained_again(tmp_path):
  runs = plan.runs()[:3]
  assert plan.waiting(runs, tmp_path) == runs
  films.write(tmp_path / f'{runs[1]}.csv', made_up(count=20))
  assert plan.waiting(runs, tmp_path) == [runs[0], runs[2]]


def test_another_programs_networks_are_averaged():
  networks = [
    [(np.full((2, 2), level), level / 2), (np.zeros((2, 2)), level)]
    for level in (0.2, 0.6)
  ]
  (first, probability), (second, other) = score.averaged(networks)
  np.testing.assert_allclose(first, 0.4)
  assert (second.max(), probability, other) == pytest.approx((0, 0.2, 0.4))


@pytest.fixture
def commands(monkeypatch):
  """The commands that the study would run."""
  run = []
  monkeypatch.setattr(study, '_run', lambda *command: run.append(command))
  return run


def test_an_average_trains_the_networks_that_are_missing(tmp_path, commands):
  there = tmp_path / 'default/seed1/fold0/checkpoints/500'
  there.mkdir(parents=True)
  results = tmp_path / 'results'
  films.write(results / 'default/seed0_fold0.csv', made_up(count=20))
  run = plan.parse('three_networks/seed0_fold0')
  study.Study('/films', 'records', tmp_path, results).train(run)
  trained = [
    (command[1], command[-1])
    for command in commands
    if command[0] == 'benchmarks.study.fold'
  ]
  assert trained == [
    # The table that is there stays.
    ('--run=default/seed0_fold0', f'--results_dir={tmp_path}/again'),
    ('--run=default/seed2_fold0', f'--results_dir={results}'),
  ]
  assert commands[-1][:2] == (
    'benchmarks.study.averaged',
    '--runs=default/seed0_fold0,default/seed1_fold0,default/seed2_fold0',
  )


def test_masks_of_networks_are_drawn_again_for_other_networks(
  tmp_path, commands
):
  run = plan.parse('self_training/seed0_fold1')
  for output in (tmp_path, tmp_path / 'fresh'):
    for seed in (0, 1, 2):
      (output / f'default/seed{seed}/fold1/checkpoints/500').mkdir(parents=True)
    study.Study('/films', 'records', output, tmp_path).train(run)
  outputs = [
    next(each for each in command if each.startswith('--output='))
    for command in commands
    if command[0] == 'benchmarks.study.pseudo_masks'
  ]
  assert outputs == [
    f'--output={tmp_path}/three_networks/masks_fold1',
    f'--output={tmp_path}/fresh/three_networks/masks_fold1',
  ]
