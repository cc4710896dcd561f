"""Checkpoints on disk: kind of model, format, size and digest.

Opening a checkpoint imports neither torch nor transformers, so that a run whose measurements are
all in the store starts quickly.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from compression_gates.evals.checkpoints.files import (
    CONFIG,
    INDEX,
    SETTINGS,
    WEIGHTS,
    WHOLE,
    json_object,
    pickled_weights,
    read_files,
    weight_files,
)
from compression_gates.evals.checkpoints.formats import GGUF, LORA, PLAIN, check_loadable
from compression_gates.evals.checkpoints.names import POSITIONS
from compression_gates.evals.data.items import DataSet
from compression_gates.evals.data.paths import expanded
from compression_gates.evals.errors import EvalError, kind_and_line
from compression_gates.evals.foreign_text import on_one_line

CAUSAL, CLASSIFIER, EXTRACTIVE, SEQ2SEQ = "causal", "classifier", "extractive", "seq2seq"
LOG = "log"
"""The kind of what was measured elsewhere, and is read from a log."""
_HEADS = {
    "ForCausalLM": CAUSAL,
    "LMHeadModel": CAUSAL,
    "ForSequenceClassification": CLASSIFIER,
    "ForQuestionAnswering": EXTRACTIVE,
}
_CONDITIONAL = "ForConditionalGeneration"
"""Suffix of the names of encoder-decoders, and of models that also read images or sounds."""
_ENCODERS = ("vision", "audio", "encoder")
"""Names of the encoders of multimodal models, without ``_config``."""
ABSENT = "absent"
"""The form of a baseline on the hub that a plan does not download."""
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
FileStates = Mapping[Path, tuple[int, ...]]


@dataclass(frozen=True)
class Checkpoint:
    """A directory in Hugging Face format, a GGUF file, or a LoRA adapter and its base.

    Attributes:
        path: the directory.
        kind: ``causal``, ``classifier``, ``extractive`` or ``seq2seq``.
        weight_bytes: size of the files that a loader reads weights from.
        label: its name in the report.
        class_names: names of the classes by index; empty if the configuration has none.
        form: format of the weights: ``plain``, or the name of a quantized format.
        context: maximum number of positions in the configuration, or None.
        dtype: dtype in the configuration, or an empty string.
        file: name of the GGUF file in ``path``, or an empty string.
        base: the model that an adapter adapts, or None.
        tokenizer: the directory of its tokenizer, or None.
        multimodal: whether it also reads images or sounds; it is judged on text only.
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
    multimodal: bool = False

    @property
    def source(self) -> "Checkpoint":
        """The checkpoint of the model itself: the base of an adapter, otherwise this one."""
        return self.base or self

    @cached_property
    def digest(self) -> str:
        """Hash of all files that are loaded. On first use, every byte is read once.

        Raises:
            EvalError: a file must not be read, or changes while it is read.
        """
        return self._hashed[0]

    @cached_property
    def _hashed(self) -> tuple[str, FileStates]:
        """The digest, and the states of the files when they were read for it."""
        before = self._states()
        sha = hashlib.sha256()
        for file, name in sorted(self._files().items()):
            sha.update(f"{name}\0{file.stat().st_size}\0".encode(errors="surrogateescape"))
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 24):
                    sha.update(chunk)
        if self.base is not None:
            sha.update(self.base.digest.encode())
        if (after := self._states()) != before:
            raise _changed_error(before, after)
        return sha.hexdigest(), before

    def _files(self) -> dict[Path, str]:
        """Return every file that is loaded, and its name in its folder."""
        names = {}
        for folder in {self.path, self.tokenizer or self.path}:
            files = read_files(folder, weights=folder == self.path and not self.file)
            names |= {file: file.relative_to(folder).as_posix() for file in files}
        if self.file:
            names[self.path / self.file] = self.file
        return names

    def _states(self) -> FileStates:
        """Return the metadata of each file; a change of content always changes some of it."""
        states = {}
        for file in self._files():
            stat = file.stat()
            states[file] = (
                stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
            )  # fmt: skip
        return states

    def check_unchanged(self, by_content: bool = True) -> None:
        """Check that the files are still those of which the digest was computed.

        Args:
            by_content: if only metadata changed, hash the files again and compare the digests.

        Raises:
            EvalError: names the first file that changed.
        """
        before, after = self._hashed[1], self._states()
        if before != after:
            touched = replace(self)
            if not by_content or touched.digest != self.digest:
                raise _changed_error(before, after)
            self.__dict__["_hashed"] = touched._hashed
        if self.base is not None:
            self.base.check_unchanged(by_content)

    def with_tokenizer_of(self, baseline: "Checkpoint") -> "Checkpoint":
        """Return the checkpoint, with the baseline's tokenizer if it has none."""
        return self if self.tokenizer else replace(self, tokenizer=baseline.tokenizer)


