"""A checkpoint on disk: what kind of model it holds, how many bytes, and a digest of it all.

Reading one needs neither torch nor transformers, so that a run whose measurements are all in the
store starts at once.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from evals.errors import EvalError

CAUSAL, CLASSIFIER = "causal", "classifier"
PLAIN = "plain"
_HEADS = {
    "ForCausalLM": CAUSAL,
    "LMHeadModel": CAUSAL,
    "ForSequenceClassification": CLASSIFIER,
}
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_HUB_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.py")


@dataclass(frozen=True)
class Checkpoint:
    """A directory in Hugging Face format.

    Attributes:
        path: the directory.
        kind: ``causal`` or ``classifier``.
        weight_bytes: size of the safetensors files that a loader reads.
        label: how the report calls it.
        class_names: names of the classes by index, where the configuration gives them.
        form: how the weights are stored: ``plain``, or the name of a quantized format.
    """

    path: Path
    kind: str
    weight_bytes: int
    label: str
    class_names: tuple[str, ...] = ()
    form: str = PLAIN

    @cached_property
    def digest(self) -> str:
        """Hash of the checkpoint; reads every byte once, on first use."""
        sha = hashlib.sha256()
        files = {f for pattern in _HUB_FILES for f in self.path.glob(pattern) if f.is_file()}
        for file in sorted(files):
            sha.update(f"{file.name}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 24):
                    sha.update(chunk)
        return sha.hexdigest()


def resolve(reference: str) -> Path:
    """The directory that a path or a hub id stands for; a hub id is downloaded.

    Raises:
        EvalError: neither a directory nor a repository that the hub gives.
    """
    path = Path(reference).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise EvalError(f"{reference} is a file; name the directory of a checkpoint")
    if reference.count("/") > 1 or reference.startswith((".", "/", "~")):
        raise EvalError(f"{reference}: no such directory")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(reference, allow_patterns=list(_HUB_FILES)))
    except Exception as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise EvalError(
            f"{reference}: no such directory, and not to be had from the hub "
            f"({type(error).__name__}: {reason})"
        ) from error


def open_checkpoint(reference: str | Path, label: str | None = None) -> Checkpoint:
    """Reads what a checkpoint is, without loading it.

    Raises:
        EvalError: not a checkpoint, pickled weights only, or a kind that no scorer knows.
    """
    path = resolve(str(reference))
    config = path / "config.json"
    if not config.is_file():
        raise EvalError(f"{path}: no config.json; name a checkpoint in Hugging Face format")
    try:
        described = json.loads(config.read_bytes())
        architectures = [str(name) for name in described.get("architectures") or []]
    except (ValueError, AttributeError, TypeError) as error:
        raise EvalError(f"{config}: not a JSON object ({error})") from error
    if not any(file.is_file() for name in _TOKENIZERS for file in path.glob(name)):
        raise EvalError(f"{path}: no tokenizer; it needs one of {', '.join(_TOKENIZERS)}")
    weights = _weight_files(path)
    if not weights:
        pickled = next((f.name for pattern in _PICKLED for f in path.glob(pattern)), None)
        if pickled:
            raise EvalError(f"{path}: {pickled} is pickled; convert the weights to safetensors")
        raise EvalError(f"{path}: no *.safetensors file")
    return Checkpoint(
        path=path,
        kind=_kind(config, architectures),
        weight_bytes=sum(file.stat().st_size for file in weights),
        label=label or printable(Path(reference).resolve().name),
        class_names=tuple(map(str, (described.get("id2label") or {}).values())),
        form=_form(described.get("quantization_config")),
    )


def printable(name: str) -> str:
    """``name`` on one line and in valid UTF-8, for ids and reports."""
    safe = os.fsencode(name).decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in safe)


def check_same_labels(baseline: Checkpoint, candidate: Checkpoint) -> None:
    """Raises an EvalError if the two call their classes differently."""
    if baseline.class_names != candidate.class_names:
        raise EvalError(
            f"the label maps differ: {', '.join(candidate.class_names)} for the candidate, "
            f"{', '.join(baseline.class_names)} for the baseline"
        )


def _weight_files(path: Path) -> list[Path]:
    """The files that a loader reads; a directory may hold the same weights in another layout."""
    whole, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if index.is_file():
        try:
            names = set(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EvalError(f"{index}: not an index of weights") from error
        missing = sorted(name for name in names if not (path / name).is_file())
        if missing:
            raise EvalError(f"{path}: {missing[0]} is missing, which {index.name} names")
        return sorted(path / name for name in names)
    return sorted(path.glob("*.safetensors"))


def _form(quantization: object) -> str:
    """``quantization_config`` in a word or two: method and, where it names one, format."""
    if not quantization:
        return PLAIN
    if not isinstance(quantization, dict):
        return "unknown"
    words = (quantization.get("quant_method"), quantization.get("format"))
    return printable(" ".join(str(word) for word in words if word)) or "unknown"


def _kind(config: Path, architectures: list[str]) -> str:
    for architecture in architectures:
        for ending, kind in _HEADS.items():
            if architecture.endswith(ending):
                return kind
    raise EvalError(
        f"{config}: architectures = {architectures} is neither a causal language model "
        "nor a sequence classifier"
    )
