"""What a build says about itself: build.json, rejected.csv, folds.csv."""

import collections
import dataclasses
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from data_prep import grouping, prepare
from data_prep.entries import TEST, TRAIN, Entry, Rejection
from pnx_jax.formats import (
  built_dataset,
  files,
  record_index,
  refusals,
  schema,
  seal,
)
from pnx_jax.storage import local

Report = dict[str, Any]
_MOST_LISTED = 20


def summarize(
  *,
  found: Sequence[Entry],
  outcomes: Sequence[prepare.Outcome],
  annotated: Collection[str],
  patients: grouping.Patients,
  splits: Mapping[str, Sequence[prepare.Prepared]],
  alike: Sequence[Sequence[str]],
  options: prepare.RecordOptions,
  seed: int,
  built: pathlib.Path,
  index: record_index.Index,
  retry: str,
  unused_columns: Sequence[str] = (),
  kept_test_copies: Collection[str] = (),
) -> Report:
  """Returns the content of `build.json`.

  Raises:
    AssertionError: The counts do not add up.
  """
  prepared = [o for o in outcomes if isinstance(o, prepare.Prepared)]
  rejected = [o for o in outcomes if isinstance(o, Rejection)]
  train = [o for o in prepared if o.part == TRAIN]
  labeled = [o for o in train if o.truth != schema.NONE]
  unlabeled = [o for o in train if o.truth == schema.NONE]
  given_up = sorted(
    o.image_id for o in rejected if o.reason in refusals.MAY_PASS
  )
  written = _written(index)
  parts = collections.Counter(entry.part for entry in found)
  refused = collections.Counter(o.part for o in rejected)
  ids = {entry.image_id for entry in found}
  in_folds, in_test = (
    {patients.number[o.image_id] for o in images}
    for images in (labeled, splits.get(schema.TEST_SPLIT, ()))
  )
  summary = {
    'found': parts[TRAIN],
    'written': written[TRAIN],
    'positive': sum(o.label == schema.POSITIVE for o in labeled),
    'synthetic': sum(o.synthetic for o in labeled),
    'unlabeled': len(unlabeled),
    'rejected': refused[TRAIN],
    'test_found': parts[TEST],
    'test_written': written[TEST],
    'test_rejected': refused[TEST],
    'rejected_by_reason': dict(
      sorted(collections.Counter(o.reason for o in rejected).items())
    ),
    'annotations_without_image': len(set(annotated) - ids),
    'patients': len(in_folds),
    'test_patients_in_folds': len(in_folds & in_test),
    'patients_from': patients.source,
    'patient_safe': patients.safe,
    'splits': {
      name: {
        'images': len(images),
        'positive': sum(o.label == schema.POSITIVE for o in images),
        'patients': len({patients.number[o.image_id] for o in images}),
      }
      for name, images in splits.items()
    },
    'truth': dict(
      sorted(collections.Counter(o.truth for o in labeled).items())
    ),
    'sources': dict(
      sorted(collections.Counter(o.source for o in labeled).items())
    ),
    'scaled_masks': sum(o.scaled_mask for o in labeled),
    'unused_columns': list(unused_columns),
    'kept_test_copies': len(kept_test_copies),
    'test_copies': sorted(kept_test_copies),
    'near_duplicates': [list(group) for group in alike],
    'lowest_agreement': _lowest_agreement(labeled),
    'unlabeled_images': sorted(o.image_id for o in unlabeled),
    'given_up': given_up,
    'retry': retry if given_up else '',
    'options': dataclasses.asdict(options),
    'seed': seed,
    'schema_version': schema.VERSION,
    'checksum': built_dataset.checksum(built),
  }
  _check_counts(summary)
  return summary


def write(
  built: pathlib.Path,
  summary: Report,
  outcomes: Sequence[prepare.Outcome],
  splits: Mapping[str, Sequence[prepare.Prepared]],
  index: record_index.Index,
) -> Report:
  """Writes the four files beside the records; returns the `build.json`."""
  files.write_csv(
    built / 'rejected.csv',
    ('path', 'image_id', 'reason', 'detail'),
    sorted(
      (local.origin(o.path), o.image_id, o.reason, o.detail)
      for o in outcomes
      if isinstance(o, Rejection)
    ),
  )
  files.write_csv(
    built / 'folds.csv',
    ('image_id', 'fold'),
    sorted(
      (image.image_id, name.removeprefix('fold'))
      for name, images in splits.items()
      if name not in (schema.TEST_SPLIT, schema.UNLABELED_SPLIT)
      for image in images
    ),
  )
  summary = seal.sealed(
    summary | {'folds_checksum': files.checksum(built / 'folds.csv')}
  )
  files.write_json(built / 'build.json', summary)
  record_index.write(index)
  return summary


