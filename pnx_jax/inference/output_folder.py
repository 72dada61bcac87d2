"""Whether an output folder is this program's: from the first run on.

What lies in a place that we need and is not ours is refused by name; other
files are left alone.
"""

import os
import pathlib
import stat

from pnx_jax.errors import UserError
from pnx_jax.formats import files
from pnx_jax.inference import journal

MARK = '.pnx_jax_predictions'
_MARK_TEXT = 'Files of `launch.py --mode=predict` (pnx_jax).\n'
_FILES = (
  'worklist.csv',
  'worklist.html',
  'not_assessed.csv',
  'masks/masks.csv',
)
_FOLDERS = ('masks', 'pictures', 'dicom_seg')


def claim(folder: str | os.PathLike[str]) -> None:
  """Makes a folder, or checks that it is ours, and marks it.

  A folder without a mark is ours where it has readings and every line of its
  journals is one.

  Raises:
    UserError: it cannot be written, or holds something else in a place that we
      need.
  """
  folder = pathlib.Path(folder)
  if folder.exists() and not folder.is_dir():
    raise UserError(f'--output_dir={folder} is a file; name a folder')
  with files.explained(folder / MARK):
    folder.mkdir(parents=True, exist_ok=True)
  of_shards = [path.name for path in journal.of_shards(folder)]
  for name in (*_FOLDERS, MARK, journal.NAME, *of_shards, *_FILES):
    _check_kind(folder / name, is_folder=name in _FOLDERS)
  if (folder / MARK).exists():
    _check_mark(folder / MARK)
    return
  journals = [
    name for name in (journal.NAME, *of_shards) if (folder / name).exists()
  ]
  foreign = [name for name in journals if not journal.is_ours(folder / name)]
  if not any((folder / name).stat().st_size for name in journals):
    foreign += [name for name in _FILES if (folder / name).exists()]
  # Another shard may have marked the folder meanwhile.
  if foreign and not (folder / MARK).exists():
    raise _foreign(folder / foreign[0])
  with files.atomic(folder / MARK, contended=True) as file:
    file.write(_MARK_TEXT.encode())


def written(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
  """What of ours is in a folder, sorted."""
  names = (*_FOLDERS, journal.NAME, *_FILES[:3])
  paths = (pathlib.Path(folder, name) for name in names)
  return sorted(path for path in paths if path.exists())


def _check_kind(path: pathlib.Path, *, is_folder: bool) -> None:
  """Refuses links, and folders in the place of files or the reverse."""
  try:
    mode = path.lstat().st_mode
  except FileNotFoundError:
    return
  if not (stat.S_ISDIR(mode) if is_folder else stat.S_ISREG(mode)):
    raise _foreign(path)


def _check_mark(path: pathlib.Path) -> None:
  if path.read_bytes() != _MARK_TEXT.encode():
    raise _foreign(path)


def _foreign(path: pathlib.Path) -> UserError:
  return UserError(
    f'{path} was not written by --mode=predict, which needs that place: move '
    'it, or choose another --output_dir'
  )
