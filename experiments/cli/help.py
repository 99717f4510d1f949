"""The answer to `--help`. Hydra's own takes 1.5 s and more, because it composes anew for every group that it lists."""

import string
from collections.abc import Sequence
from pathlib import Path

from experiments.cli.arguments import parse


def help_text(config_name: str, config_path: Path, arguments: Sequence[str]) -> str | None:
    """What `--help` prints: the config's `hydra.help.template` filled in; None when the arguments do not ask for it.

    `$APP_CONFIG_GROUPS` becomes the groups and their options, also those of the user's `--config-dir`, and `$CONFIG`
    the configuration that the overrides among the arguments give. Arguments with other flags are left to Hydra.
    """
    if not {"--help", "-h"} & set(arguments):
        return None
    typed = parse(arguments)
    overrides, folders = typed.overrides, [Path(config_path), *typed.folders]
    if set(typed.flags) - {"--help", "-h"} or not all(folder.is_dir() for folder in folders):
        return None
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf, open_dict

    extra = ",".join(f'"file://{folder.resolve()}"' for folder in folders[1:])
    with initialize_config_dir(str(folders[0].resolve()), version_base="1.3"):
        search = [f"hydra.searchpath=[{extra}]"] if extra else []
        cfg = compose(config_name, overrides=[*overrides, *search], return_hydra_config=True)
    template = cfg.hydra.help.template
    with open_dict(cfg):
        del cfg["hydra"]
    groups = "\n".join(f"{group}: {', '.join(options)}" for group, options in _groups(folders).items())
    return string.Template(template).safe_substitute(APP_CONFIG_GROUPS=groups + "\n", CONFIG=OmegaConf.to_yaml(cfg))


def _groups(folders: Sequence[Path]) -> dict[str, list[str]]:
    """The options of every group, by name: the YAML files of the sub-folders."""
    groups: dict[str, set[str]] = {}
    for folder in folders:
        for path in folder.glob("*/**/*.yaml"):
            groups.setdefault(path.parent.relative_to(folder).as_posix(), set()).add(path.stem)
    return {group: sorted(groups[group]) for group in sorted(groups)}
