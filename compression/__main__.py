"""Compress a model and save it as a checkpoint.

    compression-gates compress RECIPE --model ID_OR_DIR --output DIR [--data FILE]
    compression-gates methods
    python -m compression_gates.compression.architectures

RECIPE is METHOD[-AMOUNT][,SETTING=VALUE]...; join several steps with "+": wanda-50, sparsegpt-2:4,
gptq-int4,group=32, wanda-50+gptq-int4. "methods" lists all methods and settings. The last command
prints which methods work on which architectures.
"""

import argparse
import os
import signal
import sys
import tempfile
import textwrap
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from compression_gates.compression.calibration.resources import Resources, memory_of
from compression_gates.compression.catalogue import METHODS, load_entry_points
from compression_gates.compression.errors import CompressionError, is_failure, reason_of
from compression_gates.compression.method_settings import text_of
from compression_gates.compression.model.quiet import quiet
from compression_gates.compression.model.references import check_reference
from compression_gates.compression.model.step_data import batches_from, texts_of
from compression_gates.compression.recipe import Recipe, examples

MAX_NOTES = 5
"""Notes printed in full; further ones are only counted."""
UNCHANGED = "unchanged"


def listing() -> str:
    """Return a description of every method and its settings, grouped by family."""
    load_entry_points()
    lines = []
    for family in dict.fromkeys(method.family for method in METHODS.values()):
        lines += [family.capitalize(), ""]
        for method in (m for m in METHODS.values() if m.family == family):
            lines += [f"  {' or '.join(examples(method)):30} {method.source}; data: {method.needs}"]
            for name, setting in method.settings.items():
                default = "" if setting.default in (None, ()) else f" [{text_of(setting.default)}]"
                lines += textwrap.wrap(
                    f"{name}: {setting.help}; {setting.choices}{default}", 96,
                    initial_indent=" " * 8, subsequent_indent=" " * 12,
                )  # fmt: skip
            lines.append("")
    lines += [
        "Every step accepts include and exclude, patterns of layer names: include=*mlp*|*attn*.",
        "A step that uses data also accepts samples, length, seed and data;",
        "a step that trains also accepts steps, batch and learning_rate.",
    ]
    return "\n".join(lines)


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="compression-gates compress", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("recipe", nargs="?", help="the compression steps to apply")
    add("--list", action="store_true", help="list methods, settings and papers, and exit")
    add("--model", metavar="ID_OR_DIR", help="uncompressed model; can be the name of a shipped one")
    add("--output", metavar="DIR", type=Path, help="new directory for the checkpoint")
    add(
        "--data",
        metavar="FILE",
        type=Path,
        help="calibration or training texts: one per line, or .jsonl, .json, .csv, .tsv or "
        ".parquet with text and label",
    )
    add("--device", default="cpu", help="cpu, cuda, cuda:N or auto (default: %(default)s)")
    add(
        "--memory",
        metavar="SIZE",
        help="memory for activations of calibration, such as 8GB (default: half of what is free)",
    )
    add("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(words)
    if not options.list:
        missing = [n for n in ("recipe", "model", "output") if getattr(options, n) is None]
        if missing:
            parser.error(f"missing: {', '.join(missing)}; use --list to list the methods")
    return options


def make(options: argparse.Namespace, resolve: Callable[[str], str] = str) -> str:
    """Compress and save as ``options`` ask, and return a report; arguments are checked first.

    Raises:
        CompressionError: names the invalid option.
    """
    recipe = Recipe.parse(options.recipe)
    memory_of("--memory", options.memory)
    _check_output(options.output)
    texts = texts_of(recipe, options.data, "--data", "give --data FILE")
    location = check_reference(resolve(options.model), "--model")
    with quiet(bars=True):
        warnings.showwarning = lambda message, *rest, **more: print(
            f"warning    {message}", file=sys.stderr
        )
        return _compressed(options, location, recipe, texts)


def _check_output(output: Path) -> None:
    if os.path.lexists(output):
        raise CompressionError(f"--output {output} exists; give a directory that does not exist")
    try:
        # Saving uses names of this form; create one to find out whether it is valid and writable.
        with tempfile.TemporaryDirectory(prefix=f"{output.name}.", suffix=".partial",
                                         dir=output.parent):  # fmt: skip
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CompressionError(f"--output {output}: {output.parent}: {reason}") from error


def _compressed(options: argparse.Namespace, location: str, recipe: Recipe, texts: dict) -> str:
    from safetensors import SafetensorError

    from compression_gates.compression.apply import compress
    from compression_gates.compression.checkpoint import own_format
    from compression_gates.compression.checkpoint.saving import PLAIN, save
    from compression_gates.compression.model.layers import backbone_layers
    from compression_gates.compression.model.pretrained import check_device, load, place
    from compression_gates.compression.model.texts import padding_token

    check_device("--device", options.device)
    model, tokenizer = load(location, "--model")
    resources = Resources(memory_of("--memory", options.memory), place(model, options.device))
    batches = batches_from(texts, model, tokenizer, f"--data {options.data}")
    # A file stores shared tensors once.
    before = sum({t.data_ptr(): t.nbytes for t in model.state_dict().values()}.values())
    start = time.monotonic()
    result = compress(model, recipe, batches, padding_token(model, tokenizer), resources)
    layers = backbone_layers(result.model).values()
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers)
    weights = sum(layer.weight.numel() for layer in layers)
    try:
        form = save(result, tokenizer, options.output)
    except (OSError, SafetensorError) as error:
        raise CompressionError(f"--output {options.output}: {error}") from error
    loading = ""
    if form == own_format.METHOD:
        loading = f"; from_pretrained needs `import {own_format.__name__}` first"
    after = sum(map(_tensor_bytes, options.output.glob("*.safetensors")))
    change = _change(before, after)
    if change == UNCHANGED and result.pruned and form == PLAIN:
        change += ": a dense file stores its zeros"
    lines = [
        f"recipe     {recipe.name}",
        f"weights    {_size(before)} -> {_size(after)}, {change}",
        f"zeros      {zeros / weights:.1%} of the backbone's linear weights",
        f"stored as  {form}{loading}",
        f"took       {time.monotonic() - start:.1f} s",
        *(f"note       {note}" for note in result.notes[:MAX_NOTES]),
    ]
    if len(result.notes) > MAX_NOTES:
        lines.append(f"note       and {len(result.notes) - MAX_NOTES} more notes")
    gates = f"compression-gates --baseline {options.model} --candidate {options.output}"
    gates += f" {_data_option(type(model).__name__)} FILE"
    return "\n".join([*lines, f"evaluate   {gates}"])


