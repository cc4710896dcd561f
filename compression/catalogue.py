"""Every method by name: its function, its settings, its paper, and what it needs to see.

Importable without torch, so that a recipe is checked before anything heavy is loaded.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from compression_gates.compression.errors import CompressionError
from compression_gates.compression.fingerprint import fingerprint, origin
from compression_gates.compression.settings import (
    Setting,
    flag,
    n_of_m,
    one_of,
    pair,
    part,
    positive,
    pruned,
    share,
    weights,
    whole,
    word,
    words,
)

QUANTIZATION, SCALING, PRUNING, STRUCTURED, LOW_RANK, DISTILLATION, STORAGE, OWN = (
    "quantization", "scaling", "pruning", "structured pruning", "low rank", "distillation",
    "storage", "methods of your own",
)  # fmt: skip
NOTHING, CALIBRATION, GRADIENTS, TRAINING = "nothing", "calibration", "gradients", "training"
LOSSES = ("labels", "response", "feature", "layerwise", "attention", "relations")


@dataclass(frozen=True)
class Method:
    """A compression method.

    Attributes:
        name: as recipes call it.
        family: what kind of compression it is.
        needs: what it needs to see: nothing, inputs of its layers (calibration), gradients of the
            loss, or data to train on.
        function: what carries it out: ``MODULE:NAME``, imported when it is first needed, or a
            callable. Its arguments are those of its family: see ``step.py`` in the family's
            package (:mod:`compression.checkpoint.storage` for storage).
        source: the paper, or what it does where there is none.
        settings: its own settings by name.
        amounts: the settings that say how much; exactly one of them must be given.

    Raises:
        CompressionError: no function.
    """

    name: str
    family: str
    needs: str
    function: str | Callable
    source: str
    settings: Mapping[str, Setting]
    amounts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.function:
            raise CompressionError(f"method {self.name}: no function carries it out; bind one")

    @property
    def implementation(self) -> Callable:
        """The function that carries it out.

        Raises:
            CompressionError: ``function`` names nothing that can be imported and called.
        """
        if callable(self.function):
            return self.function
        module, _, name = self.function.partition(":")
        try:
            found = getattr(import_module(module, __package__), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise CompressionError(
                f"method {self.name}: its function {self.function!r} cannot be imported: {error}"
            ) from error
        if not callable(found):
            raise CompressionError(f"method {self.name}: {self.function!r} cannot be called")
        return found

    @property
    def version(self) -> str:
        """A hash of a user's function and of what its results depend on; empty for the methods of
        this package."""
        return fingerprint(self.implementation) if self.family == OWN else ""

    @property
    def all_settings(self) -> dict[str, Setting]:
        """Its own settings, those of its data, and those that every step has; none of a function
        that nothing is known of."""
        if self.family == OWN:
            return {}
        shared = {
            NOTHING: {},
            CALIBRATION: DATA,
            GRADIENTS: DATA,
            TRAINING: DATA | TRAINED,
        }[self.needs]
        return {**self.settings, **shared, **LAYERS}


LAYERS = {
    "include": Setting(words, (), "patterns of layer names; only these are touched"),
    "exclude": Setting(words, (), "patterns of layer names; these are left alone"),
}
DATA = {
    "data": Setting(word, None, "the data set that it sees, in place of the profile's"),
    "samples": Setting(whole(1), None, "how many texts of it, drawn by the seed; all by default"),
    "length": Setting(whole(1), None, "tokens of a text; the model's limit by default, or 2048"),
    "seed": Setting(whole(0), 0, "random seed"),
}
TRAINED = {
    "steps": Setting(whole(1, 10**6), 500, "training steps"),
    "batch": Setting(whole(1), 32, "texts per training step"),
    "learning_rate": Setting(positive(0.1), 5e-4, "highest learning rate of AdamW"),
}

_SPARSITY = Setting(pruned, None, "share of the weights that go")
_SPARSE = {
    "sparsity": _SPARSITY,
    "pattern": Setting(n_of_m, None, "N:M, keep N of every M consecutive weights"),
}
_OWL = {
    "allocation": Setting(
        one_of("uniform", "owl"), "uniform", "sparsity of each block: alike, or by outliers (OWL)"
    ),
    "outlier": Setting(
        positive(1000), 5.0, "OWL: an outlier is this many times the mean score (M)"
    ),
    "spread": Setting(share, 0.08, "OWL: sparsities differ by at most this from the mean (lambda)"),
}
_SCOPE = Setting(one_of("layer", "row", "global"), "layer", "where weights compete")
_DAMPING = Setting(positive(1), 0.01, "added to the Hessian's diagonal, a share of its mean")
_GROUP = Setting(whole(2), None, "weights of a row that share a scale; a whole row by default")
_ACTIVATIONS = Setting(
    flag, False, "also round each token's inputs to eight bits as they come (W8A8 and the like)"
)
_SCALE = Setting(one_of("channel", "tensor"), "channel", "what shares a scale, without a group")
_BITS = Setting(whole(2, 8), None, "bits a weight")
_UNIFORM = {
    "bits": _BITS,
    "group": _GROUP,
    "symmetric": Setting(flag, True, "scales alone, or scales and zero points"),
    "activations": _ACTIVATIONS,
}
_UNIT_SCORE = Setting(
    one_of("magnitude", "activation", "taylor"), "magnitude", "how units are scored"
)
_UNITS = {"sparsity": Setting(pruned, None, "share of the units that go"), "score": _UNIT_SCORE}
_RANK = {
    "ratio": Setting(part, None, "parameters that stay, as a share of the layer's"),
    "energy": Setting(part, None, "share of the squared singular values that stay"),
}

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "rtn", QUANTIZATION, NOTHING, ".quantization.nearest:rtn",
            "round to nearest on a uniform grid",
            {**_UNIFORM, "scale": _SCALE}, ("bits",),
        ),
        Method(
            "gptq", QUANTIZATION, CALIBRATION, ".quantization.gptq:quantize",
            "GPTQ, Frantar et al. 2023",
            {
                **_UNIFORM,
                "act_order": Setting(flag, False, "strongest input features first"),
                "damping": _DAMPING,
            },
            ("bits",),
        ),
        Method(
            "lsq", QUANTIZATION, CALIBRATION, ".quantization.lsq:quantize",
            "learned step size, Esser et al. 2020",
            {
                "bits": _BITS, "group": _GROUP, "activations": _ACTIVATIONS,
                "iterations": Setting(
                    whole(1, 10**6), 200, "gradient steps for each layer's scales"
                ),
            },
            ("bits",),
        ),
        Method(
            "fp8", QUANTIZATION, NOTHING, ".quantization.nearest:fp8",
            "float8 E4M3, Micikevicius et al. 2022",
            {"scale": _SCALE, "activations": _ACTIVATIONS},
        ),
        Method(
            "log", QUANTIZATION, NOTHING, ".quantization.nearest:log",
            "powers of two, Miyashita et al. 2016",
            {"bits": _BITS, "group": _GROUP}, ("bits",),
        ),
        Method(
            "smoothquant", SCALING, CALIBRATION, ".scaling.smoothquant:find_scales",
            "SmoothQuant, Xiao et al. 2023",
            {"alpha": Setting(share, 0.5, "how much of the inputs' range the weights take over")},
        ),
        Method(
            "awq", SCALING, CALIBRATION, ".scaling.awq:find_scales",
            "AWQ, Lin et al. 2024",
            {
                "bits": _BITS, "group": _GROUP, "symmetric": _UNIFORM["symmetric"],
                "grid": Setting(whole(1, 1000), 20, "exponents that are tried"),
            },
            ("bits",),
        ),
        Method(
            "magnitude", PRUNING, NOTHING, ".pruning.magnitude:prune",
            "Han et al. 2015",
            {**_SPARSE, "scope": _SCOPE}, ("sparsity", "pattern"),
        ),
        Method(
            "wanda", PRUNING, CALIBRATION, ".pruning.wanda:prune",
            "Sun et al. 2024", {**_SPARSE, **_OWL}, ("sparsity", "pattern"),
        ),
        Method(
            "sparsegpt", PRUNING, CALIBRATION, ".pruning.sparsegpt:prune",
            "Frantar & Alistarh 2023",
            {**_SPARSE, **_OWL, "damping": _DAMPING},
            ("sparsity", "pattern"),
        ),
        Method(
            "taylor", PRUNING, GRADIENTS, ".pruning.taylor:prune",
            "first-order Taylor, Molchanov et al. 2017",
            {**_SPARSE, "scope": _SCOPE}, ("sparsity", "pattern"),
        ),
        Method(
            "movement", PRUNING, TRAINING, ".pruning.movement:prune",
            "movement pruning, Sanh et al. 2020",
            {
                "sparsity": _SPARSITY,
                "soft": Setting(flag, False, "a threshold on the scores instead of the top ones"),
                "score_rate": Setting(positive(1), 1e-2, "learning rate of the scores"),
            },
            ("sparsity",),
        ),
        Method(
            "heads", STRUCTURED, GRADIENTS, ".structured.coupling:heads",
            "attention heads, Michel et al. 2019", _UNITS,
            ("sparsity",),
        ),
        Method(
            "ffn", STRUCTURED, GRADIENTS, ".structured.coupling:ffn",
            "FFN channels, Molchanov et al. 2017", _UNITS,
            ("sparsity",),
        ),
        Method(
            "svd", LOW_RANK, NOTHING, ".low_rank.svd:svd",
            "truncated SVD, Eckart & Young 1936", _RANK, ("ratio", "energy"),
        ),
        Method(
            "svdllm", LOW_RANK, CALIBRATION, ".low_rank.svd:svdllm",
            "whitened by the inputs, SVD-LLM, Wang et al. 2025",
            _RANK, ("ratio", "energy"),
        ),
        Method(
            "distill", DISTILLATION, TRAINING, ".distillation.step:distill",
            "Hinton et al. 2015; FitNets; TinyBERT; attention transfer; MiniLM",
            {
                "layers": Setting(whole(1), None, "layers of the student; by default as the model"),
                "loss": Setting(weights(*LOSSES), (("response", 1.0),), "losses and their weights"),
                "temperature": Setting(positive(100), 2.0, "of the response loss"),
                "generate": Setting(
                    word, None, "a causal model that samples one more text for each"
                ),
                "translate": Setting(
                    pair, (), "two seq2seq models that translate each text there and back"
                ),
            },
        ),
        Method(
            "bitmask", STORAGE, NOTHING, ".checkpoint.storage:bitmask",
            "pruned layers as a bitmask and the values that stay", {},
        ),
    )
}  # fmt: skip

ENTRY_POINTS = "compression_gates.methods"
"""The group of entry points by which other distributions add methods."""


def register_method(name: str, function: Callable, source: str = "") -> None:
    """Adds a method of a user's own, for recipes to name.

    Args:
        name: lower-case letters, digits and underscores.
        function: takes a model of transformers and returns one, or changes it in place and returns
            None. It is called first of all steps.
        source: what the catalogue prints about it; the first line of its docstring by default.

    Registering a function of the same module and qualified name again replaces it.

    Raises:
        CompressionError: the name is taken, or is no name for a method, or ``function`` cannot be
            called.
    """
    METHODS[name] = _own_method(name, function, source, METHODS)


def _own_method(name: str, function: Callable, source: str, known: Mapping[str, Method]) -> Method:
    """The entry of a user's method.

    Raises:
        CompressionError: see :func:`register_method`.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise CompressionError(
            f"method {name!r}: a name has lower-case letters, digits and underscores"
        )
    if not callable(function):
        raise CompressionError(f"method {name}: {function!r} is no function")
    if name in known:
        earlier = known[name]
        if earlier.family != OWN:
            raise CompressionError(
                f"method {name} exists already: it is one of this package, so that "
                f"{origin(function)} needs another name"
            )
        if origin(earlier.implementation) != origin(function):
            raise CompressionError(
                f"method {name} exists already: it is {origin(earlier.implementation)}, so that "
                f"{origin(function)} needs another name"
            )
    said = source or (inspect.getdoc(function) or "a function of your own").partition("\n")[0]
    return Method(name, OWN, NOTHING, function, said, {})


@cache
def load_entry_points() -> None:
    """Registers the methods of other distributions, once and all of them.

    Raises:
        CompressionError: one cannot be loaded; names it and its distribution.
    """
    added: dict[str, Method] = {}
    for point in entry_points(group=ENTRY_POINTS):
        try:
            function = point.load()
            added[point.name] = _own_method(point.name, function, "", {**METHODS, **added})
        except Exception as error:
            raise CompressionError(
                f"entry point {point.name} = {point.value} of {_distribution(point)}: {error}"
            ) from error
    METHODS.update(added)


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an unknown distribution"
