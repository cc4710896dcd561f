"""The compression methods: function, settings, paper and the data that each needs.

This module does not import torch, so that recipes are checked quickly.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from compression_gates.compression.errors import CompressionError
from compression_gates.compression.fingerprint import fingerprint, origin
from compression_gates.compression.method_settings import (
    Setting,
    boolean,
    integer,
    kept_share,
    n_of_m,
    one_of,
    pair,
    positive,
    share,
    sparsity,
    string,
    strings,
    weights,
)

QUANTIZATION, SCALING, PRUNING, STRUCTURED, LOW_RANK, DISTILLATION, STORAGE, USER_DEFINED = (
    "quantization", "scaling", "pruning", "structured pruning", "low rank", "distillation",
    "storage", "user-defined methods",
)  # fmt: skip
NOTHING, CALIBRATION, GRADIENTS, TRAINING = "none", "calibration", "gradients", "training"
LOSSES = ("labels", "response", "feature", "layerwise", "attention", "relations")


@dataclass(frozen=True)
class Method:
    """A compression method.

    Attributes:
        name: name in recipes.
        family: kind of compression.
        needs: data that the method uses: none, layer inputs (calibration), gradients of the loss,
            or training data.
        function: the implementation, as ``MODULE:NAME``, imported on first use, or a callable. The
            arguments are documented in ``step.py`` of the family's package, and in
            :mod:`compression.checkpoint.storage` for storage.
        source: the paper, or a description if there is none.
        settings: the method's own settings by name.
        amounts: the settings for the amount of compression; exactly one of them must be given.

    Raises:
        CompressionError: the function is missing.
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
            raise CompressionError(f"method {self.name}: no function; add one to its entry")

    @property
    def implementation(self) -> Callable:
        """The function that implements the method.

        Raises:
            CompressionError: ``function`` cannot be imported or is not callable.
        """
        if callable(self.function):
            return self.function
        module, _, name = self.function.partition(":")
        try:
            function = getattr(import_module(module, __package__), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise CompressionError(
                f"method {self.name}: its function {self.function!r} cannot be imported: {error}"
            ) from error
        if not callable(function):
            raise CompressionError(f"method {self.name}: {self.function!r} is not callable")
        return function

    @property
    def version(self) -> str:
        """Hash of a user-defined function and its dependencies; empty for built-in methods."""
        return fingerprint(self.implementation) if self.family == USER_DEFINED else ""

    @property
    def all_settings(self) -> dict[str, Setting]:
        """The method's own settings, those for its data, and those of every step. User-defined
        methods have no settings."""
        if self.family == USER_DEFINED:
            return {}
        data = {} if self.needs == NOTHING else DATA
        training = TRAINED if self.needs == TRAINING else {}
        return {**self.settings, **data, **training, **LAYERS}


LAYERS = {
    "include": Setting(strings, (), "patterns of layer names; only these are compressed"),
    "exclude": Setting(strings, (), "patterns of layer names; these are not compressed"),
}
DATA = {
    "data": Setting(string, None, "data set to use in place of the profile's"),
    "samples": Setting(integer(1), None, "number of texts, drawn with the seed; default: all"),
    "length": Setting(integer(1), None, "maximum tokens per text; default: model limit or 2048"),
    "seed": Setting(integer(0), 0, "random seed"),
}
TRAINED = {
    "steps": Setting(integer(1, 10**6), 500, "training steps"),
    "batch": Setting(integer(1), 32, "texts per training step"),
    "learning_rate": Setting(positive(0.1), 5e-4, "peak learning rate of AdamW"),
}

_SPARSITY = Setting(sparsity, None, "share of the weights to prune")
_SPARSE = {
    "sparsity": _SPARSITY,
    "pattern": Setting(n_of_m, None, "N:M, keep N of every M consecutive weights"),
}
_OWL = {
    "allocation": Setting(
        one_of("uniform", "owl"), "uniform", "sparsity per block: equal, or by outliers (OWL)"
    ),
    "outlier": Setting(
        positive(1000), 5.0, "OWL: an outlier is this many times the mean score (M)"
    ),
    "spread": Setting(share, 0.08, "OWL: sparsities differ by at most this from the mean (lambda)"),
}
_SCOPE = Setting(one_of("layer", "row", "global"), "layer", "the weights that are ranked together")
_DAMPING = Setting(positive(1), 0.01, "added to the Hessian's diagonal, as a share of its mean")
_GROUP = Setting(integer(2), None, "weights of a row that share a scale; default: the row")
_ACTIVATIONS = Setting(
    boolean, False, "also quantize inputs to 8 bits, token by token, at run time (W8A8)"
)
_SCALE = Setting(one_of("channel", "tensor"), "channel", "what shares a scale if no group is given")
_BITS = Setting(integer(2, 8), None, "bits per weight")
_UNIFORM = {
    "bits": _BITS,
    "group": _GROUP,
    "symmetric": Setting(boolean, True, "scales only, or scales and zero points"),
    "activations": _ACTIVATIONS,
}
_UNIT_SCORE = Setting(
    one_of("magnitude", "activation", "taylor"), "magnitude", "importance score of a unit"
)
_UNITS = {"sparsity": Setting(sparsity, None, "share of the units to remove"), "score": _UNIT_SCORE}
_RANK = {
    "ratio": Setting(kept_share, None, "parameters to keep, as a share of the layer's"),
    "energy": Setting(kept_share, None, "share of the squared singular values to keep"),
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
                "act_order": Setting(boolean, False, "columns by decreasing Hessian diagonal"),
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
                    integer(1, 10**6), 200, "gradient steps for each layer's scales"
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
            {"alpha": Setting(share, 0.5, "share of the inputs' range moved to the weights")},
        ),
        Method(
            "awq", SCALING, CALIBRATION, ".scaling.awq:find_scales",
            "AWQ, Lin et al. 2024",
            {
                "bits": _BITS, "group": _GROUP, "symmetric": _UNIFORM["symmetric"],
                "grid": Setting(integer(1, 1000), 20, "number of exponents to try"),
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
                "soft": Setting(boolean, False, "threshold scores instead of ranking them"),
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
                "layers": Setting(integer(1), None, "layers of the student; default: all"),
                "loss": Setting(weights(*LOSSES), (("response", 1.0),), "losses and their weights"),
                "temperature": Setting(positive(100), 2.0, "temperature of the response loss"),
                "generate": Setting(
                    string, None, "causal model that samples one additional text per text"
                ),
                "translate": Setting(
                    pair, (), "two seq2seq models for back-translation of each text"
                ),
            },
        ),
        Method(
            "bitmask", STORAGE, NOTHING, ".checkpoint.storage:bitmask",
            "stores pruned layers as a bitmask and nonzero values", {},
        ),
    )
}  # fmt: skip