def _tensor_bytes(file: Path) -> int:
    """Return the size of a safetensors file without its header."""
    with file.open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little")
    return file.stat().st_size - 8 - header


def _data_option(model_class: str) -> str:
    """Return the option of the gates for data that fit a class of models."""
    if model_class.endswith("ForSequenceClassification"):
        return "--labelled"
    return "--text" if model_class.endswith("ForCausalLM") else "--questions"


def _change(before: int, after: int) -> str:
    ratio, word = (after / before, "larger") if after > before else (before / after, "smaller")
    return UNCHANGED if f"{ratio:.2f}" == "1.00" else f"{ratio:.2f}x {word}"


def _size(count: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def main(words: list[str] | None = None, resolve: Callable[[str], str] = str) -> int:
    """Run the command and return its exit code.

    Args:
        words: the arguments; by default those of the process.
        resolve: returns the directory or hub id that a value of ``--model`` refers to.
    """
    options = _arguments(words)
    if options.list:
        print(listing())
        return 0
    try:
        with _terminable():
            report = make(options, resolve)
    except KeyboardInterrupt:
        print("compression-gates compress: interrupted; nothing was written", file=sys.stderr)
        return 130
    except BaseException as error:
        if not is_failure(error):
            raise
        if options.debug:
            traceback.print_exc()
        known = isinstance(error, CompressionError | OSError)
        message = " ".join(str(error).split()) if known else reason_of(error)
        print(f"compression-gates compress: error: {message}", file=sys.stderr)
        return 2
    print(report)
    return 0


@contextmanager
def _terminable() -> Iterator[None]:
    """Raise SystemExit on SIGTERM, so that partly written files are removed."""

    def stop(signum: int, frame: object) -> None:
        print("compression-gates compress: terminated; nothing was written", file=sys.stderr)
        raise SystemExit(128 + signum)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
