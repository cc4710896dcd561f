"""Models that a user names beside the one that is compressed, checked before anything is loaded.

Importable without torch.
"""

import os
import re
from pathlib import Path

from compression_gates.compression.errors import CompressionError
from compression_gates.compression.recipe import Step

_HUB_ID = re.compile(r"(?!.*(\.\.|--))\w[\w.-]{0,95}(/\w[\w.-]{0,95})?", re.ASCII)
"""``NAME`` or ``OWNER/NAME``."""


def helpers(step: Step) -> list[tuple[str, str]]:
    """Setting and name of each model that a step uses to make more texts with."""
    generator = step.settings.get("generate")
    found = [] if generator is None else [("generate", generator)]
    return found + [("translate", name) for name in step.settings.get("translate", ())]


def check_helpers(step: Step) -> None:
    """Raises a CompressionError where a step names a helper that cannot be one."""
    for setting, name in helpers(step):
        check_reference(name, f"{setting} =")


def check_reference(name: str, option: str) -> str:
    """What loaders are given for a name: a directory, or an id that is left to the hub.

    Raises:
        CompressionError: what is meant as a path is no checkpoint in safetensors.
    """
    try:
        path = Path(os.path.expanduser(name))  # as it is where there is no such user
        exists = path.exists()
    except (OSError, ValueError):  # a name too long, a zero byte
        exists = False
    if not exists:
        # The hub would be asked for whatever is not here, a typing error in a path included.
        if not _HUB_ID.fullmatch(name) or ("/" in name and os.path.lexists(name.split("/")[0])):
            raise CompressionError(f"{option} {name}: no such directory")
        return name
    if not path.is_dir():
        raise CompressionError(f"{option} {name} is a file; name the directory of a checkpoint")
    if not (path / "config.json").is_file():
        raise CompressionError(f"{option} {name}: no config.json; name a Hugging Face checkpoint")
    if not any(path.glob("*.safetensors")):
        raise CompressionError(f"{option} {name}: no *.safetensors file")
    return str(path)