def _changed_error(before: FileStates, after: FileStates) -> EvalError:
    file = min(file for file in {*before, *after} if before.get(file) != after.get(file))
    return EvalError(f"{file} was changed while it was read; nothing is stored, run again")


def is_on_hub(reference: str) -> bool:
    """Return whether a reference can only be a hub id, because it is not a path."""
    path = expanded(reference)
    return not path.exists() and not reference.startswith((".", "/", "~"))


def resolve(reference: str) -> Path:
    """Return the directory of a checkpoint; download it if the reference is a hub id.

    Args:
        reference: a path, or a hub id, optionally followed by ``@`` and a revision.

    Raises:
        EvalError: there is no such directory, and the hub has no such repository.
    """
    path = expanded(reference)
    if path.is_dir():
        return path
    if path.exists():
        raise EvalError(f"{reference} is a file; give the directory of a checkpoint")
    name, _, revision = reference.partition("@")
    if name.count("/") > 1 or not is_on_hub(reference):
        raise EvalError(f"{reference}: no such directory")
    from huggingface_hub import snapshot_download

    try:
        patterns = [*WEIGHTS, *SETTINGS]
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
    except Exception as error:
        raise EvalError(
            f"{reference}: no such directory, and it cannot be downloaded from the hub "
            f"({kind_and_line(error)})"
        ) from error


def open_checkpoint(
    reference: str | Path, label: str | None = None, base: Checkpoint | None = None
) -> Checkpoint:
    """Open a checkpoint without loading its weights.

    Args:
        reference: a directory, a GGUF file or a hub id.
        label: its name in the report; by default the name of the file or directory.
        base: the base of an adapter, if the path that the adapter names does not exist.

    Raises:
        EvalError: it is not a checkpoint, has only pickled weights, needs a package that is not
            installed, or holds a kind of model that cannot be judged.
    """
    try:
        return _open(reference, label, base)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise EvalError(f"{on_one_line(str(reference))[:120]}: {reason}") from error


def _open(reference: str | Path, label: str | None, base: Checkpoint | None) -> Checkpoint:
    label = label or on_one_line(Path(reference).resolve().name.partition("@")[0])
    if str(reference).lower().endswith(".gguf") and expanded(reference).is_file():
        return _open_gguf(expanded(reference), label)
    path = resolve(str(reference))
    if (path / ADAPTER).is_file():
        if weight_files(path):
            raise _ambiguous_error(path)
        return _open_adapter(path, label, base)
    config = path / CONFIG
    if not config.is_file():
        gguf_files = sorted(path.glob("*.gguf"))
        if gguf_files:
            raise EvalError(f"{path}: give the GGUF file itself, such as {gguf_files[0]}")
        raise EvalError(f"{path}: no config.json; give a checkpoint in Hugging Face format")
    read_files(path)  # checks all files before any of them is read
    settings = json_object(config)
    architectures = settings.get("architectures") or []
    if not isinstance(architectures, list):
        raise EvalError(f"{config}: architectures = {architectures!r} is not a list")
    architectures = list(map(str, architectures))
    if not _has_tokenizer(path):
        raise EvalError(f"{path}: no tokenizer; it needs one of {', '.join(_TOKENIZERS)}")
    weights = weight_files(path)
    if not weights:
        raise _no_weights_error(path)
    form = _form(config, settings)
    check_loadable(path, form)
    kind = _kind(config, architectures, settings)
    return Checkpoint(
        path=path,
        kind=kind,
        weight_bytes=sum(file.stat().st_size for file in weights),
        label=label,
        class_names=_class_names(config, settings.get("id2label")),
        form=form,
        context=_context(settings),
        dtype=on_one_line(str(settings.get("dtype") or settings.get("torch_dtype") or "")),
        tokenizer=path,
        multimodal=kind == CAUSAL and any(name.endswith(_CONDITIONAL) for name in architectures),
    )


def _ambiguous_error(path: Path) -> EvalError:
    return EvalError(f"{path} holds both a model and an adapter; remove one of them")


def _no_weights_error(path: Path) -> EvalError:
    """Return the reason why transformers would find no weights."""
    pickled = pickled_weights(path)
    if pickled:
        return EvalError(f"{path}: {pickled} is pickled; convert the weights to safetensors")
    other = next((file.name for file in sorted(path.glob("*.safetensors"))), None)
    if other:
        return EvalError(
            f"{path}: transformers reads {WHOLE} or the shards of {INDEX}, not {other}; rename it, "
            "or save the model again"
        )
    return EvalError(f"{path}: no *.safetensors file")


