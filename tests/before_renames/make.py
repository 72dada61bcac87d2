r"""Makes the set in tests/before_renames with the code of commit 4713113.

git worktree add /tmp/before 4713113 && cd /tmp/before
python <this file> OUTPUT    # Python 3.12.1, jax 0.12, a CPU
tar --sort=name --mtime=2026-01-01 --owner=0 --group=0 \
    -cJf set.tar.xz -C OUTPUT .

It was the last commit before modules, config fields and flags were renamed.
"""

import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, '.')

FIELDS = {
  'image_size': 32,
  'batch_size': 4,
  'total_steps': 80,
  'log_steps': 20,
  'checkpoint_steps': 20,
  'average_checkpoints': 1,
  'eval_epochs': 10,
  'model.width': 4,
  'model.depth': 2,
  'model.normalisation': 'batch',
  'model.pixel_prevalence': 0.1,
  'optimizer.encoder_factor': 0.5,
  'optimizer.learning_rate': 3e-3,
  'optimizer.ema_decay': 0.9,
  'read_threads': 2,
  'eval.bootstrap': 20,
  'eval.num_overlays': 0,
  'eval.batch_size': 4,
}


def main(output):
  out = pathlib.Path(output)

  def run(*words):
    subprocess.run([sys.executable, *words], check=True)

  run(
    '-m',
    'data_prep.phantom',
    f'--output_dir={out}/films',
    '--num_images=24',
    '--num_test_images=3',
    '--prevalence=0.5',
    '--image_size=128',
    '--seed=3',
  )
  run(
    '-m',
    'data_prep.build',
    f'--dicom_dir={out}/films/dicom-images-train',
    f'--rle_csv={out}/films/train-rle.csv',
    f'--test_dicom_dir={out}/films/dicom-images-test',
    f'--patient_map={out}/films/nih_id.csv',
    f'--output_dir={out}/records',
    '--image_size=32',
    '--num_folds=2',
  )
  _train(out / 'records', out / 'stopped', stop_after=50)
  _train(out / 'records', out / 'run', stop_after=None)
  workdir = f'--workdir={out}/run'
  run('launch.py', '--mode=eval', workdir, f'--config.data_dir={out}/records')
  _mark_films(out / 'run', out / 'records')
  run('-m', 'pnx_jax.inference.export', workdir, f'--output={out}/export')
  run(
    'launch.py',
    '--mode=predict',
    workdir,
    f'--input={out}/films/dicom-images-test',
    f'--output_dir={out}/predicted',
  )
  # The tests read the test films alone.
  shutil.rmtree(out / 'films' / 'dicom-images-train')
  for events in out.glob('*/fold0/events'):
    shutil.rmtree(events)
  for picture in (out / 'predicted').rglob('*.jpg'):
    picture.write_bytes(b'')
  (out / 'predicted' / 'worklist.html').unlink()
  for report in out.glob('*/eval/report.html'):
    report.unlink()
  # Nothing tells where it was made.
  for path in out.rglob('*'):
    if path.suffix in ('.csv', '.json', '.jsonl', '.md', '.txt'):
      text = path.read_text()
      path.write_text(text.replace(str(out.absolute()), '/old'))


def _train(data_dir, workdir, *, stop_after):
  import contextlib

  from configs import unet
  from pnx_jax.training import preemption
  from pnx_jax.training.train import train

  @contextlib.contextmanager
  def watch():
    yield lambda step: step == stop_after

  preemption.watch = watch
  config = unet.get_config()
  config.update_from_flattened_dict({'data_dir': str(data_dir), **FIELDS})
  train(config, str(workdir))


def _mark_films(workdir, data_dir):
  """Sets a rule that leaves masks: so short a training finds nothing."""
  import dataclasses

  import numpy as np
  from pnx_jax.evaluation.postprocess import Postprocess

  from pnx_jax.evaluation import ensemble, evaluate, submission
  from pnx_jax.input import pipeline
  from pnx_jax.metrics.rules import Rule
  from pnx_jax.training import sharding

  networks = ensemble.Ensemble(
    ensemble.members([str(workdir)], folds=[0]),
    mesh=sharding.mesh(),
    reading=pipeline.Reading(batch_size=4),
  )
  films = pipeline.Dataset(str(data_dir), ['test'], labelled_only=False)
  probs = [each for each, _ in networks.probabilities(films)]
  level = round(float(np.quantile(probs, 0.95)), 4)
  path = workdir / 'eval' / 'postprocess.json'
  post = dataclasses.replace(
    Postprocess.load(path), rule=Rule(top=level, area=0, bottom=level)
  )
  post.save(path)
  submission.write(
    workdir / 'eval' / 'submission.csv',
    evaluate._submission(str(data_dir), networks, post),
  )


if __name__ == '__main__':
  main(sys.argv[1])
