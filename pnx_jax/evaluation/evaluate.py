"""Evaluation: a pass over the held-out images, all metrics, all files."""

import dataclasses
import functools
import os
import pathlib
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
  localization,
  outlines,
  protocol,
  result_files,
  results,
  rule_search,
  tables,
)
from pnx_jax.evaluation.cross_validation import HeldOut
from pnx_jax.evaluation.dataset_predictor import DatasetPredictor
from pnx_jax.evaluation.report import gallery, page
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
from pnx_jax.metrics import bootstrap
from pnx_jax.prediction import evaluation_seal
from pnx_jax.prediction.deployment import NetworkReader
from pnx_jax.prediction.postprocess import Postprocess
from pnx_jax.training import experiment, seen_films, sharding


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
  attribute_tables = None
  if options.groups:  # Read before the pass, which takes long.
    ids = [record.image_id for record in held_out.records]
    attribute_tables = attributes.read(options.groups, ids)
  statistics = held_out.statistics()

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
    attributes=attribute_tables,
  )

  # Some images once more, and the test images by all networks together.
  fixed = plan.saved_rules or options
  cleaning = {
    'min_component': fixed.min_component,
    'fill_holes': fixed.fill_holes,
  }
  second = gallery.second_pass(
    held_out,
    found,
    gallery.choose(found.images, options.num_overlays),
    image_size=min(config.image_size, held_out.stored_size),
    **cleaning,
  )
  origin = built_dataset.origin(config.data_dir)
  metrics = {'patient_safe': origin.patient_safe, **found.flat()}
  if plan.seal != evaluation_seal.SEALED:
    metrics = {'seal': plan.seal, **metrics}
  if any(cleaning.values()):
    cleaned = {'dice_cleaned': second.cleaned_dice}
    metrics['dice_cleaned'] = float(np.nanmean(second.cleaned_dice))
    metrics['intervals'] |= bootstrap.cluster_bootstrap(
      functools.partial(tables.means, cleaned, chosen=found.images.mask_known),
      found.images.patient,
      replicates=options.bootstrap,
    )
  located = localization.summarize(
    held_out.records, second.boxes, replicates=options.bootstrap
  )
  if located:
    found_boxes = located.flat()
    metrics['intervals'] |= found_boxes.pop('intervals')
    metrics = {**found_boxes, **metrics}
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
    seen = leaks.seen_unlabeled(
      seen_films.of(test.records), plan.deployment.members(workdir)
    )
    if seen:
      metrics['submission_films_seen_unlabeled'] = len(seen)

  measured = outlines.columns(second.outlines, held_out.records, found.images)

  if jax.process_index() == 0:
    with folders.replaced(plan.folder, ours=result_files.is_ours) as folder:
      _write(folder, held_out, found, second, metrics)
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
      html = page.render(
        title=plan.title
        if plan.seal == evaluation_seal.SEALED
        else f'{plan.title} ({plan.seal})',
        config=config.to_json_best_effort(indent=2),
        records=held_out.records,
        statistics=statistics,
        results=found,
        second=second,
        outline_metrics=outlines.summarize(
          measured, found.images, replicates=options.bootstrap
        ),
        at_bedside=bedside.summarize(found, prevalences),
        metrics=metrics,
      )
      files.write(folder / 'report.html', html)
      result_files.write_outlines(
        folder / 'outlines.csv', held_out.records, measured, found.images
      )
      evaluation_files.write_checksums(folder)
    print(result_files.summary(metrics))
    print('Wrote', ', '.join(sorted(map(str, plan.folder.iterdir()))))
  return metrics


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
  second: gallery.SecondPass,
  metrics: dict[str, Any],
) -> None:
  files.write_json(folder / 'metrics.json', metrics)
  result_files.write_per_image(
    folder / 'per_image.csv', held_out.records, held_out.fold, found.images
  )
  result_files.write_subgroups(folder / 'subgroups.csv', found.differences)
  files.write_csv(folder / 'boxes.csv', evaluation_files.BOXES, second.boxes)
  masks = (
    (record.image_id, second.masks.get(index, rle.EMPTY))
    for index, record in enumerate(held_out.records)
  )
  rle.write_csv(folder / 'masks.csv', masks)
  for example, picture in second.pictures.items():
    record = held_out.records[example.index]
    gallery.save(picture, example, record, folder / 'overlays')
