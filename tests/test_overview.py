import jax
import jax.numpy as jnp
import pytest

from pnx_jax.models import segmenter
from pnx_jax.training import overview


def array(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def rows(table):
  """{part: parameters}, and the total."""
  *lines, total = table.splitlines()
  cells = [line.split('|')[1:-1] for line in lines if line[0] == '|'][1:]
  sizes = {part.strip(): int(size.replace(',', '')) for part, size in cells}
  return sizes, int(total.removeprefix('Total: ').replace(',', ''))


def test_pieces_of_a_stage_are_one_row():
  params = {
    'encoder': {
      'conv_stem': {'kernel': array(3, 3, 1, 8)},
      'blocks_0': {'bn0': {'bias': array(8)}, 'conv': {'kernel': array(1, 8)}},
      'blocks_11': {'bn0': {'bias': array(2000)}},
    },
    'decoder': {'stride2_node1': {'kernel': array(5)}},
    'mask': {'bias': array(1)},
    'mask_stride2': {'bias': array(1), 'kernel': array(7)},
  }
  sizes = {
    'encoder/conv_stem': 72,
    'encoder/blocks': 2016,
    'decoder/stride2': 5,
    'mask': 9,
  }
  assert rows(overview.table(params)) == (sizes, 2102)


@pytest.mark.parametrize('encoder', ['resunet', 'efficientnet_b4'])
def test_a_large_network_is_a_short_table(encoder):
  model = segmenter.create_model(encoder=encoder, decoder='unetpp')
  image = jnp.zeros((1, 32, 32, 1))
  params = jax.eval_shape(
    lambda: model.init(jax.random.key(0), image, train=False)
  )['params']
  sizes, total = rows(overview.table(params))
  assert len(sizes) < 20 < len(jax.tree.leaves(params))
  assert (
    total
    == sum(sizes.values())
    == sum(leaf.size for leaf in jax.tree.leaves(params))
  )
