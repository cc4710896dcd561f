"""A checkpoint on disk: what kind of model it holds, how many bytes, and a digest of it all.

Reading one needs neither torch nor transformers, so that a run whose measurements are all in the
store starts at once.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from evals.data import DataSet
from evals.errors import EvalError, first_line
from evals.foreign_text import on_one_line
from evals.formats import GGUF, LORA, PLAIN, check_loadable

CAUSAL, CLASSIFIER, EXTRACTIVE, SEQ2SEQ = "causal", "classifier", "extractive", "seq2seq"
LOG = "log"
"""The kind of what was measured elsewhere, and is read from a log."""
_HEADS = {
    "ForCausalLM": CAUSAL,
    "LMHeadModel": CAUSAL,
    "ForSequenceClassification": CLASSIFIER,
    "ForQuestionAnswering": EXTRACTIVE,
    "ForConditionalGeneration": SEQ2SEQ,
}
ABSENT = "absent"
"""The form of a baseline on the hub that a plan does not fetch."""
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_HUB_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.py")


@dataclass(frozen=True)
class Checkpoint:
    """A directory in Hugging Face format, a GGUF file, or a LoRA adapter and its base.

    Attributes:
        path: the directory.
        kind: ``causal``, ``classifier``, ``extractive`` or ``seq2seq``.
        weight_bytes: size of the files that a loader reads weights from.
        label: how the report calls it.
        class_names: names of the classes by index, where the configuration gives them.
        form: how the weights are stored: ``plain``, or the name of a quantized format.
        context: positions that the configuration names, or None.
        dtype: that it names, or nothing.
        file: the GGUF file in ``path``, or nothing.
        base: what an adapter adapts, or None.
        tokenizer: the directory of its tokenizer; None where it brings none.
    """

    path: Path
    kind: str
    weight_bytes: int
    label: str
    class_names: tuple[str, ...] = ()
    form: str = PLAIN
    context: int | None = None
    dtype: str = ""
    file: str = ""
    base: "Checkpoint | None" = None
    tokenizer: Path | None = None

    @cached_property
    def digest(self) -> str:
        """Hash of the checkpoint; reads every byte once, on first use."""
        sha = hashlib.sha256()
        folders = {self.path, self.tokenizer or self.path}
        files = {f for folder in folders for name in _HUB_FILES for f in folder.glob(name)}
        if self.file:
            files.add(self.path / self.file)
        for file in sorted(file for file in files if file.is_file()):
            sha.update(f"{file.name}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 24):
                    sha.update(chunk)
        if self.base is not None:
            sha.update(self.base.digest.encode())
        return sha.hexdigest()

    def with_tokenizer_of(self, baseline: "Checkpoint") -> "Checkpoint":
        """Itself, with the baseline's tokenizer where it brings none."""
        return self if self.tokenizer else replace(self, tokenizer=baseline.tokenizer)


def is_on_hub(reference: str) -> bool:
    """Whether a reference is no path, so that it can only be meant for the hub."""
    path = Path(reference).expanduser()
    return not path.exists() and not reference.startswith((".", "/", "~"))


