"""`gqa-flax convert INPUT OUTPUT --num_kv_heads=8`: settings without gin.

Each argument is a setting of gin_configs/runs/convert.gin, which is then read
first, so that other files and bindings go with it.
"""

from gqa_flax.cli import gin_config, setting_types, settings

RUN_FILE = 'gin_configs/runs/convert.gin'
# The arguments, and the settings that they stand for.
_POSITIONAL = {'INPUT': 'INPUT', 'OUTPUT': 'OUTPUT'}
_FLAGS = {
  '--num_kv_heads': 'NUM_KV_HEADS',
  '--method': 'CONVERSION_METHOD',
  '--step': 'STEP',
}
_USAGE = """\
gqa-flax convert INPUT OUTPUT --num_kv_heads=K [--method=...] [--step=...]
       gqa-flax convert --gin_file=gin_configs/runs/convert.gin --gin.INPUT=...
"""


def add_arguments(command):
  """Adds the arguments to those of `gqa-flax convert`."""
  command.usage = _USAGE
  for name in _POSITIONAL:
    meaning = settings.SETTINGS[name].meaning
    command.add_argument(name, nargs='?', help=_as_help(meaning))
  for flag, name in _FLAGS.items():
    found = settings.setting(name, 'convert')
    command.add_argument(
      flag,
      type=setting_types.flag(found.type),
      metavar=flag[2:].upper(),
      help=f'{_as_help(found.meaning)} ({name})',
    )


def bind(args):
  """Turns the arguments that were given into bindings.

  Raises:
    UsageError: A setting is given twice.
  """
  bound = {binding.partition('=')[0] for binding in args.gin_bindings}
  bindings = []
  for argument, name in {**_POSITIONAL, **_FLAGS}.items():
    value = getattr(args, argument.removeprefix('--'))
    if value is None:
      continue
    if name in bound:
      raise gin_config.UsageError(
        f'{argument} is {value!r}, and --gin.{name} is given as well; leave '
        'out one of the two.'
      )
    bindings.append(f'{name}={value!r}')
  if bindings:
    args.gin_file.insert(0, RUN_FILE)
    args.gin_bindings += bindings
    # How to give what is missing.
    flags = {name: f'{flag}=...' for flag, name in _FLAGS.items()}
    args.shorthand = _POSITIONAL | flags


def _as_help(meaning: str) -> str:
  return meaning[0].lower() + meaning.removesuffix('.')[1:]
