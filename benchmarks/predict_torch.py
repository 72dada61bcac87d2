"""PyTorch's side of predict.py: the loop that users write, in its own process.

Reads DICOM files, resizes, runs a U-Net over a ResNet-34 with horizontal flip,
brings the mask back and writes a csv in the competition's format.
"""

import argparse
import csv
import pathlib

import cv2
import numpy as np
import pydicom
import segmentation_models_pytorch as smp
import torch


def rle(mask: np.ndarray) -> str:
  """The competition's relative run-length encoding."""
  flat = np.concatenate([[0], mask.T.ravel(), [0]])
  edges = np.flatnonzero(flat[1:] != flat[:-1])
  return ' '.join(map(str, np.diff(edges, prepend=0))) if edges.size else '-1'


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--input', required=True, help='folder of films')
  parser.add_argument('--output', required=True, help='the csv')
  parser.add_argument('--size', type=int, required=True, help='of the square')
  parser.add_argument('--num_threads', type=int, required=True)
  flags = parser.parse_args()
  torch.set_num_threads(flags.num_threads)
  torch.manual_seed(0)
  net = smp.Unet('resnet34', encoder_weights=None, in_channels=1)
  net = net.to(memory_format=torch.channels_last).eval()
  with open(flags.output, 'w', newline='') as file, torch.inference_mode():
    rows = csv.writer(file)
    rows.writerow(['ImageId', 'EncodedPixels'])
    for path in sorted(pathlib.Path(flags.input).rglob('*.dcm')):
      film = pydicom.dcmread(path).pixel_array
      square = cv2.resize(film, (flags.size, flags.size))
      image = torch.from_numpy(square / np.float32(255))[None, None]
      image = image.contiguous(memory_format=torch.channels_last)
      probs = torch.sigmoid(net(image))
      probs = (probs + torch.sigmoid(net(image.flip(3))).flip(3)) / 2
      probs = probs[0, 0].numpy()
      rows.writerow([path.stem, rle(cv2.resize(probs, film.shape[::-1]) > 0.5)])


if __name__ == '__main__':
  main()