def resolve(reference: str) -> Path:
    """The directory that a path or a hub id stands for; a hub id is downloaded, at the revision
    behind ``@`` where it has one.

    Raises:
        EvalError: neither a directory nor a repository that the hub gives.
    """
    path = Path(reference).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise EvalError(f"{reference} is a file; name the directory of a checkpoint")
    name, _, revision = reference.partition("@")
    if name.count("/") > 1 or not is_on_hub(reference):
        raise EvalError(f"{reference}: no such directory")
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(name, revision=revision or None, allow_patterns=list(_HUB_FILES))
        return Path(found)
    except Exception as error:
        raise EvalError(
            f"{reference}: no such directory, and not to be had from the hub "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error


def open_checkpoint(
    reference: str | Path, label: str | None = None, base: Checkpoint | None = None
) -> Checkpoint:
    """Reads what a checkpoint is, without loading it.

    Args:
        reference: a directory, a GGUF file or a hub id.
        label: how the report calls it.
        base: what an adapter adapts where the one that it names is not here.

    Raises:
        EvalError: not a checkpoint, pickled weights only, a form whose package is not installed, or
            a kind that no scorer knows.
    """
    try:
        return _open(reference, label, base)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise EvalError(f"{on_one_line(str(reference))[:120]}: {reason}") from error


def _open(reference: str | Path, label: str | None, base: Checkpoint | None) -> Checkpoint:
    label = label or on_one_line(Path(reference).resolve().name.partition("@")[0])
    if str(reference).lower().endswith(".gguf") and Path(reference).expanduser().is_file():
        return _open_gguf(Path(reference).expanduser(), label)
    path = resolve(str(reference))
    if (path / ADAPTER).is_file():
        if weight_files(path, leave=ADAPTER_WEIGHTS):
            raise EvalError(f"{path} holds a model and an adapter; which of them is meant?")
        return _open_adapter(path, label, base)
    config = path / "config.json"
    if not config.is_file():
        packed = sorted(file.name for file in path.glob("*.gguf"))
        if packed:
            raise EvalError(f"{path}: a GGUF file is named by itself, such as {path / packed[0]}")
        raise EvalError(f"{path}: no config.json; name a checkpoint in Hugging Face format")
    described = json_object(config)
    architectures = described.get("architectures") or []
    if not isinstance(architectures, list):
        raise EvalError(f"{config}: architectures = {architectures!r} is no list")
    architectures = list(map(str, architectures))
    if not _has_tokenizer(path):
        raise EvalError(f"{path}: no tokenizer; it needs one of {', '.join(_TOKENIZERS)}")
    weights = weight_files(path)
    if not weights:
        pickled = next((f.name for pattern in _PICKLED for f in path.glob(pattern)), None)
        if pickled:
            raise EvalError(f"{path}: {pickled} is pickled; convert the weights to safetensors")
        raise EvalError(f"{path}: no *.safetensors file")
    inner = described.get("text_config")
    inner = inner if isinstance(inner, dict) else {}
    form = _form(config, described.get("quantization_config") or inner.get("quantization_config"))
    check_loadable(path, form)
    return Checkpoint(
        path=path,
        kind=_kind(config, architectures, bool(described.get("is_encoder_decoder"))),
        weight_bytes=sum(file.stat().st_size for file in weights),
        label=label,
        class_names=_class_names(config, described.get("id2label")),
        form=form,
        context=_context(described),
        dtype=on_one_line(str(described.get("dtype") or described.get("torch_dtype") or "")),
        tokenizer=path,
    )


def _class_names(config: Path, named: object) -> tuple[str, ...]:
    """Names in the order of their indices, whatever the order of the file."""
    if not named:
        return ()
    try:
        return tuple(str(named[key]) for key in sorted(named, key=int))
    except (TypeError, ValueError) as error:
        raise EvalError(f"{config}: id2label is no table of names by index") from error


def _context(described: Mapping[str, object]) -> int | None:
    """Positions that a configuration names, by whichever of its families' names."""
    inner = described.get("text_config")
    for part in (described, inner if isinstance(inner, dict) else {}):
        for name in _POSITIONS:
            if isinstance(part.get(name), int):
                return part[name]
    return None


def json_object(file: Path) -> dict:
    """What a JSON file holds.

    Raises:
        EvalError: it cannot be read, or holds no object.
    """
    try:
        described = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise EvalError(f"{file}: not a JSON object ({error})") from error
    if not isinstance(described, dict):
        raise EvalError(f"{file}: not a JSON object")
    return described


def _open_gguf(file: Path, label: str) -> Checkpoint:
    """A file as llama.cpp reads it. Its tokenizer is that of the files beside it, or the
    baseline's: what can be rebuilt from a GGUF file cuts texts otherwise than llama.cpp does."""
    check_loadable(file, GGUF)
    folder = file.parent
    return Checkpoint(
        path=folder, kind=CAUSAL, weight_bytes=file.stat().st_size, label=label, form=GGUF,
        file=file.name, tokenizer=folder if _has_tokenizer(folder) else None,
    )  # fmt: skip


def _open_adapter(path: Path, label: str, base: Checkpoint | None) -> Checkpoint:
    """A LoRA adapter, merged with its base for judging."""
    check_loadable(path, LORA)
    weights = path / ADAPTER_WEIGHTS
    if not weights.is_file():
        pickled = (path / ADAPTER_WEIGHTS).with_suffix(".bin")
        if pickled.is_file():
            raise EvalError(f"{path}: {pickled.name} is pickled; convert it to safetensors")
        raise EvalError(f"{path}: no {ADAPTER_WEIGHTS}")
    described = json_object(path / ADAPTER)
    named = described.get("base_model_name_or_path")
    if named is not None and (not isinstance(named, str) or not named.isprintable()):
        raise EvalError(f"{path}: {ADAPTER} names {named!r} as its base")
    beside = [path / named, Path(named).expanduser()] if named else []
    here = next((folder for folder in beside if folder.is_dir()), None)
    if here is not None and (here / ADAPTER).is_file():
        raise EvalError(f"{path}: its base, {here}, is an adapter itself")
    if here is not None:
        base = open_checkpoint(here)
    elif not named:
        raise EvalError(f"{path}: {ADAPTER} names no base_model_name_or_path")
    elif base is None or base.label != Path(str(named)).name:
        base = open_checkpoint(str(named))
    return replace(
        base,
        path=path,
        label=label,
        weight_bytes=base.weight_bytes + weights.stat().st_size,
        form=LORA if base.form == PLAIN else f"{LORA} on {base.form}",
        base=base,
        tokenizer=path if _has_tokenizer(path) else base.tokenizer,
    )


def _has_tokenizer(path: Path) -> bool:
    return any(file.is_file() for name in _TOKENIZERS for file in path.glob(name))


def check_same_labels(baseline: Checkpoint, candidate: Checkpoint) -> None:
    """Raises an EvalError if the two call their classes differently."""
    if baseline.class_names != candidate.class_names:
        raise EvalError(
            f"the label maps differ: {', '.join(candidate.class_names)} for the candidate, "
            f"{', '.join(baseline.class_names)} for the baseline"
        )


def check_readable(checkpoint: Checkpoint) -> None:
    """Raises an EvalError for a file of weights that is cut off or is none, from its header; those
    that an adapter adapts included."""
    from safetensors import SafetensorError, safe_open

    if checkpoint.base is not None:
        check_readable(checkpoint.base)
    if checkpoint.file:
        _check_gguf(checkpoint.path / checkpoint.file)
    for file in () if checkpoint.file else weight_files(checkpoint.path):
        try:
            with safe_open(file, "np"):
                pass
        except (OSError, SafetensorError) as error:
            raise EvalError(f"{file} does not load: {type(error).__name__}: {error}") from error


def _check_gguf(file: Path) -> None:
    from gguf import GGUFReader

    try:
        GGUFReader(file)
    except Exception as error:  # whatever its parts are read as
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise EvalError(f"{file} does not load: {reason}") from error


def check_names(checkpoint: Checkpoint, data: DataSet) -> None:
    """Raises an EvalError if a data set's classes are named as the model's, in another order."""
    own, theirs = checkpoint.class_names, data.how.get("classes", ())
    if [name.lower() for name in own] != [name.lower() for name in theirs] and {
        name.lower() for name in own
    } == {name.lower() for name in theirs}:
        raise EvalError(
            f"data set {data.name} has its classes as {', '.join(theirs)}, the model as "
            f"{', '.join(own)}: list them in the model's order"
        )


def weight_files(path: Path, leave: str = "") -> list[Path]:
    """The files that a loader reads; a directory may hold the same weights in another layout."""
    whole, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if index.is_file():
        try:
            names = set(json.loads(index.read_bytes())["weight_map"].values())
            missing = sorted(name for name in names if not (path / name).is_file())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise EvalError(f"{index}: not an index of weights") from error
        if missing:
            raise EvalError(f"{path}: {missing[0]} is missing, which {index.name} names")
        return sorted(path / name for name in names)
    return sorted(file for file in path.glob("*.safetensors") if file.name != leave)


def _form(config: Path, quantization: object) -> str:
    """``quantization_config`` in a word or two: method and, where it names one, format."""
    if not quantization:
        return PLAIN
    if not isinstance(quantization, dict) or not quantization.get("quant_method"):
        raise EvalError(f"{config}: quantization_config names no quant_method")
    words = (quantization["quant_method"], quantization.get("format"))
    return on_one_line(" ".join(str(word) for word in words if word))


def _kind(config: Path, architectures: list[str], encoder_decoder: bool) -> str:
    for architecture in architectures:
        for ending, kind in _HEADS.items():
            # Models of text and images are for conditional generation too.
            if architecture.endswith(ending) and (kind != SEQ2SEQ or encoder_decoder):
                return kind
    raise EvalError(
        f"{config}: architectures = {architectures} is no model that generates, classifies or "
        "answers from text"
    )
