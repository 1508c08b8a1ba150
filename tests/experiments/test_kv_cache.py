"""The records, and what the report says of them."""

from experiments import kv_cache
from gqa_flax.reporting import records


def test_every_published_model_has_its_own_heads_once(tmp_path):
  path = tmp_path / 'records.jsonl'
  kv_cache.run(path)
  found = records.read(path)
  published = {r['model']: r['num_kv_heads'] for r in found if r['published']}
  assert published == {
    name: config.num_kv_heads for name, config in kv_cache.configs().items()
  }
  for name in published:
    attentions = [r['attention'] for r in found if r['model'] == name]
    assert (attentions[0], attentions[-1]) == ('MHA', 'MQA')
    assert len(attentions) == 3
  kv_cache.run(path)
  assert records.read(path) == found


def test_the_report_follows_the_last_records(tmp_path):
  path = tmp_path / 'records.jsonl'
  kv_cache.run(path)
  kv_cache.report(tmp_path)
  text = (tmp_path / 'report.md').read_text()
  assert '    GQA-8: 2 x 64 x 8 x 128 x 2 = 262,144\n' in text
  assert '    262,144 / 1,310,720 = 8/40 = 20%\n' in text
  assert (
    '| qwen2.5-32b | **GQA-8** | 8 of 40 | 262,144 | 1,073.74 | 20.00' in text
  )
  assert '| t5.1.1-xxl | **MHA** | 64 of 64 |' in text

  record = next(r for r in records.read(path) if r['model'] == 'llama-2-7b')
  records.append(path, {**record, 'token_bytes': 123_457})
  kv_cache.report(tmp_path)
  text = (tmp_path / 'report.md').read_text()
  assert '| llama-2-7b | **MHA** | 32 of 32 | 123,457 |' in text


def test_parameters_and_cache_together_reach_the_claim_where_it_says():
  found = {kv_cache._key(r): r for r in kv_cache.rows()}
  mha, gqa = (found['qwen2.5-32b', K] for K in (40, 8))

  def held(record, positions):
    return 2 * record['num_params'] + positions * record['token_bytes']

  assert '39,185 cached positions' in kv_cache.claim(found)
  assert abs(held(gqa, 39_185) / held(mha, 39_185) - 0.62) < 1e-5


def test_a_step_is_that_of_the_largest_batch_up_to_the_papers():
  found = {kv_cache._key(r): r for r in kv_cache.rows()}
  assert found['t5.1.1-xxl', 64]['batch_size'] == 250
  assert found['t5.1.1-xxl', 8]['batch_size'] == 256
  assert abs(found['t5.1.1-xxl', 8]['step_seconds'] - 4.370e-3) < 1e-6
