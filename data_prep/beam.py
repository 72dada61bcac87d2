"""The build's work as Apache Beam pipelines, for more than one machine.

Every path has to mean the same on all machines. The pipelines leave the same
files as `pool` does, so all that follows is the same.

A film that ends its decoder, or keeps it for ever, takes the worker with it.
The runner tries the batch again and gives up in the end; what was done stays.
The same command without --beam_runner resumes from there on one machine and
rejects the film.
"""

from collections.abc import Callable, Iterable
from typing import Any

import apache_beam as beam
from apache_beam.options import pipeline_options


def run(
  function: Callable[[Any], Any],
  batches: Iterable[Any],
  *,
  runner: str,
  options: str,
) -> None:
  """Calls `function` on every batch, somewhere; what it returns is lost.

  Args:
    function: Picklable; leaves its result in a file.
    batches: What to call it on.
    runner: Name of a Beam runner, `DirectRunner` for this machine.
    options: Options of the pipeline, `name=value,name=value`.
  """
  with beam.Pipeline(runner=runner, options=parse(options)) as pipeline:
    _ = (
      pipeline
      | 'Batches' >> beam.Create(batches)
      | 'Spread' >> beam.Reshuffle()
      | 'Prepare' >> beam.Map(lambda batch: (function(batch), None)[1])
    )


def parse(options: str) -> pipeline_options.PipelineOptions:
  """Returns `name=value,name=value` as options of a pipeline."""
  words = [word.strip() for word in options.split(',') if word.strip()]
  return pipeline_options.PipelineOptions([f'--{word}' for word in words])
