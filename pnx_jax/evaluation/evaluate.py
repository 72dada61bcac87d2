"""Evaluation: a pass over the held-out images, all metrics, all files."""

import dataclasses
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from pnx_jax.config import check_config
from pnx_jax.evaluation import (
  attributes,
  bedside,
  data_description,
  leaks,
  lesions,
  localization,
  outlines,
  protocol,
  readers,
  result_files,
  results,
  rule_search,
  tables,
  uncertainty,
)
from pnx_jax.evaluation.cross_validation import HeldOut
from pnx_jax.evaluation.dataset_predictor import DatasetPredictor
from pnx_jax.evaluation.kept_masks import KeptMasks
from pnx_jax.evaluation.readers import Reader
from pnx_jax.evaluation.report import gallery, page, reporting_sheet
from pnx_jax.evaluation.results import Results
from pnx_jax.evaluation.stored_predictions import StoredPredictions
from pnx_jax.formats import (
  built_dataset,
  evaluation_files,
  files,
  folders,
  rle,
  schema,
)
from pnx_jax.input import pipeline
from pnx_jax.metrics import influence, intervals
from pnx_jax.prediction import evaluation_seal
from pnx_jax.prediction.deployment import NetworkReader
from pnx_jax.prediction.postprocess import Postprocess
from pnx_jax.storage import local
from pnx_jax.training import experiment, seen_films, sharding

_logger = logging.getLogger(__name__)


