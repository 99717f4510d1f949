"""What every script of ours shares: one sentence for a user's mistake, `--version`, and configs checked before work."""

import functools
import os
import string
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import UserError
from data.machine import DISTRIBUTION, toolkit_version
from experiments.cli import output
from experiments.cli.arguments import checked, make_importable, parse
from experiments.cli.keys import check_keys, known_keys, resolve
from experiments.cli.options import Options, search_path
from experiments.cli.plugins import plugins

if TYPE_CHECKING:
    from omegaconf import DictConfig

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
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    games: list[str] = []  # not empty once a game has begun: what then goes wrong is not Hydra's doing
    try:
        typed = parse(sys.argv[1:])
        sys.argv[1:] = checked([*sys.argv[1:], *(f"--config-dir={folder}" for folder in plugins())])
        make_importable(typed.folders)
        arguments = parse(sys.argv[1:])
        if arguments.is_sweep and sweeps:
            from experiments.sweeps import command as sweep_command

            code = sweep_command.main(arguments, config_name, Path(config_path))
            sys.stdout.flush()
            sys.exit(code)
        _play(entry, config_name, config_path, games)
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


def _play(entry: Entry, config_name: str, config_path: Path, games: list[str]) -> None:
    own = parse(sys.argv[1:]).folders
    options = Options((Path(config_path), *own))
    if text := help_text(config_name, options, sys.argv[1:]):
        print(text)
        return
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from experiments.cli import folders
    from experiments.cli.explain import sentence

    folders.register()
    schema = known_keys(config_path, config_name)

    @functools.wraps(entry)
    def game(cfg: "DictConfig") -> float | None:
        games.append(config_name)
        try:
            own_node = HydraConfig.get()
            every = {str(key): value for key, value in cfg.items()} | {"hydra": own_node}
            options.check(every, own_node.runtime.choices, config_name)
            check_keys(cfg, schema)
            resolve(cfg)
            return entry(cfg)
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:  # Hydra names the job that failed and goes on
                text = sentence(error)
                if text is None or isinstance(error, UserError):
                    raise
                raise UserError(text) from error
            raise _Ended from error

    sys.argv += search_path(own[:-1])  # of several, Hydra takes the last
    with _raising():
        hydra.main(version_base="1.3", config_path=str(Path(config_path).resolve()), config_name=config_name)(game)()


def help_text(config_name: str, options: Options, arguments: Sequence[str]) -> str | None:
    """What `--help` prints: the config's `hydra.help.template` filled in; None when the arguments do not ask for it.

    `$APP_CONFIG_GROUPS` becomes the groups and their options, and `$CONFIG` the configuration that the overrides among
    the arguments give. Hydra's own takes 1.5 s and more, because it composes anew for every group that it lists; other
    flags are left to it.
    """
    typed = parse(arguments)
    if not typed.flags or not {"--help", "-h"} >= set(typed.flags):
        return None
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf, open_dict

    with initialize_config_dir(str(options.folders[0].resolve()), version_base="1.3"):
        overrides = [*typed.overrides, *search_path(options.folders[1:])]
        cfg = compose(config_name, overrides=overrides, return_hydra_config=True)
    template = cfg.hydra.help.template
    with open_dict(cfg):
        del cfg["hydra"]
    listed = "".join(f"{group}: {', '.join(names)}\n" for group, names in options.groups.items())
    return string.Template(template).safe_substitute(APP_CONFIG_GROUPS=listed, CONFIG=OmegaConf.to_yaml(cfg))


@contextmanager
def _raising() -> Iterator[None]:
    """Let Hydra's errors through, which prints them in its own way and exits with 1 unless this variable is set."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        os.environ.pop("HYDRA_FULL_ERROR")
        if before is not None:
            os.environ["HYDRA_FULL_ERROR"] = before
