"""The answer to `--help`. Hydra's own takes 1.5 s and more, because it composes anew for every group that it lists."""

import string
from collections.abc import Sequence
from pathlib import Path

from experiments.cli.arguments import parse
from experiments.cli.options import Options, search_path


def help_text(config_name: str, config_path: Path, arguments: Sequence[str]) -> str | None:
    """What `--help` prints: the config's `hydra.help.template` filled in; None when the arguments do not ask for it.

    `$APP_CONFIG_GROUPS` becomes the groups and their options, also those of `--config-dir` and of plug-ins, and
    `$CONFIG` the configuration that the overrides among the arguments give. Other flags are left to Hydra.
    """
    typed = parse(arguments)
    if not typed.flags or not {"--help", "-h"} >= set(typed.flags):
        return None
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf, open_dict

    with initialize_config_dir(str(config_path.resolve()), version_base="1.3"):
        overrides = [*typed.overrides, *search_path(typed.folders)]
        cfg = compose(config_name, overrides=overrides, return_hydra_config=True)
    template = cfg.hydra.help.template
    with open_dict(cfg):
        del cfg["hydra"]
    groups = Options((config_path, *typed.folders)).groups.items()
    listed = "".join(f"{group}: {', '.join(names)}\n" for group, names in groups)
    return string.Template(template).safe_substitute(APP_CONFIG_GROUPS=listed, CONFIG=OmegaConf.to_yaml(cfg))
