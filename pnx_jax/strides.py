"""The strides at which a network may end, and those of its coarser masks."""

from pnx_jax.errors import UserError

_OUTPUT_STRIDES = (1, 2, 4)
_DEEP_STRIDES = (2, 4, 8)


def deep_strides(depth: int, output_stride: int) -> list[int]:
  """The strides of deep supervision: coarser than the mask, not the deepest."""
  return [
    stride for stride in _DEEP_STRIDES if output_stride < stride < 1 << depth
  ]


def check_strides(
  output_stride: int, depth: int, *, deep_supervision: bool
) -> None:
  """Raises UserError for strides that do not go together."""
  if output_stride not in _OUTPUT_STRIDES:
    raise UserError(f'output_stride is 1, 2 or 4, not {output_stride}')
  if output_stride >= 1 << depth:
    raise UserError(
      f'output_stride={output_stride} leaves the decoder nothing to do: a '
      f'depth of {depth} ends at stride {1 << depth}; raise depth, or lower '
      'output_stride'
    )
  if deep_supervision and not deep_strides(depth, output_stride):
    raise UserError(
      f'deep_supervision has no stride left between output_stride='
      f'{output_stride} and the deepest, {1 << depth}: raise depth, or lower '
      'output_stride'
    )