def evaluate(
  config: ml_collections.ConfigDict,
  workdir: str | os.PathLike[str],
  *,
  accept_edited: bool = False,
) -> dict[str, Any]:
  """Scores a run and writes `<workdir>/eval/`.

  Each trained fold is predicted by networks that have not seen it, and the
  rules are searched. A dataset that no network has seen is predicted by all
  of them, and the rules in `eval/` are applied unchanged; these results go to
  `<workdir>/eval_<dataset>/`. The folder is replaced at the end, as a whole;
  files in it that are not an evaluation's are kept.

  With `eval.predictions` no network is needed: what another program has
  predicted out of fold is scored like a run's own predictions.

  Args:
    config: of the run; `eval` and `data_dir` may have changed since training.
    workdir: holds `fold<i>/checkpoints`.
    accept_edited: apply saved rules even where files were edited after the
      evaluation that sealed them; the results name these files.

  Returns:
    The content of metrics.json.

  Raises:
    UserError: no checkpoint, no data, or networks that cannot be ensembled.
  """
  check_config(config)
  options = config.eval
  sharding.check_batch_size(options.batch_size, 'eval.batch_size')
  if options.predictions:
    plan, reader = protocol.of_predictions(config, workdir), None
    everyone = StoredPredictions(options.predictions)
    held_out = HeldOut(config.data_dir, dict.fromkeys(plan.folds, everyone))
  else:
    plan = protocol.make(config, workdir, accept_edited=accept_edited)
    reader = NetworkReader(workdir, plan.deployment, sharding.mesh())
    everyone, held_out = _predictors(config, workdir, plan, reader)
  prevalences = bedside.parse_prevalences(options.prevalences)
  # Tables are read before the pass, which takes long.
  user_tables = _UserTables.read(options, held_out.records)
  rules = [plan.saved_rules.rule] if plan.saved_rules else rule_search.GRID
  with KeptMasks(
    lowest=min(rule.bottom for rule in rules),
    folder=workdir if os.path.isdir(workdir) else None,
  ) as kept:
    statistics = held_out.statistics(kept=kept)
    _logger.info(
      'Kept the candidate masks of %d images in %.1f MiB.',
      len(kept),
      kept.num_bytes / 2**20,
    )

    # What is chosen by some images is scored on others.
    groups = np.searchsorted(plan.folds, held_out.fold)
    if len(plan.folds) == 1:
      patients = [record.patient for record in held_out.records]
      groups = rule_search.patient_groups(patients, held_out.label)
    found = results.compute(
      held_out,
      statistics,
      groups,
      replicates=options.bootstrap,
      saved=plan.saved_rules,
      attributes=user_tables.attributes,
    )
    undisputed, disputed = None, user_tables.disputed
    if disputed is not None:
      undisputed = results.compute(
        results.Films(held_out.records, held_out.fold).chosen(~disputed),
        {name: values[~disputed] for name, values in statistics.items()},
        np.unique(groups[~disputed], return_inverse=True)[1],
        replicates=options.bootstrap,
        saved=plan.saved_rules,
      )

    # The masks of all images, and the test images by all networks together.
    fixed = plan.saved_rules or options
    cleaning = {
      'min_component': fixed.min_component,
      'fill_holes': fixed.fill_holes,
    }
    film_masks = gallery.masks(held_out, kept, statistics, found, **cleaning)
  lesion_report = lesions.summarize(
    film_masks.findings,
    held_out.records,
    found.images.patient,
    known=found.images.mask_known,
  )
  pictures = gallery.pictures(
    held_out,
    film_masks,
    found.images,
    [
      *gallery.choose(found.images, options.num_overlays),
      *gallery.false_positives(lesion_report, options.num_overlays),
    ],
    image_size=min(config.image_size, held_out.stored_size),
  )
  origin = built_dataset.origin(config.data_dir)
  metrics = {'patient_safe': origin.patient_safe, **found.flat()}
  if origin.kept_test_copies:
    metrics['kept_test_copies'] = origin.kept_test_copies
  if plan.saved_rules:
    metrics |= protocol.identity(config.data_dir)
  if plan.seal != evaluation_seal.SEALED:
    metrics = {'seal': plan.seal, **metrics}
  if any(cleaning.values()):
    known = found.images.mask_known
    cleaned = tables.from_influences(
      {'dice_cleaned': influence.mean(film_masks.cleaned_dice, known)},
      found.images.patient,
    )
    metrics |= cleaned.values
    metrics['intervals'] |= cleaned.intervals
    metrics['interval_methods'] |= cleaned.methods
  located = localization.summarize(
    held_out.records,
    film_masks.rows_of_boxes(held_out.records),
    replicates=options.bootstrap,
  )
  if located:
    found_boxes = located.flat()
    in_boxes = found_boxes.pop('intervals')
    metrics['intervals'] |= in_boxes
    metrics['interval_methods'] |= dict.fromkeys(in_boxes, intervals.PERCENTILE)
    metrics = {**found_boxes, **metrics}
  if undisputed:
    part = undisputed.overall.flat()
    prefix = 'without_disputed/'
    for name in (*tables.TABLE_METRICS, 'num_images'):
      metrics[prefix + name] = part[name]
    for name in tables.TABLE_METRICS:
      metrics['intervals'][prefix + name] = part['intervals'][name]
  reader_report = user_tables.readers and readers.summarize(
    user_tables.readers,
    found,
    held_out.records,
    film_masks.masks,
    replicates=options.bootstrap,
  )
  spread = None
  if 'spread' in statistics:
    spread = uncertainty.summarize(statistics['spread'], found.images)
  post = found.postprocess(**cleaning)
  predictions = None
  if reader:
    predictions = submission_rows(
      config.data_dir, everyone, post, size=options.submission_size
    )
  if predictions is not None:
    test = pipeline.Dataset(
      config.data_dir, [schema.TEST_SPLIT], labeled_only=False
    )
    seen = leaks.seen_in_training(
      seen_films.of(test.records), plan.deployment.members(workdir)
    )
    if seen:
      metrics['submission_films_seen_in_training'] = len(seen)

  measured = outlines.columns(
    film_masks.outlines, held_out.records, found.images
  )

  if jax.process_index() == 0:
    with folders.replaced(plan.folder, ours=result_files.is_ours) as folder:
      _write(folder, held_out, found, film_masks, pictures, metrics)
      lesions.write(folder, lesion_report)
      if spread:
        uncertainty.write(
          folder / 'uncertainty.csv', spread, held_out.records, found.images
        )
      if reader_report:
        readers.write(folder / 'readers.csv', reader_report)
      if not reader or plan.saved_rules:
        post.save(folder / 'postprocess.json')
      if reader and plan.saved_rules is None:
        deployment = plan.deployment
        members = deployment.members(workdir)
        dataclasses.replace(
          deployment,
          steps=tuple(reader.steps[member] for member in members),
          data=data_description.describe(
            config.data_dir,
            origin,
            runs=[os.path.join(workdir, run) for run in deployment.runs],
            folds=deployment.folds,
            metrics=metrics,
          ),
        ).save(workdir, folder, post)
      if predictions is not None:
        rle.write_csv(folder / 'submission.csv', predictions)
      title = plan.title
      if plan.seal != evaluation_seal.SEALED:
        title += f' ({plan.seal})'
      sheet = reporting_sheet.render(
        title=title,
        config=config,
        origin=origin,
        metrics=metrics,
        rule=str(post.rule),
        workdir=workdir if reader else None,
        folds=plan.folds,
        external=plan.saved_rules is not None,
        characteristics={
          table: {row: part.values['num_images'] for row, part in rows.items()}
          for table, rows in found.tables.items()
          if table in ('view', 'sex', 'age')
        },
        columns=[
          table
          for table in found.tables
          if table in {'source', *(user_tables.attributes or ())}
        ],
      )
      files.write(folder / 'claim.md', sheet)
      html, figures = page.render(
        title=title,
        config=config.to_json_best_effort(indent=2),
        records=held_out.records,
        statistics=statistics,
        results=found,
        pictures=pictures,
        lesion_report=lesion_report,
        reader_report=reader_report,
        spread=spread,
        outline_metrics=outlines.summarize(measured, found.images),
        at_bedside=bedside.summarize(found, prevalences),
        metrics=metrics,
        foreign=not reader,
      )
      files.write(folder / 'report.html', html)
      for name, chart in figures.items():
        files.write(folder / 'figures' / f'{name}.svg', chart.svg)
        files.write(folder / 'figures' / f'{name}.pdf', chart.pdf)
      result_files.write_outlines(
        folder / 'outlines.csv', held_out.records, measured, found.images
      )
      evaluation_files.write_checksums(folder)
    print(result_files.summary(metrics))
    written = (local.origin(str(path)) for path in plan.folder.iterdir())
    print('Wrote', ', '.join(sorted(written)))
  return metrics


