"""docs/cluster/train.yaml: what its schema cannot check.

`make manifest` checks it against the schema of Kubernetes.
"""

import os
import pathlib
import re
import subprocess

import pytest
import small_run
import yaml

ROOT = pathlib.Path(__file__).parent.parent
# A checkpoint of the largest recipe takes 7 to 11 s (`benchmarks.save`).
SAVE_SECONDS = 20


@pytest.fixture(scope='module')
def manifest():
  """The service, the job, and the container of its pods."""
  text = (ROOT / 'docs' / 'cluster' / 'train.yaml').read_text()
  service, job = yaml.safe_load_all(text)
  [container] = job['spec']['template']['spec']['containers']
  return service, job, container


def environment(container):
  return {each['name']: each['value'] for each in container['env']}


def test_pods_find_each_other(manifest):
  service, job, container = manifest
  name = job['metadata']['name']
  subdomain = job['spec']['template']['spec']['subdomain']
  assert service['metadata']['name'] == subdomain
  assert service['spec']['clusterIP'] == 'None'
  # The label that Kubernetes gives to the pods of a job.
  assert service['spec']['selector'] == {'job-name': name}
  host, port = environment(container)['COORDINATOR_ADDRESS'].split(':')
  assert host == f'{name}-0.{subdomain}'
  assert int(port) in [each['containerPort'] for each in container['ports']]


def test_every_process_has_a_pod(manifest):
  _, job, container = manifest
  spec = job['spec']
  assert spec['completionMode'] == 'Indexed'
  assert spec['completions'] == spec['parallelism']
  assert environment(container)['NUM_PROCESSES'] == str(spec['completions'])


def test_a_pod_that_was_stopped_is_started_again(manifest):
  _, job, container = manifest
  pod = job['spec']['template']['spec']
  assert pod['restartPolicy'] == 'Never'  # A failure policy demands it.
  assert pod['terminationGracePeriodSeconds'] >= 5 * SAVE_SECONDS
  by_code, by_condition = job['spec']['podFailurePolicy']['rules']
  assert by_code['action'] == by_condition['action'] == 'Ignore'
  assert by_code['onExitCodes'] == {
    'containerName': container['name'],
    'operator': 'In',
    'values': [75],
  }


def test_quantities_and_mounts(manifest):
  _, job, container = manifest
  for resources in container['resources'].values():
    for quantity in resources.values():
      assert re.fullmatch(r'\d+(m|Mi|Gi)?', quantity)
  volumes = [v['name'] for v in job['spec']['template']['spec']['volumes']]
  assert [v['name'] for v in container['volumeMounts']] == volumes


@pytest.mark.slow
def test_the_entry_point_runs_with_the_environment_that_it_sets(
  manifest, dataset_dir, tmp_path
):
  _, job, container = manifest
  variables = environment(container)
  host, _ = variables['COORDINATOR_ADDRESS'].split(':')
  processes = []
  for index in range(job['spec']['completions']):
    values = {**variables, 'JOB_COMPLETION_INDEX': str(index)}
    words = [
      re.sub(r'\$\((\w+)\)', lambda name: values[name[1]], word)  # noqa: B023
      for word in [*container['command'], *container['args']]
    ]
    assert not any('$' in word for word in words)
    words = [word.replace(host, '127.0.0.1') for word in words]
    # Of flags that are given twice the last one counts.
    words += [*small_run.flags(dataset_dir), f'--workdir={tmp_path}']
    processes.append(
      subprocess.Popen(words, cwd=ROOT, env=os.environ | small_run.ONE_DEVICE)
    )
  assert [process.wait(timeout=300) for process in processes] == [0, 0]
  assert 'train/loss' in small_run.events(tmp_path)
