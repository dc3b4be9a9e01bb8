"""The launchers that nnlab registers, beside those of Hydra's plugins."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.reliability import studies

# As Hydra's plugin for Ray has it: imported by one of its launchers, whenever Hydra finds that.
CONFIG = """
from dataclasses import dataclass
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

@dataclass
class RayLauncherConf:
    _target_: str = "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher"

OmegaConf.register_new_resolver("ray_pkg_version", str)  # fails the second time
ConfigStore.instance().store("ray", RayLauncherConf, group="hydra/launcher")
"""
LAUNCHER = """
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from ._config import RayLauncherConf

class RayLauncher(BasicLauncher):
    pass
"""


@pytest.mark.parametrize("first", [True, False])
def test_ray_is_nnlabs_and_hydras_has_another_name(
    first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = tmp_path / "site/hydra_plugins/hydra_ray_launcher"
    plugin.mkdir(parents=True)
    for name, text in (("__init__", ""), ("_config", CONFIG), ("ray_launcher", LAUNCHER)):
        (plugin / f"{name}.py").write_text(text)
    paths = [str(tmp_path / "site"), str(Path(__file__).parents[1] / "src")]
    monkeypatch.setitem(
        studies.ENVIRONMENT, "PYTHONPATH", os.pathsep.join(paths if first else paths[::-1])
    )
    for name, target in (("ray", "BatchLauncher"), ("hydra_ray", "ray_launcher.RayLauncher")):
        ended = studies.run(f"hydra/launcher={name}", "--cfg", "hydra", cwd=tmp_path)
        assert ended.status == 0, ended.said
        assert f"{target}\n" in ended.out
    quick = ("train_size=20", "test_size=10", "stopping.max_epochs=1", "seed=0,1", "-m")
    ended = studies.run("hydra/launcher=hydra_ray", *quick, cwd=tmp_path)
    assert ended.status == 0, ended.said