@dataclasses.dataclass(frozen=True)
class _UserTables:
  """Tables that the config names; None where it names none.

  Attributes:
    attributes: Of `eval.groups`.
    disputed: bool[N], of `eval.disputed`.
    readers: Of `eval.readers`.
  """

  attributes: dict[str, dict[str, np.ndarray]] | None = None
  disputed: np.ndarray | None = None
  readers: dict[str, Reader] | None = None

  @classmethod
  def read(
    cls, options: ml_collections.ConfigDict, records: Sequence[schema.Record]
  ) -> '_UserTables':
    """Reads them for N images."""
    found, ids = {}, [record.image_id for record in records]
    if options.groups:
      found['attributes'] = attributes.read(
        options.groups, ids, patient_map=options.patient_map
      )
    if options.disputed:
      found['disputed'] = attributes.read_list(options.disputed, ids)
    if options.readers:
      found['readers'] = readers.read(options.readers, records)
    return cls(**found)


def _predictors(
  config: ml_collections.ConfigDict,
  workdir: str | os.PathLike,
  plan: protocol.Protocol,
  reader: NetworkReader,
) -> tuple[DatasetPredictor, HeldOut]:
  """All networks together, and each image by those not trained on it."""
  loader = experiment.loader(config, config.eval.batch_size)
  everyone = DatasetPredictor(reader.ensemble(), loader)
  out_of_fold = plan.saved_rules is None and len(plan.folds) > 1
  held_out = HeldOut(
    config.data_dir,
    {
      fold: DatasetPredictor(reader.ensemble([fold]), loader)
      if out_of_fold
      else everyone
      for fold in plan.folds
    },
  )
  leaks.check_out_of_fold(
    {fold: held_out.films(fold) for fold in plan.folds},
    {
      fold: plan.deployment.members(workdir, [fold] if out_of_fold else ())
      for fold in plan.folds
    },
    build=()
    if plan.saved_rules
    else built_dataset.folds_of(config.data_dir).keys(),
  )
  return everyone, held_out


def submission_rows(
  data_dir: str,
  predictor: DatasetPredictor,
  post: Postprocess,
  *,
  size: int = 0,
) -> list[tuple[str, str]] | None:
  """Image id and RLE of each test image; None where there are none.

  Args:
    data_dir: the dataset.
    predictor: of the test images.
    post: from probabilities to masks.
    size: of a mask's longer side; 0 for the film's own size.
  """
  if not built_dataset.split_sizes(data_dir).get(schema.TEST_SPLIT):
    return None
  test = pipeline.Dataset(data_dir, [schema.TEST_SPLIT], labeled_only=False)
  found = zip(test.records, predictor.probabilities(test), strict=True)
  return [
    (
      record.image_id,
      rle.encode(post.film_mask(*probabilities, _scaled(record, size))),
    )
    for record, probabilities in found
  ]


def _scaled(record: schema.Record, size: int) -> schema.Record:
  """The record of the same film whose longer side has `size` pixels."""
  if not size:
    return record
  scale = size / max(record.height, record.width)
  return dataclasses.replace(
    record,
    height=max(1, round(record.height * scale)),
    width=max(1, round(record.width * scale)),
  )


def _write(
  folder: pathlib.Path,
  held_out: HeldOut,
  found: Results,
  film_masks: gallery.FilmMasks,
  pictures: Mapping[gallery.Example, np.ndarray],
  metrics: dict[str, Any],
) -> None:
  files.write_json(folder / 'metrics.json', metrics)
  result_files.write_per_image(
    folder / 'per_image.csv', held_out.records, held_out.fold, found.images
  )
  result_files.write_subgroups(folder / 'subgroups.csv', found.differences)
  boxes = film_masks.rows_of_boxes(held_out.records)
  files.write_csv(folder / 'boxes.csv', evaluation_files.BOXES, boxes)
  masks = (
    (record.image_id, film_masks.masks.get(index, rle.EMPTY))
    for index, record in enumerate(held_out.records)
  )
  rle.write_csv(folder / 'masks.csv', masks)
  for example, picture in pictures.items():
    record = held_out.records[example.index]
    gallery.save(picture, example, record, folder / 'overlays')
