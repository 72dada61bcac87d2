"""A table of the network's number of parameters."""

import collections
import dataclasses
import re
from typing import Any

from clu import parameter_overview


@dataclasses.dataclass
class _Row:
  part: str
  parameters: int


def table(params: Any) -> str:
  """Returns the sizes of the encoder's and decoder's stages and of the heads.

  Args:
    params: Nested dict of arrays, or of their shapes.
  """
  sizes = collections.Counter()
  for name, array in parameter_overview.flatten_dict(params).items():
    *modules, _ = name.split('/')
    # level0_conv1, layer1_0, blocks_12, stride2_node1 are parts of one stage.
    part = re.sub(r'_[a-z]*\d+$', '', '/'.join(modules[:2]))
    sizes[part] += array.size
  rows = [_Row(*item) for item in sizes.items()]
  return f'{parameter_overview.make_table(rows)}\nTotal: {sizes.total():,}'
