"""`gqa-flax convert INPUT OUTPUT --num_kv_heads=8`: settings without gin.

Each argument is a setting of gin_configs/runs/convert.gin, which is then read
first, so that other files and bindings go with it.
"""

from gqa_flax.cli import gin_config, setting_types, settings

RUN_FILE = 'gin_configs/runs/convert.gin'
# The arguments, and the settings that they stand for.
POSITIONAL = {'INPUT': 'INPUT', 'OUTPUT': 'OUTPUT'}
FLAGS = {
  'num_kv_heads': 'NUM_KV_HEADS',
  'method': 'CONVERSION_METHOD',
  'step': 'STEP',
}


_USAGE = """\
gqa-flax convert INPUT OUTPUT --num_kv_heads=K [--method=...] [--step=...]
       gqa-flax convert --gin_file=gin_configs/runs/convert.gin --gin.INPUT=...
"""


def add_arguments(command):
  """Adds the arguments to those of `gqa-flax convert`."""
  command.usage = _USAGE
  add = command.add_argument
  for name in POSITIONAL:
    meaning = settings.SETTINGS[name].meaning
    add(name, nargs='?', help=_as_help(meaning))
  for name, setting in FLAGS.items():
    found = settings.setting(setting, 'convert')
    add(
      f'--{name}',
      type=setting_types.flag(found.type),
      metavar=name.upper(),
      help=f'{_as_help(found.meaning)} ({setting})',
    )


def bind(args):
  """Turns the arguments that were given into bindings.

  Raises:
    UsageError: A setting is given twice.
  """
  given = {
    setting: (shown, value)
    for name, setting in {**POSITIONAL, **FLAGS}.items()
    if (value := getattr(args, name)) is not None
    for shown in [name if name in POSITIONAL else f'--{name}']
  }
  bound = [binding.partition('=')[0] for binding in args.gin_bindings]
  for setting, (shown, value) in given.items():
    if setting in bound:
      raise gin_config.UsageError(
        f'{shown} is {value!r}, and --gin.{setting} is given as well; leave '
        'out one of the two.'
      )
  if given:
    args.shorthand = {x: x for x in POSITIONAL} | {
      setting: f'--{name}=...' for name, setting in FLAGS.items()
    }
    args.gin_file.insert(0, RUN_FILE)
    args.gin_bindings += [f'{k}={value!r}' for k, (_, value) in given.items()]


def _as_help(meaning: str) -> str:
  return meaning[0].lower() + meaning.removesuffix('.')[1:]