ENTRY_POINTS = "compression_gates.methods"
"""Entry point group in which other distributions register methods."""


def register_method(name: str, function: Callable, source: str = "") -> None:
    """Register a user-defined method for use in recipes.

    Args:
        name: a letter, followed by letters, digits and underscores, all in lower case.
        function: takes a ``PreTrainedModel`` and returns one, or changes it in place and returns
            None. In a recipe, it must come before all built-in methods.
        source: description in the list of methods; by default the first line of the docstring.

    Registering a function with the same module and qualified name again replaces the method.

    Raises:
        CompressionError: the name is invalid or in use, or ``function`` is not callable.
    """
    METHODS[name] = _user_method(name, function, source, METHODS)


def _user_method(name: str, function: Callable, source: str, known: Mapping[str, Method]) -> Method:
    """Return the entry of a user-defined method.

    Raises:
        CompressionError: as :func:`register_method`.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise CompressionError(
            f"method {name!r}: the name must consist of lower-case letters, digits and underscores"
        )
    if not callable(function):
        raise CompressionError(f"method {name}: {function!r} is not callable; give a function")
    if name in known:
        earlier = known[name]
        built_in = earlier.family != USER_DEFINED
        owner = "built in" if built_in else origin(earlier.implementation)
        if built_in or owner != origin(function):
            raise CompressionError(
                f"method {name} exists already ({owner}); register {origin(function)} under "
                "another name"
            )
    source = source or (inspect.getdoc(function) or "a user-defined function").partition("\n")[0]
    return Method(name, USER_DEFINED, NOTHING, function, source, {})


@cache
def load_entry_points() -> None:
    """Register the methods of other distributions, either all of them or none.

    Raises:
        CompressionError: names the entry point that cannot be loaded, and its distribution.
    """
    added: dict[str, Method] = {}
    for point in entry_points(group=ENTRY_POINTS):
        try:
            function = point.load()
            added[point.name] = _user_method(point.name, function, "", {**METHODS, **added})
        except Exception as error:
            distribution = point.dist.name if point.dist else "an unknown distribution"
            raise CompressionError(
                f"entry point {point.name} = {point.value} of {distribution}: {error}"
            ) from error
    METHODS.update(added)