def _class_names(config: Path, id2label: object) -> tuple[str, ...]:
    """Return the names of the classes in the order of their indices."""
    if not id2label:
        return ()
    try:
        return tuple(str(id2label[key]) for key in sorted(id2label, key=int))
    except (TypeError, ValueError) as error:
        raise EvalError(f"{config}: id2label does not map indices to names") from error


def _with_text_config(settings: Mapping[str, object]) -> tuple[Mapping[str, object], ...]:
    """Return a configuration and the configuration of its text model, empty if it has none."""
    inner = settings.get("text_config")
    return settings, inner if isinstance(inner, dict) else {}


def _context(settings: Mapping[str, object]) -> int | None:
    """Return the maximum number of positions, which architectures name differently."""
    for part in _with_text_config(settings):
        for name in POSITIONS:
            if isinstance(part.get(name), int):
                return part[name]
    return None


def _open_gguf(file: Path, label: str) -> Checkpoint:
    """Open a GGUF file.

    Its tokenizer is read from the files beside it, or is the baseline's. The tokenizer that
    transformers can rebuild from the GGUF file itself splits texts differently than llama.cpp does.
    """
    check_loadable(file, GGUF)
    folder = file.parent
    if (folder / ADAPTER).is_file():  # transformers would load the base of the adapter
        raise _ambiguous_error(folder)
    read_files(folder, weights=False)
    return Checkpoint(
        path=folder, kind=CAUSAL, weight_bytes=file.stat().st_size, label=label, form=GGUF,
        file=file.name, tokenizer=folder if _has_tokenizer(folder) else None,
    )  # fmt: skip


def _open_adapter(path: Path, label: str, base: Checkpoint | None) -> Checkpoint:
    """Open a LoRA adapter, which is judged merged with its base."""
    check_loadable(path, LORA)
    weights = path / ADAPTER_WEIGHTS
    if not weights.is_file():
        pickled = weights.with_suffix(".bin")
        if pickled.is_file():
            raise EvalError(f"{path}: {pickled.name} is pickled; convert it to safetensors")
        raise EvalError(f"{path}: no {ADAPTER_WEIGHTS}")
    name = json_object(path / ADAPTER).get("base_model_name_or_path")
    if name is not None and (not isinstance(name, str) or not name.isprintable()):
        raise EvalError(f"{path}: {ADAPTER}: base_model_name_or_path = {name!r} is not a name")
    candidates = [path / name, expanded(name)] if name else []
    folder = next((candidate for candidate in candidates if candidate.is_dir()), None)
    if folder is not None and (folder / ADAPTER).is_file():
        raise EvalError(f"{path}: its base, {folder}, is itself an adapter")
    read_files(path)
    if folder is not None:
        base = open_checkpoint(folder)
    elif not name:
        raise EvalError(f"{path}: {ADAPTER} has no base_model_name_or_path")
    elif base is None or base.label != Path(name).name:
        base = open_checkpoint(name)
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


def check_names(checkpoint: Checkpoint, data: DataSet) -> None:
    """Raise an EvalError if a data set lists the model's classes in another order."""
    names, classes = checkpoint.class_names, data.classes
    model_order, data_order = ([name.lower() for name in side] for side in (names, classes))
    if model_order != data_order and {*model_order} == {*data_order}:
        raise EvalError(
            f"data set {data.name} has the classes {', '.join(classes)}, but the model has "
            f"{', '.join(names)}: list them in the model's order"
        )


def _form(config: Path, settings: Mapping[str, object]) -> str:
    """Return the method and, if there is one, the format in ``quantization_config``."""
    parts = _with_text_config(settings)
    quantization = next(filter(None, (part.get("quantization_config") for part in parts)), None)
    if not quantization:
        return PLAIN
    if not isinstance(quantization, dict) or not quantization.get("quant_method"):
        raise EvalError(f"{config}: quantization_config has no quant_method")
    words = (quantization["quant_method"], quantization.get("format"))
    return on_one_line(" ".join(str(word) for word in words if word))


def _kind(config: Path, architectures: list[str], settings: Mapping[str, object]) -> str:
    heads = dict(_HEADS)
    if any(part.get("is_encoder_decoder") for part in _with_text_config(settings)):
        heads[_CONDITIONAL] = SEQ2SEQ
    elif any(isinstance(settings.get(f"{part}_config"), dict) for part in _ENCODERS):
        heads[_CONDITIONAL] = CAUSAL  # such a model also generates from text alone
    for architecture in architectures:
        for ending, kind in heads.items():
            if architecture.endswith(ending):
                return kind
    raise EvalError(
        f"{config}: architectures = {architectures} is no model that generates text, classifies "
        "it, or extracts answers from it"
    )