def write_kept(
  built: pathlib.Path,
  columns: Sequence[str],
  found: Sequence[Entry],
  splits: Mapping[str, Sequence[prepare.Prepared]],
) -> None:
  """Writes the columns of a manifest that are kept, of every film written."""
  written = {image.image_id for images in splits.values() for image in images}
  files.write_csv(
    built / 'kept_columns.csv',
    ('image_id', *columns),
    sorted(
      {(e.image_id, *e.kept) for e in found if e.image_id in written},
    ),
  )


def text(summary: Report, output_dir: str) -> str:
  """Returns what the build prints at its end."""
  unlabeled = 'have no row in the csv and were left out'
  if schema.UNLABELED_SPLIT in summary['splits']:
    unlabeled = 'have no truth and are in the split unlabeled'
  lines = [
    f'{output_dir}: {summary["written"]} labeled radiographs '
    f'({summary["positive"]} with pneumothorax) of {summary["patients"]} '
    f'patients, {summary["test_written"]} for testing.',
    f'{summary["unlabeled"]} {unlabeled}, '
    f'{summary["rejected"] + summary["test_rejected"]} were rejected '
    f'(rejected.csv), {summary["annotations_without_image"]} annotated ids '
    'have no file.',
  ]
  reasons = summary['rejected_by_reason'].items()
  lines += [f'  {count:6} {reason}' for reason, count in reasons]
  if summary['scaled_masks']:
    lines.append(
      f'{summary["scaled_masks"]} films have a mask of another size, a whole '
      'multiple or fraction of theirs, which was scaled.'
    )
  if summary['unused_columns']:
    lines.append(
      f'Columns of the manifest that were not used: '
      f'{", ".join(summary["unused_columns"])}; --keep_columns keeps them.'
    )
  alike = summary['near_duplicates']
  if alike:
    lines.append(
      f'{sum(map(len, alike))} films are nearly the same as another, e.g. '
      f'{alike[0][0]} and {alike[0][1]} (all in build.json); they share a '
      'fold, or are left out as a test_copy'
    )
  if summary['kept_test_copies']:
    lines.append(
      f'WARNING: {summary["kept_test_copies"]} training films are copies of '
      'films in the split test, and --keep_test_copies keeps them: results on '
      'that split will be too good.'
    )
  if summary['test_patients_in_folds']:
    lines.append(
      f'WARNING: {summary["test_patients_in_folds"]} patients have films in '
      'the split test and in the folds: results on that split will be too good.'
    )
  if summary['lowest_agreement']:
    worst = summary['lowest_agreement'][0]
    lines.append(
      f'Annotations of one image that overlap least: {worst["image_id"]}, '
      f'Dice {worst["agreement"]:.3f} (0 where they lie apart; more in '
      'build.json)'
    )
  lines.append(f'Patients are identified by {summary["patients_from"]}.')
  if not summary['patient_safe']:
    lines.append(
      'WARNING: the folds do NOT keep patients apart. Films of one patient may '
      'be in training and in validation; scores will be too good. Name the '
      'patients with --patient_map, or in the column patient of a manifest.'
    )
  if summary['given_up']:
    lines.append(
      f'{len(summary["given_up"])} films were given up because memory or time '
      f'ran out (given_up in build.json). To try them again: {summary["retry"]}'
    )
  return '\n'.join(lines)


def _written(index: record_index.Index) -> collections.Counter[str]:
  """Returns how many different ids the files hold, for training and testing."""
  ids = {TRAIN: set(), TEST: set()}
  for name, (start, stop) in index.splits.items():
    if name != schema.UNLABELED_SPLIT:
      part = TEST if name == schema.TEST_SPLIT else TRAIN
      places = np.arange(start, stop)
      ids[part].update(index.values_of('image_id', places))
  return collections.Counter({part: len(found) for part, found in ids.items()})


def _check_counts(summary: Report) -> None:
  for part in ('', 'test_'):
    out = sum(
      summary.get(part + name, 0)
      for name in ('written', 'unlabeled', 'rejected')
    )
    if summary[f'{part}found'] != out:
      raise AssertionError(
        f'{summary[f"{part}found"]} files found but {out} accounted for'
      )


def _lowest_agreement(images: Sequence[prepare.Prepared]) -> list[Report]:
  several = [image for image in images if image.num_annotations > 1]
  several.sort(key=lambda image: (image.agreement, image.image_id))
  return [
    {
      'image_id': image.image_id,
      'num_annotations': image.num_annotations,
      'agreement': round(image.agreement, 4),
    }
    for image in several[:_MOST_LISTED]
  ]
