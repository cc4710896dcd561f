"""Models that a user names beside the one that is compressed, checked before anything is loaded.

Importable without torch.
"""

import os
from pathlib import Path

from compression.errors import CompressionError
from compression.recipe import Step


def helpers(step: Step) -> list[tuple[str, str]]:
    """Setting and name of each model that a step uses to make more texts with."""
    generator = step.settings.get("generate")
    found = [] if generator is None else [("generate", generator)]
    return found + [("translate", name) for name in step.settings.get("translate", ())]


def check_helpers(step: Step) -> None:
    """Raises a CompressionError where a step names a helper that cannot be one."""
    for setting, name in helpers(step):
        check_reference(name, f"{setting} =")


def check_reference(name: str, option: str) -> None:
    """Raises a CompressionError for what is meant as a path and is no checkpoint in safetensors.

    A name that may be a hub id is left to the hub.
    """
    path = Path(os.path.expanduser(name))  # as it is where there is no such user
    if not path.exists():
        if name.count("/") > 1 or name.startswith((".", "/", "~")):
            raise CompressionError(f"{option} {name}: no such directory")
        return
    if not path.is_dir():
        raise CompressionError(f"{option} {name} is a file; name the directory of a checkpoint")
    if not (path / "config.json").is_file():
        raise CompressionError(f"{option} {name}: no config.json; name a Hugging Face checkpoint")
    if not any(path.glob("*.safetensors")):
        raise CompressionError(f"{option} {name}: no *.safetensors file")
