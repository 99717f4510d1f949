"""What every script of ours shares: one sentence for a user's mistake, `--version`, and configs checked before work."""

import functools
import logging
import os
import string
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data import output
from data.errors import UserError
from data.machine import DISTRIBUTION, toolkit_version
from experiments.cli.arguments import Arguments, checked, make_importable, parse
from experiments.cli.options import Options, check_keys, check_presets, known_keys, search_path
from experiments.cli.plugins import plugins

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)
TRACEBACKS = "HYDRA_FULL_ERROR"  # the environment variable of Hydra's with which errors come as they are raised
Entry = Callable[["DictConfig"], float | None]


class _Ended(BaseException):
    """Carries an error of a single run past Hydra, which would print a line of its own for an `Exception`."""


def run(entry: Entry, config_name: str, config_path: Path, sweeps: bool = False) -> None:
    """Run `entry` with the configuration that Hydra composes from `config_path/config_name.yaml` and the command line.

    The configuration is checked for unknown keys and wholly resolved before `entry` sees it. The process ends with code
    2 and `Error: <one sentence>` after a user's mistake, 130 after Ctrl-C, and 1 with a traceback after a defect of
    ours. With HYDRA_FULL_ERROR=1 in the environment every error shows its traceback.
    """
    output.ready()
    if "--version" in sys.argv[1:]:
        print(f"{DISTRIBUTION} {toolkit_version()}")
        return
    wants_traceback = os.environ.get(TRACEBACKS) == "1"
    games: list[str] = []  # not empty once a game has begun: what then goes wrong is not Hydra's doing
    try:
        typed = parse(sys.argv[1:])
        sys.argv[1:] = checked([*sys.argv[1:], *(f"--config-dir={folder}" for folder in plugins())])
        make_importable(typed.folders)
        arguments = parse(sys.argv[1:])
        check_presets(arguments.overrides, arguments.folders)
        if arguments.is_sweep and sweeps:
            from experiments.sweeps import command as sweep_command

            code = sweep_command.main(arguments, config_name, config_path)
            sys.stdout.flush()
            sys.exit(code)
        _play(entry, config_name, config_path, arguments, games)
        sys.stdout.flush()
    except KeyboardInterrupt:
        _end(130, "Interrupted; what was finished is kept in the store.")
    except (Exception, _Ended) as raised:
        error = raised.__cause__ if isinstance(raised, _Ended) else raised
        assert error is not None
        if isinstance(error, BrokenPipeError):  # the reader of our output has left, as `head` does
            output.forget_output()
            sys.exit(1)
        from experiments.cli.explain import sentence

        text = None if wants_traceback else sentence(error, in_game=bool(games))
        if text is None:
            traceback.print_exception(error)
            sys.exit(1)
        _end(2, f"Error: {text}")


def _end(code: int, text: str) -> None:
    print(text, file=sys.stderr)
    sys.exit(code)


def _play(entry: Entry, config_name: str, config_path: Path, arguments: Arguments, games: list[str]) -> None:
    options = Options((config_path, *arguments.folders))
    if arguments.flags and {"--help", "-h"} >= set(arguments.flags):
        print(_help(config_name, options, arguments.overrides))
        return
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from experiments.cli import folders
    from experiments.cli.explain import sentence

    folders.register()
    schema = known_keys(config_path, config_name)

    @functools.wraps(entry)
    def game(cfg: "DictConfig") -> float | None:
        games.append(config_name)
        try:
            own_node = HydraConfig.get()
            params = own_node.sweeper.params or {} if own_node.mode == RunMode.RUN else {}
            if params and not {text.partition("=")[0] for text in arguments.overrides} & {*map(str, params)}:
                log.warning("One game of a sweep over %s; add -m to play all.", ", ".join(map(str, params)))
            every = {str(key): value for key, value in cfg.items()} | {"hydra": own_node}
            options.check(every, own_node.runtime.choices, config_name)
            check_keys(cfg, schema)
            OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # first, because only this names the key
            OmegaConf.resolve(cfg)
            return entry(cfg)
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:  # Hydra names the job that failed and goes on
                if isinstance(error, UserError) or (text := sentence(error)) is None:
                    raise
                raise UserError(text) from error
            raise _Ended from error

    sys.argv += search_path(arguments.folders[:-1])  # of several, Hydra takes the last
    before = os.environ.get(TRACEBACKS)
    os.environ[TRACEBACKS] = "1"  # or Hydra would print errors in its own way, and exit with 1
    try:
        hydra.main(version_base="1.3", config_path=str(config_path.resolve()), config_name=config_name)(game)()
    finally:
        del os.environ[TRACEBACKS]
        if before is not None:
            os.environ[TRACEBACKS] = before


def _help(config_name: str, options: Options, typed: Sequence[str]) -> str:
    """What `--help` prints: the config's `hydra.help.template` filled in.

    `$APP_CONFIG_GROUPS` becomes the groups and their options, and `$CONFIG` the configuration that the overrides give.
    Hydra's own takes 1.5 s and more, because it composes anew for every group that it lists.
    """
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf, open_dict

    with initialize_config_dir(str(options.folders[0].resolve()), version_base="1.3"):
        cfg = compose(config_name, [*typed, *search_path(options.folders[1:])], return_hydra_config=True)
    template = cfg.hydra.help.template
    with open_dict(cfg):
        del cfg["hydra"]
    listed = "".join(f"{group}: {', '.join(names)}\n" for group, names in options.groups.items())
    return string.Template(template).safe_substitute(APP_CONFIG_GROUPS=listed, CONFIG=OmegaConf.to_yaml(cfg))
