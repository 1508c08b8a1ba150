"""Flags of `cost` and `time`, and of jobs with many processes."""

import pytest

CASES = [
  # cost
  ('cost', ['!xxl', 'xxxl'], 'model', 'xxxl', 'xxl'),
  ('cost', ['!xxl', 't5_1_1_xxxl'], 'model', 't5_1_1_xxxl', 'xxl'),
  ('cost', ['!xxl', ''], 'model'),
  ('cost', ['!xxl', '5'], 'model', '5'),
  ('cost', '!xxl', 'MODEL'),
  ('cost', 'large', 'large'),
  ('cost', '--num_kv_heads=3', '--num_kv_heads', '3', '64'),
  ('cost', '--num_kv_heads=0', '--num_kv_heads', '0'),
  ('cost', '--num_kv_heads=-8', '--num_kv_heads', '-8'),
  ('cost', '--num_kv_heads=128', '--num_kv_heads', '128', '64'),
  ('cost', '--num_kv_heads=eight', '--num_kv_heads', 'eight'),
  ('cost', '--num_kv_heads=1.5', '--num_kv_heads', '1.5'),
  ('cost', '--num_kv_heads=', '--num_kv_heads'),
  ('cost', '--num_kv_heads', '--num_kv_heads'),
  ('cost', '--batch_size=0', '--batch_size', '0'),
  ('cost', '--batch_size=-1', '--batch_size', '-1'),
  ('cost', '--batch_size=many', '--batch_size', 'many'),
  ('cost', '--batch_size=1e3', '--batch_size', '1e3'),
  ('cost', '--batch_size=', '--batch_size'),
  ('cost', '--source_length=0', '--source_length', '0'),
  ('cost', '--source_length=-1', '--source_length', '-1'),
  ('cost', '--source_length=long', '--source_length', 'long'),
  ('cost', '--target_length=0', '--target_length', '0'),
  ('cost', '--target_length=nan', '--target_length', 'nan'),
  ('cost', '--length=4096', '--length', 'xxl', '--source_length'),
  ('cost', '--chip=v4p', 'chip', 'v4p', 'v4'),
  ('cost', '--chip=h100', 'chip', 'h100', 'v5e'),
  ('cost', '--chip=', 'chip'),
  ('cost', '--num_chips=0', '--num_chips', '0'),
  ('cost', '--num_chips=-8', '--num_chips', '-8'),
  ('cost', '--num_chips=eight', '--num_chips', 'eight'),
  ('cost', '--num_chips=8.0', '--num_chips', '8.0'),
  ('cost', '--json=yes', '--json', 'yes'),
  ('cost', '--bach_size=8', '--bach_size'),
  ('cost decoder', '--source_length=512', '--source_length', '--length'),
  ('cost decoder', '--target_length=512', '--target_length', '--length'),
  ('cost decoder', '--length=0', '--length', '0'),
  ('cost decoder', '--length=-5', '--length', '-5'),
  ('cost decoder', '--length=long', '--length', 'long'),
  ('cost decoder', '--num_kv_heads=3', '--num_kv_heads', '3', '32'),
  ('cost decoder', ['!llama', 'llama-4-7b'], 'llama-4-7b', 'llama-2-7b'),
  # time
  ('estimate', '--target=v4', '--target', 'v4'),
  ('estimate', '--target=v9-8', '--target', 'v9-8', 'v4'),
  ('estimate', '--target=v4-7', '--target', 'v4-7'),
  ('estimate', '--target=v4:0x2x2', '--target', 'v4:0x2x2'),
  ('estimate', '--target=v4:2x2', '--target', 'v4:2x2'),
  ('estimate', '--target=v5e:2x2x2', '--target', 'v5e:2x2x2'),
  ('estimate', '--target=v5e-3', '--target', 'v5e-3'),
  ('estimate', '--target=', '--target'),
  ('estimate', '--target=8', '--target', '8'),
  ('estimate', '--target=v4-99999999999999999999', '--target', 'v4-9999'),
  ('estimate', '--target=v4:1000x1000x1000', '--target', 'v4:1000x1000'),
  ('estimate', '--trace_dir=$tmp/trace', '--trace_dir', '--target'),
  ('time', '--repeats=3', '--repeats'),
  # train, evaluate: processes
  ('train', '--num_devices=64', '--num_devices', '64', '--dry_run'),
  ('train', '--num_devices=0', '--num_devices', '0'),
  ('train', ['--dry_run', '--num_devices=0'], '--num_devices', '0'),
  ('train', ['--dry_run', '--num_devices=-8'], '--num_devices', '-8'),
  ('train', ['--dry_run', '--num_devices=abc'], '--num_devices', 'abc'),
  ('train', ['--dry_run', '--num_devices=2.5'], '--num_devices', '2.5'),
  ('train', ['--dry_run', '--num_devices='], '--num_devices'),
  ('evaluate', '--num_devices=8', '--num_devices'),
  ('train', '--process_count=2', '--process_count', '--coordinator_address'),
  ('train', '--process_index=0', '--process_index', '--coordinator_address'),
  ('train', '--process_count=two', '--process_count', 'two'),
  ('train', '--process_index=-1', '--process_index', '-1'),
  ('train', '--coordinator_address=localhost:1', '--process_count'),
  ('train', '--heartbeat_seconds=0', '--heartbeat_seconds', '0'),
  ('train', '--heartbeat_seconds=-5', '--heartbeat_seconds', '-5'),
  ('train', '--heartbeat_seconds=soon', '--heartbeat_seconds', 'soon'),
  ('evaluate', '--heartbeat_seconds=0', '--heartbeat_seconds', '0'),
  ('evaluate', '--process_count=2', '--process_count'),
  (
    'train',
    [
      '--coordinator_address=localhost',
      '--process_count=1',
      '--process_index=0',
    ],
    '--coordinator_address',
    'localhost',
  ),
  (
    'train',
    [
      '--coordinator_address=localhost:99999',
      '--process_count=1',
      '--process_index=0',
    ],
    '--coordinator_address',
    '99999',
  ),
  (
    'train',
    [
      '--coordinator_address=localhost:1',
      '--process_count=0',
      '--process_index=0',
    ],
    '--process_count',
    '0',
  ),
  (
    'train',
    [
      '--coordinator_address=localhost:1',
      '--process_count=2',
      '--process_index=2',
    ],
    '--process_index',
    '2',
  ),
  # Unknown to every command.
  ('train', '--max_steps=5', '--max_steps'),
  ('convert', 'checkpoint', 'checkpoint'),
  ('infer', '--gin_files=x.gin', '--gin_files'),
  ('report', '--outptu=page.html', '--outptu'),
  ('data list', 'trivia_qa', 'trivia_qa'),
]


@pytest.mark.parametrize('case', CASES)
def test_flags(refused, case):
  command, changes, *fragments = case
  refused(command, changes, *fragments)


@pytest.mark.parametrize('argv', [[], ['trian'], ['data'], ['']])
def test_no_command(capsys, argv):
  from gqa_flax.cli import main

  with pytest.raises(SystemExit) as exit_:
    main(argv)
  assert exit_.value.code == 2
  err = capsys.readouterr().err
  assert err.startswith('usage: gqa-flax')
  if argv:
    assert argv[0] in err
