"""A checkpoint on disk: what kind of model it holds, how many bytes, and a digest of it all.

Reading one needs neither torch nor transformers, so that a run whose measurements are all in the
store starts at once.
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
"""The ending of encoder-decoders, and of decoders of text behind encoders of something else."""
_ENCODERS = ("vision", "audio", "encoder")
"""Of what a multimodal model reads beside text, as configurations name them."""
ABSENT = "absent"
"""The form of a baseline on the hub that a plan does not fetch."""
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")


States = Mapping[Path, tuple[int, ...]]


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
        multimodal: whether it reads images or sounds too; it is judged on text.
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

    @cached_property
    def digest(self) -> str:
        """Hash of the checkpoint; reads every byte once, on first use.

        Raises:
            EvalError: a file is not to be read, or changes meanwhile.
        """
        return self._hashed[0]

    @cached_property
    def _hashed(self) -> tuple[str, States]:
        """The digest, and what the files were when they were read for it."""
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
            raise _changed(before, after)
        return sha.hexdigest(), before

    def _files(self) -> dict[Path, str]:
        """Every file that is read to load it, and its name in its folder."""
        found = {}
        for folder in {self.path, self.tokenizer or self.path}:
            files = read_files(folder, weights=folder == self.path and not self.file)
            found |= {file: file.relative_to(folder).as_posix() for file in files}
        if self.file:
            found[self.path / self.file] = self.file
        return found

    def _states(self) -> States:
        """What the file system says of each file; all of it moves with any change of content."""
        found = {}
        for file in self._files():
            told = file.stat()
            found[file] = (
                told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns
            )  # fmt: skip
        return found

    def check_unchanged(self, by_content: bool = True) -> None:
        """Looks whether its files are still those that the digest is of.

        Args:
            by_content: a file that was touched is read again, and is fine if it holds the same.

        Raises:
            EvalError: names the first that is not.
        """
        before, after = self._hashed[1], self._states()
        if before != after:
            touched = replace(self)
            if not by_content or touched.digest != self.digest:
                raise _changed(before, after)
            self.__dict__["_hashed"] = touched._hashed
        if self.base is not None:
            self.base.check_unchanged(by_content)

    def with_tokenizer_of(self, baseline: "Checkpoint") -> "Checkpoint":
        """Itself, with the baseline's tokenizer where it brings none."""
        return self if self.tokenizer else replace(self, tokenizer=baseline.tokenizer)


def _changed(before: States, after: States) -> EvalError:
    moved = sorted(
        file for file in {*before, *after} if before.get(file) != after.get(file)
    )  # fmt: skip
    return EvalError(f"{moved[0]} was changed while it was read; nothing is kept, run again")


def is_on_hub(reference: str) -> bool:
    """Whether a reference is no path, so that it can only be meant for the hub."""
    path = expanded(reference)
    return not path.exists() and not reference.startswith((".", "/", "~"))


