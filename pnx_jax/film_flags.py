"""The flags with which every command that reads films limits one film."""

from absl import flags

from pnx_jax import pool

_DEFAULT = pool.Limits()


def define_limits() -> None:
  """Defines --seconds_per_film and --gib_per_film."""
  flags.DEFINE_float(
    'seconds_per_film',
    _DEFAULT.seconds,
    'A film that takes longer to read is left out.',
    lower_bound=1,
  )
  flags.DEFINE_float(
    'gib_per_film',
    _DEFAULT.gib,
    'A film that needs more memory than this many GiB is left out.',
    lower_bound=0.25,
  )


def limits() -> pool.Limits:
  """Returns the limits that the flags ask for."""
  values = flags.FLAGS
  return pool.Limits(values.seconds_per_film, values.gib_per_film)
