"""The command; see the package."""

from collections.abc import Sequence

from absl import app, flags

from data_prep.phantom import devices, generate
from pnx_jax import pool
from pnx_jax.cli import one_line, parse_flags


def main(argv: Sequence[str]) -> None:
  del argv
  values = flags.FLAGS
  request = generate.PhantomSet(
    *(values[name].value for name in generate.PhantomSet._fields)
  )
  with one_line():
    generate.write(request, values.output_dir, values.num_workers)
  print(
    f'{values.output_dir}: {request.num_images} labeled and '
    f'{request.num_test_images} unlabeled synthetic radiographs'
  )


def _define_flags() -> None:
  flags.DEFINE_string('output_dir', None, 'Folder to write.')
  flags.DEFINE_integer('num_images', 600, 'Training images.', lower_bound=1)
  flags.DEFINE_integer('num_test_images', 12, 'Test images.', lower_bound=0)
  flags.DEFINE_float('prevalence', 0.22, 'Share of images with a pneumothorax.')
  flags.DEFINE_integer(
    'seed', 0, 'The same seed gives the same bytes.', lower_bound=0
  )
  flags.DEFINE_integer('image_size', 1024, 'Side of an image in pixels.')
  flags.DEFINE_float(
    'drain_with_air',
    devices.DRAIN_WITH_AIR,
    'Share of images with a pneumothorax that show a chest drain.',
  )
  flags.DEFINE_float(
    'drain_without_air',
    devices.DRAIN_WITHOUT_AIR,
    'Share of images without a pneumothorax that show a chest drain.',
  )
  flags.DEFINE_integer(
    'num_workers', pool.num_cores(), 'Worker processes.', lower_bound=1
  )
  flags.mark_flag_as_required('output_dir')


if __name__ == '__main__':
  _define_flags()
  app.run(main, flags_parser=parse_flags)
