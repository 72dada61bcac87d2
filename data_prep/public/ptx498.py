"""PTX-498 (Wang et al., 2022): films of three sites with mask PNGs.

Films are `SiteA/<number>.1.img.png`, their masks `SiteA/<number>.2.mask.png`;
the column `site` can be kept by `data_prep.build --keep_columns=site`.
"""

import glob
import os

from data_prep.public import layout
from pnx_jax.errors import UserError

_FILM, _MASK = '.1.img.png', '.2.mask.png'


def read(root: str, options: layout.Options) -> layout.Found:
  """Returns the rows of a manifest: a film with its mask each."""
  del options
  found = layout.Found()
  films = sorted(
    glob.glob(
      os.path.join(glob.escape(root), '**', f'*{_FILM}'), recursive=True
    )
  )
  if not films:
    raise UserError(f'--root={root} has no film named SiteA/<number>{_FILM}')
  missing = 0
  for path in films:
    mask = path.removesuffix(_FILM) + _MASK
    if not os.path.isfile(mask):
      missing += 1
      continue
    site = os.path.basename(os.path.dirname(path))
    number = os.path.basename(path).removesuffix(_FILM)
    found.rows.append(
      {
        'path': path,
        'image_id': f'ptx498-{site}-{number}',
        'source': 'ptx498',
        'mask': mask,
        'site': site,
      }
    )
  found.note(missing, 'films without a mask were left out')
  return found
