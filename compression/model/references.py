"""Check references to models, directories or hub ids, before anything is loaded.

This module does not import torch.
"""

import os
import re
from pathlib import Path

from compression_gates.compression.errors import CompressionError
from compression_gates.compression.recipe import Step

_HUB_ID = re.compile(r"(?!.*(\.\.|--))\w[\w.-]{0,95}(/\w[\w.-]{0,95})?", re.ASCII)
"""``NAME`` or ``OWNER/NAME``."""


def helpers(step: Step) -> list[tuple[str, str]]:
    """Return setting and reference of each model that a step uses to generate further texts."""
    generator = step.settings.get("generate")
    generators = [] if generator is None else [("generate", generator)]
    return generators + [("translate", name) for name in step.settings.get("translate", ())]


def check_helpers(step: Step) -> None:
    """Raise a CompressionError if a reference returned by :func:`helpers` is invalid."""
    for setting, name in helpers(step):
        check_reference(name, f"{setting} =")


def check_reference(name: str, option: str) -> str:
    """Return the directory or hub id that ``name`` refers to.

    Raises:
        CompressionError: ``name`` is a path, but not the directory of a safetensors checkpoint.
    """
    try:
        path = Path(os.path.expanduser(name))  # unchanged if there is no such user
        exists = path.exists()
    except (OSError, ValueError):  # a name too long, a zero byte
        exists = False
    if not exists:
        # Anything else would be sent to the hub, including a mistyped path.
        if not _HUB_ID.fullmatch(name) or ("/" in name and os.path.lexists(name.split("/")[0])):
            raise CompressionError(f"{option} {name}: no such directory")
        return name
    if not path.is_dir():
        raise CompressionError(f"{option} {name} is a file; give the directory of a checkpoint")
    if not (path / "config.json").is_file():
        raise CompressionError(f"{option} {name}: no config.json; give a Hugging Face checkpoint")
    if not any(path.glob("*.safetensors")):
        raise CompressionError(f"{option} {name}: no *.safetensors file; convert it to safetensors")
    return str(path)
