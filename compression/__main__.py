"""Makes a compressed checkpoint.

    compression-gates compress RECIPE --model ID_OR_DIR --output DIR [--data FILE]
    compression-gates methods
    python -m compression_gates.compression.architectures

RECIPE is METHOD[-AMOUNT][,SETTING=VALUE]..., several joined by "+": wanda-50, sparsegpt-2:4,
gptq-int4,group=32, wanda-50+gptq-int4. The last command prints what works on which architecture.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compression_gates.compression.catalogue import METHODS, Method, load_entry_points
from compression_gates.compression.errors import CompressionError, is_failure, reason_of
from compression_gates.compression.model.quiet import quiet
from compression_gates.compression.model.references import check_reference
from compression_gates.compression.model.step_data import batches_from, texts_of
from compression_gates.compression.recipe import Recipe
from compression_gates.compression.settings import text_of

NOTES = 5
"""Notes that are shown; of more, their number."""
UNCHANGED = "unchanged"


def listing() -> str:
    """Every method with its paper and its settings, family by family."""
    load_entry_points()
    lines = []
    for family in dict.fromkeys(method.family for method in METHODS.values()):
        lines += [family.capitalize(), ""]
        for method in (m for m in METHODS.values() if m.family == family):
            lines += [f"  {_form(method):30} {method.source}; sees {method.needs}"]
            for name, setting in method.settings.items():
                default = "" if setting.default in (None, ()) else f" [{text_of(setting.default)}]"
                lines += textwrap.wrap(
                    f"{name}: {setting.help}; {setting.choices}{default}", 96,
                    initial_indent=" " * 8, subsequent_indent=" " * 12,
                )  # fmt: skip
            lines.append("")
    lines += [
        "Every step takes include and exclude, patterns of layer names: include=*mlp*|*attn*."
    ]
    lines += ["One that sees data also takes samples, length, seed and data; one that trains on it"]
    lines += ["steps, batch and learning_rate."]
    return "\n".join(lines)


def _form(method: Method) -> str:
    amounts = {"bits": "int4", "sparsity": "50", "pattern": "2:4", "ratio": "50"}
    shown = [f"-{amounts[key]}" for key in method.amounts if key in amounts]
    if "layers" in method.settings:
        shown = ["-2layers"]
    return " or ".join(f"{method.name}{amount}" for amount in shown) or method.name


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="compression-gates compress", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("recipe", nargs="?", help="what to do to the model")
    add("--list", action="store_true", help="name methods, settings and papers, and stop")
    add("--model", metavar="ID_OR_DIR", help="the uncompressed model")
    add("--output", metavar="DIR", type=Path, help="where the checkpoint goes; must not exist")
    add(
        "--data",
        metavar="FILE",
        type=Path,
        help="texts: one per line, or .jsonl, .json, .csv, .tsv, .parquet with text and label",
    )
    add("--device", default="cpu", help="cpu, cuda or cuda:N (default: %(default)s)")
    add("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(words)
    if not options.list:
        missing = [n for n in ("recipe", "model", "output") if getattr(options, n) is None]
        if missing:
            parser.error(f"{', '.join(missing)} missing; or use --list")
    return options


def make(options: argparse.Namespace) -> None:
    """Checks everything that can be checked, then compresses and saves.

    Raises:
        CompressionError: names the option that is wrong.
    """
    recipe = Recipe.parse(options.recipe)
    _check_output(options.output)
    texts = texts_of(recipe, options.data, "--data", "give --data FILE")
    check_reference(options.model, "--model")
    with quiet(bars=True):
        warnings.showwarning = lambda message, *rest, **more: print(
            f"warning    {message}", file=sys.stderr
        )
        report = _compressed(options, recipe, texts)
    print(report)


def _check_output(output: Path) -> None:
    if os.path.lexists(output):
        raise CompressionError(f"--output {output} exists; name a directory that does not")
    try:
        # The longest name that saving it takes.
        with tempfile.TemporaryDirectory(prefix=f"{output.name}.", suffix=".partial",
                                         dir=output.parent):  # fmt: skip
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CompressionError(f"--output {output}: {output.parent}: {reason}") from error


def _compressed(options: argparse.Namespace, recipe: Recipe, texts: dict) -> str:
    from safetensors import SafetensorError

    from compression_gates.compression.apply import compress
    from compression_gates.compression.checkpoint.own_format import METHOD
    from compression_gates.compression.checkpoint.saving import PLAIN, save
    from compression_gates.compression.model.layers import backbone_layers
    from compression_gates.compression.model.loading import check_device, load
    from compression_gates.compression.model.texts import padding_token

    check_device("--device", options.device)
    model, tokenizer = load(options.model, "--model", options.device)
    batches = batches_from(texts, model, tokenizer, f"--data {options.data}")
    before = sum(tensor.nbytes for tensor in _distinct(model))
    start = time.monotonic()
    result = compress(model, recipe, batches, padding_token(model, tokenizer))
    layers = backbone_layers(result.model).values()
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers)
    weights = sum(layer.weight.numel() for layer in layers)
    try:
        form = save(result, tokenizer, options.output)
    except (OSError, SafetensorError) as error:
        raise CompressionError(f"--output {options.output}: {error}") from error
    after_import = ""
    if form == METHOD:
        module = "compression_gates.compression.checkpoint.own_format"
        after_import = f"; from_pretrained needs `import {module}` first"
    after = sum(map(_tensor_bytes, options.output.glob("*.safetensors")))
    change = _change(before, after)
    if change == UNCHANGED and result.pruned and form == PLAIN:
        change += ": zeros in a dense file save no bytes"
    lines = [
        f"recipe     {recipe.name}",
        f"weights    {_size(before)} -> {_size(after)}, {change}",
        f"zeros      {zeros / weights:.1%} of the backbone's linear weights",
        f"stored as  {form}{after_import}",
        f"took       {time.monotonic() - start:.1f} s",
        *(f"note       {note}" for note in result.notes[:NOTES]),
    ]
    if len(result.notes) > NOTES:
        lines.append(f"note       and {len(result.notes) - NOTES} more like these")
    gate = f"compression-gates --baseline {options.model} --candidate {options.output} --text FILE"
    return "\n".join([*lines, f"gate it    {gate}"])


def _distinct(model):
    """The tensors of a model that its file holds, each once."""
    kept = {tensor.data_ptr(): tensor for tensor in model.state_dict().values()}
    return kept.values()


def _tensor_bytes(file: Path) -> int:
    """What the tensors of a safetensors file take, without its header."""
    with file.open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little")
    return file.stat().st_size - 8 - header


def _change(before: int, after: int) -> str:
    ratio, word = (after / before, "larger") if after > before else (before / after, "smaller")
    return UNCHANGED if f"{ratio:.2f}" == "1.00" else f"{ratio:.2f}x {word}"


def _size(count: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def main(words: list[str] | None = None) -> int:
    options = _arguments(words)
    if options.list:
        print(listing())
        return 0
    try:
        with _terminable():
            make(options)
    except KeyboardInterrupt:
        print("compression-gates compress: interrupted; nothing was written", file=sys.stderr)
        return 130
    except BaseException as error:
        if not is_failure(error):
            raise
        if options.debug:
            traceback.print_exc()
        known = isinstance(error, CompressionError | OSError)
        told = " ".join(str(error).split()) if known else reason_of(error)
        print(f"compression-gates compress: error: {told}", file=sys.stderr)
        return 2
    return 0


@contextmanager
def _terminable() -> Iterator[None]:
    """Ends on SIGTERM with an exception, so that what was half written is removed."""

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
