"""TFDS's builders: what they yield from raw files, and the paper's data sets.

The raw files are invented, in the layout of the published ones; see raw_files.
"""

import json

import pytest
import tensorflow_datasets as tfds

SPLITS = ('train', 'validation', 'test')
TRIVIA_QA = (
  'question question_id question_source answer/aliases '
  'answer/matched_wiki_entity_name answer/normalized_aliases '
  'answer/normalized_matched_wiki_entity_name answer/normalized_value '
  'answer/type answer/value entity_pages/doc_source entity_pages/filename '
  'entity_pages/title entity_pages/wiki_context search_results/description '
  'search_results/filename search_results/rank search_results/title '
  'search_results/url search_results/search_context'
)

# Of each builder, the fields and the splits.
BUILDERS = {
  'cnn_dailymail:3.4.0': ('article highlights id publisher', SPLITS),
  'scientific_papers/arxiv:1.1.1': ('article abstract section_names', SPLITS),
  'scientific_papers/pubmed:1.1.1': ('article abstract section_names', SPLITS),
  'media_sum:1.0.0': (
    'id program date url summary utt speaker',
    ('train', 'val', 'test'),
  ),
  'multi_news:2.1.0': ('document summary', SPLITS),
  'wmt14_translate/de-en:1.0.0': ('de en', SPLITS),
  'trivia_qa/rc:1.1.0': (TRIVIA_QA, SPLITS),
  'c4/en:3.1.0': (
    'text url content-type content-length timestamp',
    ('train', 'validation'),
  ),
}
# Strings of which an example has any number; they keep their order.
LISTS = {
  'media_sum:1.0.0': {'utt', 'speaker'},
  'trivia_qa/rc:1.1.0': {
    name
    for name in TRIVIA_QA.split()
    if name.startswith(('entity_pages/', 'search_results/'))
    or name.endswith('aliases')
  },
}


def flatten(spec, prefix=''):
  """Returns the fields of nested dicts by their paths."""
  for name, value in spec.items():
    if isinstance(value, dict):
      yield from flatten(value, f'{prefix}{name}/')
    else:
      yield f'{prefix}{name}', value


def in_order(examples):
  return sorted(examples, key=lambda x: json.dumps(x, sort_keys=True))


def test_every_data_set_is_here(data_set_names):
  assert set(data_set_names) == set(BUILDERS)


@pytest.mark.parametrize('name', BUILDERS)
def test_builders_yield_what_the_raw_files_hold(
  name, prepare, raw_files, plain
):
  expected = raw_files(name).examples
  datasets = tfds.load(name, data_dir=prepare(name), download=False)
  assert tuple(expected) == BUILDERS[name][1]
  assert set(datasets) == set(expected)
  for split, dataset in datasets.items():
    examples = [plain(example) for example in dataset.as_numpy_iterator()]
    assert in_order(examples) == in_order(expected[split])


@pytest.mark.parametrize('name', BUILDERS)
def test_builders_have_the_paper_s_fields(name, prepare):
  fields, _ = BUILDERS[name]
  dataset = tfds.load(
    name, data_dir=prepare(name), split='train', download=False
  )
  found = dict(flatten(dataset.element_spec))
  assert set(found) == set(fields.split())
  lists = {field for field, spec in found.items() if spec.shape.rank == 1}
  assert lists == LISTS.get(name, set())
  numbers = {field for field, spec in found.items() if spec.dtype != 'string'}
  assert numbers <= {'search_results/rank'}


@pytest.mark.parametrize('name', BUILDERS)
def test_tfds_still_makes_this_version(name, tmp_path):
  builder = tfds.builder(name.split(':')[0], data_dir=tmp_path)
  assert str(builder.version) == name.split(':')[1]


def test_examples_are_enough_and_of_differing_length(data_set_names, raw_files):
  for name in data_set_names:
    for split, examples in raw_files(name).examples.items():
      lengths = [len(json.dumps(example).split()) for example in examples]
      assert len(lengths) >= (12 if split == 'train' else 5)
      assert len(set(lengths)) >= 4
      if 'wmt' not in name:
        assert max(lengths) > 300
