"""Makes a compressed checkpoint.

    python -m compression RECIPE --model ID_OR_DIR --output DIR [--data FILE]
    python -m compression --list

RECIPE is METHOD[-AMOUNT][,SETTING=VALUE]..., several joined by "+": wanda-50, sparsegpt-2:4,
gptq-int4,group=32, wanda-50+gptq-int4.
"""

import argparse
import json
import os
import sys
import textwrap
import time
import warnings
from pathlib import Path

from compression.catalogue import METHODS, Method
from compression.errors import CompressionError
from compression.recipe import Recipe, needs_data
from compression.settings import text_of

NOTES = 5
"""Notes that are shown; of more, their number."""


def listing() -> str:
    """Every method with its paper and its settings, family by family."""
    lines = []
    for family in dict.fromkeys(method.family for method in METHODS.values()):
        lines += [family.capitalize(), ""]
        for method in (m for m in METHODS.values() if m.family == family):
            lines += [f"  {_form(method):30} {method.source}; sees {method.needs}"]
            for name, setting in method.settings.items():
                default = "" if setting.default in (None, ()) else f" [{text_of(setting.default)}]"
                lines += textwrap.wrap(
                    f"{name}: {setting.help}{default}", 96,
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


def read_texts(path: Path) -> tuple[list[str], list[int] | None]:
    """Texts of a file, and their labels if each has one.

    A file that ends in ``.jsonl`` holds an object a line with ``text`` and maybe ``label``; any
    other a text a line.

    Raises:
        CompressionError: names the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise CompressionError(f"--data {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CompressionError(f"--data {path}: not UTF-8 at byte {error.start}") from error
    if path.suffix != ".jsonl":
        texts = [line for line in lines if line.strip()]
        if not texts:
            raise CompressionError(f"--data {path}: no text in it")
        return texts, None
    texts, labels = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            text, label = item["text"], item.get("label")
        except (ValueError, KeyError, TypeError, AttributeError):
            text, label = None, None
        if not isinstance(text, str) or not (label is None or type(label) is int):
            raise CompressionError(
                f'--data {path}: line {number} is not {{"text": ..., "label": number}}'
            )
        texts.append(text)
        labels.append(label)
    if not texts:
        raise CompressionError(f"--data {path}: no text in it")
    return texts, None if None in labels else labels


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m compression", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("recipe", nargs="?", help="what to do to the model")
    add("--list", action="store_true", help="name methods, settings and papers, and stop")
    add("--model", metavar="ID_OR_DIR", help="the uncompressed model")
    add("--output", metavar="DIR", type=Path, help="where the checkpoint goes; must not exist")
    add("--data", metavar="FILE", type=Path, help="a text a line, or .jsonl with text and label")
    add("--device", default="cpu", help="cpu, cuda or cuda:N (default: %(default)s)")
    add("--trust-remote-code", action="store_true", help="run code that the model brings")
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
    if options.output.exists():
        raise CompressionError(f"--output {options.output} exists; name a directory that does not")
    parent = next(path for path in options.output.resolve().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise CompressionError(f"--output {options.output}: {parent} cannot be written to")
    texts: dict[str | None, tuple[list[str], list[int] | None]] = {}
    for step in recipe.steps:
        if needs_data(step) and step["data"] not in texts:
            if step["data"] is None and options.data is None:
                raise CompressionError(f"{step.name} needs texts; give --data FILE")
            texts[step["data"]] = read_texts(Path(step["data"] or options.data))
    print(_compressed(options, recipe, texts))


def _compressed(options: argparse.Namespace, recipe: Recipe, texts: dict) -> str:
    import torch

    from compression.apply import compress
    from compression.checkpoint import form_of, save
    from compression.layers import backbone_layers
    from compression.texts import batches_of

    if options.device != "cpu" and not torch.cuda.is_available():
        raise CompressionError(f"--device {options.device}: this machine has no CUDA device")
    model, tokenizer = _loaded(options)
    before = sum(tensor.nbytes for tensor in _distinct(model))
    start = time.monotonic()
    result = compress(
        model, recipe, lambda step: batches_of(step, model, tokenizer, *texts[step["data"]])
    )
    form = form_of(result)
    layers = backbone_layers(result.model).values()
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers)
    weights = sum(layer.weight.numel() for layer in layers)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    save(result, tokenizer, options.output)
    after = sum(file.stat().st_size for file in options.output.glob("*.safetensors"))
    lines = [
        f"recipe     {recipe.name}",
        f"weights    {_size(before)} -> {_size(after)}, {before / after:.2f}x smaller",
        f"zeros      {zeros / weights:.1%} of the backbone's linear weights",
        f"stored as  {form}",
        f"took       {time.monotonic() - start:.1f} s",
        *(f"note       {note}" for note in result.notes[:NOTES]),
    ]
    if len(result.notes) > NOTES:
        lines.append(f"note       and {len(result.notes) - NOTES} more like these")
    gate = f"pytest tests/gates --baseline {options.model} --candidate {options.output} --text FILE"
    return "\n".join([*lines, f"gate it    {gate}"])


def _loaded(options: argparse.Namespace):
    import transformers
    from transformers.utils import logging

    name = options.model
    if Path(name).exists() and not Path(name, "config.json").is_file():
        raise CompressionError(f"--model {name}: no config.json; name a Hugging Face checkpoint")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    trust = {"trust_remote_code": options.trust_remote_code}
    try:
        config = transformers.AutoConfig.from_pretrained(name, **trust)
        architecture = (config.architectures or ["none"])[0]
        auto = getattr(transformers, architecture, None)
        if auto is None:
            raise CompressionError(
                f"--model {name}: its architecture {architecture} is not one that transformers has"
            )
        model, report = auto.from_pretrained(
            name, dtype="auto", use_safetensors=True, output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **trust)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CompressionError(f"--model {name} does not load: {reason}") from error
    if report["missing_keys"]:
        raise CompressionError(f"--model {name} lacks {sorted(report['missing_keys'])[0]}")
    return model.eval().to(options.device), tokenizer


def _distinct(model):
    """The tensors of a model that its file holds, each once."""
    kept = {tensor.data_ptr(): tensor for tensor in model.state_dict().values()}
    return kept.values()


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
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *rest, **more: print(
            f"warning    {message}", file=sys.stderr
        )
        try:
            make(options)
        except (CompressionError, OSError) as error:
            print(f"python -m compression: error: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
