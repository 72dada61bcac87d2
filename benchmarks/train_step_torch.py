"""PyTorch's side of train_step.py: a worker in its own process.

Reads a number of steps per line from standard input and answers with the
seconds that they took, of the clock and of the processor, and the most bytes of
a GPU that were in use (0 without one); the first answer is that of the first
step.
"""

import argparse
import sys
import time

import segmentation_models_pytorch as smp
import torch

ENCODERS = {
  'resnet34': 'resnet34',
  'resnet50': 'resnet50',
  'se_resnext50': 'tu-seresnext50_32x4d',
  'efficientnet_b0': 'efficientnet-b0',
  'efficientnet_b4': 'efficientnet-b4',
  'efficientnet_lite0': 'timm-tf_efficientnet_lite0',
  # For rehearsals.
  '_tiny_resnet': 'resnet18',
  '_tiny_efficientnet': 'resnet18',
}
DECODERS = {'unet': smp.Unet, 'unetpp': smp.UnetPlusPlus}


def created(encoder, decoder, *, output_stride):
  """A network of smp; with output stride 2 or 4 with a sub-pixel head."""
  network = DECODERS[decoder](
    ENCODERS[encoder], encoder_weights=None, in_channels=1
  )
  if output_stride > 1:
    if decoder != 'unet':
      raise SystemExit('an output stride is for the unet decoder')
    dropped = output_stride.bit_length() - 1
    network.decoder.blocks = network.decoder.blocks[:-dropped]
    network.segmentation_head = torch.nn.Sequential(
      torch.nn.Conv2d(16 * output_stride, output_stride**2, 3, padding=1),
      torch.nn.PixelShuffle(output_stride),
    )
  return network


def trainer(network, *, size, batch, dtype):
  """A function that takes one step, and one that waits for the device."""
  cuda = torch.cuda.is_available()
  low = dtype == 'bfloat16' or (cuda and not dtype)
  device = torch.device('cuda' if cuda else 'cpu')
  torch.backends.cudnn.benchmark = True
  torch.set_float32_matmul_precision('high')
  net = network.to(device, memory_format=torch.channels_last).train()
  optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)
  image = torch.rand(batch, 1, size, size, device=device).contiguous(
    memory_format=torch.channels_last
  )
  label = (torch.rand(batch, 1, size, size, device=device) > 0.9).float()
  forward = torch.compile(net) if cuda else net
  cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits

  def step():
    with torch.autocast(device.type, torch.bfloat16, enabled=low):
      logits = forward(image)
    loss = cross_entropy(logits.float(), label)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()

  return step, torch.cuda.synchronize if cuda else lambda: None


def predictor(network, *, size, batch, dtype):
  """The same for inference."""
  cuda = torch.cuda.is_available()
  low = dtype == 'bfloat16' or (cuda and not dtype)
  device = torch.device('cuda' if cuda else 'cpu')
  net = network.to(device, memory_format=torch.channels_last).eval()
  image = torch.rand(batch, 1, size, size, device=device).contiguous(
    memory_format=torch.channels_last
  )
  forward = torch.compile(net) if cuda else net

  @torch.no_grad()
  def step():
    with torch.autocast(device.type, torch.bfloat16, enabled=low):
      forward(image)

  return step, torch.cuda.synchronize if cuda else lambda: None


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--encoder', choices=ENCODERS, required=True)
  parser.add_argument('--decoder', choices=DECODERS, required=True)
  parser.add_argument('--size', type=int, required=True)
  parser.add_argument('--batch', type=int, required=True)
  parser.add_argument('--output_stride', type=int, default=1)
  parser.add_argument(
    '--dtype', default='', choices=['', 'float32', 'bfloat16']
  )
  parser.add_argument('--inference', action='store_true')
  flags = parser.parse_args()
  make = predictor if flags.inference else trainer
  network = created(
    flags.encoder, flags.decoder, output_stride=flags.output_stride
  )
  step, wait = make(
    network, size=flags.size, batch=flags.batch, dtype=flags.dtype
  )

  def timed(steps):
    start, processor = time.perf_counter(), time.process_time()
    for _ in range(steps):
      step()
    wait()
    clock = time.perf_counter() - start
    used = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    print(clock, time.process_time() - processor, used, flush=True)

  timed(1)
  for line in sys.stdin:
    timed(int(line))


if __name__ == '__main__':
  main()