def resolve(reference: str) -> Path:
    """The directory that a path or a hub id stands for; a hub id is downloaded, at the revision
    behind ``@`` where it has one.

    Raises:
        EvalError: neither a directory nor a repository that the hub gives.
    """
    path = expanded(reference)
    if path.is_dir():
        return path
    if path.exists():
        raise EvalError(f"{reference} is a file; name the directory of a checkpoint")
    name, _, revision = reference.partition("@")
    if name.count("/") > 1 or not is_on_hub(reference):
        raise EvalError(f"{reference}: no such directory")
    from huggingface_hub import snapshot_download

    try:
        read = [*WEIGHTS, *SETTINGS]
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=read))
    except Exception as error:
        raise EvalError(
            f"{reference}: no such directory, and not to be had from the hub "
            f"({kind_and_line(error)})"
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
    if str(reference).lower().endswith(".gguf") and expanded(reference).is_file():
        return _open_gguf(expanded(reference), label)
    path = resolve(str(reference))
    if (path / ADAPTER).is_file():
        if weight_files(path):
            raise EvalError(f"{path} holds a model and an adapter; which of them is meant?")
        return _open_adapter(path, label, base)
    config = path / CONFIG
    if not config.is_file():
        packed = sorted(file.name for file in path.glob("*.gguf"))
        if packed:
            raise EvalError(f"{path}: a GGUF file is named by itself, such as {path / packed[0]}")
        raise EvalError(f"{path}: no config.json; name a checkpoint in Hugging Face format")
    read_files(path)  # each is looked at before any is read
    described = json_object(config)
    architectures = described.get("architectures") or []
    if not isinstance(architectures, list):
        raise EvalError(f"{config}: architectures = {architectures!r} is no list")
    architectures = list(map(str, architectures))
    if not _has_tokenizer(path):
        raise EvalError(f"{path}: no tokenizer; it needs one of {', '.join(_TOKENIZERS)}")
    weights = weight_files(path)
    if not weights:
        raise _no_weights(path)
    inner = described.get("text_config")
    inner = inner if isinstance(inner, dict) else {}
    form = _form(config, described.get("quantization_config") or inner.get("quantization_config"))
    check_loadable(path, form)
    kind = _kind(config, architectures, described)
    return Checkpoint(
        path=path,
        kind=kind,
        weight_bytes=sum(file.stat().st_size for file in weights),
        label=label,
        class_names=_class_names(config, described.get("id2label")),
        form=form,
        context=_context(described),
        dtype=on_one_line(str(described.get("dtype") or described.get("torch_dtype") or "")),
        tokenizer=path,
        multimodal=kind == CAUSAL and any(name.endswith(_CONDITIONAL) for name in architectures),
    )


def _no_weights(path: Path) -> EvalError:
    """Why there is nothing that transformers would load."""
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
        for name in POSITIONS:
            if isinstance(part.get(name), int):
                return part[name]
    return None


def _open_gguf(file: Path, label: str) -> Checkpoint:
    """A file as llama.cpp reads it. Its tokenizer is that of the files beside it, or the
    baseline's: what can be rebuilt from a GGUF file cuts texts otherwise than llama.cpp does."""
    check_loadable(file, GGUF)
    folder = file.parent
    if (folder / ADAPTER).is_file():  # transformers would load what that adapts
        raise EvalError(f"{folder} holds a model and an adapter; which of them is meant?")
    read_files(folder, weights=False)
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
    beside = [path / named, expanded(named)] if named else []
    here = next((folder for folder in beside if folder.is_dir()), None)
    if here is not None and (here / ADAPTER).is_file():
        raise EvalError(f"{path}: its base, {here}, is an adapter itself")
    read_files(path)
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


def check_names(checkpoint: Checkpoint, data: DataSet) -> None:
    """Raises an EvalError if a data set's classes are named as the model's, in another order."""
    own, theirs = checkpoint.class_names, data.classes
    if [name.lower() for name in own] != [name.lower() for name in theirs] and {
        name.lower() for name in own
    } == {name.lower() for name in theirs}:
        raise EvalError(
            f"data set {data.name} has its classes as {', '.join(theirs)}, the model as "
            f"{', '.join(own)}: list them in the model's order"
        )


def _form(config: Path, quantization: object) -> str:
    """``quantization_config`` in a word or two: method and, where it names one, format."""
    if not quantization:
        return PLAIN
    if not isinstance(quantization, dict) or not quantization.get("quant_method"):
        raise EvalError(f"{config}: quantization_config names no quant_method")
    words = (quantization["quant_method"], quantization.get("format"))
    return on_one_line(" ".join(str(word) for word in words if word))


def _is_encoder_decoder(described: Mapping[str, object]) -> bool:
    inner = described.get("text_config")
    parts = (described, inner if isinstance(inner, dict) else {})
    return any(bool(part.get("is_encoder_decoder")) for part in parts)


def _reads_more_than_text(described: Mapping[str, object]) -> bool:
    return any(isinstance(described.get(f"{part}_config"), dict) for part in _ENCODERS)


def _kind(config: Path, architectures: list[str], described: Mapping[str, object]) -> str:
    heads = dict(_HEADS)
    if _is_encoder_decoder(described):
        heads[_CONDITIONAL] = SEQ2SEQ
    elif _reads_more_than_text(described):
        heads[_CONDITIONAL] = CAUSAL  # they generate text from text alone, too
    for architecture in architectures:
        for ending, kind in heads.items():
            if architecture.endswith(ending):
                return kind
    raise EvalError(
        f"{config}: architectures = {architectures} is no model that generates, classifies or "
        "answers from text"
    )
