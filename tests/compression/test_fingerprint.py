"""The hash of a function changes exactly if something that its results depend on changes."""

import functools
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from compression_gates.compression.fingerprint import fingerprint
from compression_gates.fixtures.world.shipped import MODELS

HELPERS = """
RATE = 0.5
def scaled(model):
    return model * RATE
"""


def by_exec(source: str, name: str = "f"):
    """Return the object ``name`` that source code defines, as in a notebook."""
    scope = {"__name__": "__main__"}
    exec(source, scope)
    return scope[name]


class Scale:
    def __init__(self, rate):
        self.rate = rate

    def __call__(self, model):
        return model

    def method(self, model):
        return model


def scale(model, rate=1.0):
    return model


def closure(rate):
    return lambda model: model * rate


def helped(rate):
    return by_exec(f"RATE = {rate}\ndef help(m): return m * RATE\ndef f(m): return help(m)")


CHANGED = {
    "constant of a helper": (lambda: helped(0.5), lambda: helped(0.6)),
    "argument of a partial": (
        lambda: functools.partial(scale, rate=0.5),
        lambda: functools.partial(scale, rate=0.6),
    ),
    "state of an object": (lambda: Scale(0.5), lambda: Scale(0.6)),
    "nested state": (lambda: Scale({"a": [Scale(1)]}), lambda: Scale({"a": [Scale(2)]})),
    "object of a method": (lambda: Scale(0.5).method, lambda: Scale(0.6).method),
    "tensor": (lambda: Scale(torch.zeros(2)), lambda: Scale(torch.tensor([0.0, 1e-9]))),
    "bfloat16": (lambda: Scale(torch.zeros(1)), lambda: Scale(torch.zeros(1).bfloat16())),
    "parameters of a module": (
        lambda: torch.manual_seed(0) and torch.nn.Linear(2, 2),
        lambda: torch.manual_seed(1) and torch.nn.Linear(2, 2),
    ),
    "closure": (lambda: closure(0.5), lambda: closure(0.6)),
    "function in a closure": (lambda: closure(helped(1)), lambda: closure(helped(2))),
    "type of a number": (lambda: closure(1), lambda: closure(True)),
    "default": (
        lambda: by_exec("def f(m, r=1): return m * r"),
        lambda: by_exec("def f(m, r=2): return m * r"),
    ),
    "keyword default": (
        lambda: by_exec("def f(m, *, r=1): return m * r"),
        lambda: by_exec("def f(m, *, r=2): return m * r"),
    ),
    "cached function": (
        lambda: closure(functools.cache(helped(1))),
        lambda: closure(functools.cache(helped(2))),
    ),
    "attribute of a function": (
        lambda: by_exec("def f(m): return m * f.r\nf.r = 1"),
        lambda: by_exec("def f(m): return m * f.r\nf.r = 2"),
    ),
    "lambda": (lambda: by_exec("f = lambda m: m * 1"), lambda: by_exec("f = lambda m: m * 2")),
    "attribute": (lambda: by_exec("f = lambda m: m.a"), lambda: by_exec("f = lambda m: m.b")),
    "inner function": (
        lambda: by_exec("R = 1\ndef f(m):\n  def g(): return m * R\n  return g()"),
        lambda: by_exec("R = 2\ndef f(m):\n  def g(): return m * R\n  return g()"),
    ),
    "method of a class": (
        lambda: by_exec("class C:\n  def __call__(self, m): return 1\nf = C()"),
        lambda: by_exec("class C:\n  def __call__(self, m): return 2\nf = C()"),
    ),
    "base class": (
        lambda: by_exec("class B:\n  def __call__(self, m): return 1\nclass C(B): pass\nf = C()"),
        lambda: by_exec("class B:\n  def __call__(self, m): return 2\nclass C(B): pass\nf = C()"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("one", "other"), CHANGED.values(), ids=CHANGED)
def test_hash_changes_with_dependencies(one, other):
    assert fingerprint(one()) == fingerprint(one())
    assert fingerprint(one()) != fingerprint(other())


def test_code_without_a_module_is_hashed():
    scopes: list[dict] = [{}, {}]
    for rate, scope in enumerate(scopes):
        exec(f"f = lambda model: model * {rate}", scope)
    one, other = (fingerprint(scope["f"]) for scope in scopes)
    assert one != other


def test_order_of_sets_is_ignored():
    words = [f"layer {number}" for number in range(20)]
    backwards = words[::-1]
    assert fingerprint(closure(set(words))) == fingerprint(closure(set(backwards)))


def test_recursive_values():
    assert fingerprint(by_exec("def f(m, n=3): return f(m, n - 1) if n else m"))
    knot: list = []
    knot.append(knot)
    assert fingerprint(closure(knot)) == fingerprint(closure(knot))


def in_a_process(folder: Path, program: str, seed: object = "random") -> str:
    """Return what a program prints where the hashes of strings depend on ``seed``."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": str(seed),
             "PYTHONPATH": str(folder)},  # whether or not the folder is safe
    )  # fmt: skip
    return done.stdout


PRINT = "from compression_gates.compression.fingerprint import fingerprint\n"


@pytest.mark.parametrize(
    "method",
    [
        "from helpers import scaled as method",
        "from helpers import scaled\ndef method(model): return scaled(model)",
        "import helpers\ndef method(model): return helpers.scaled(model)",
        "import helpers\nmethod = lambda model: helpers.scaled(model)",
    ],
)
def test_files_of_helpers_are_hashed(tmp_path, method):
    (tmp_path / "mine.py").write_text(method)
    (tmp_path / "helpers.py").write_text(HELPERS)
    program = f"{PRINT}from mine import method\nprint(fingerprint(method))"
    first = in_a_process(tmp_path, program)
    assert in_a_process(tmp_path, program) == first
    (tmp_path / "helpers.py").write_text(HELPERS.replace("0.5", "0.6"))
    assert in_a_process(tmp_path, program) != first


def test_unhashable_values_differ_in_every_process(tmp_path):
    program = (
        f"{PRINT}import threading\nlock = threading.Lock()\n"
        "def method(model):\n    with lock: return model\n"
        "print(fingerprint(method))"
    )
    assert in_a_process(tmp_path, program) != in_a_process(tmp_path, program)
    assert fingerprint(closure(threading.Lock())) == fingerprint(closure(threading.Lock()))


def test_hash_is_equal_in_every_process(tmp_path):
    program = f"{PRINT}import torch\nR = {{'a', 'b', 'c', 1.5}}\n" + (
        "class Scale:\n    def __init__(self): self.rate = torch.ones(3)\n"
        "    def __call__(self, model): return helped(model)\n"
        "def helped(model): return [r for r in R], torch.nn.Linear\n"
        "print(fingerprint(Scale()))"
    )
    assert in_a_process(tmp_path, program, 1) == in_a_process(tmp_path, program, 2)


def test_models_in_globals_are_hashed_by_their_weights():
    def hashed(change: float) -> str:
        teacher = AutoModelForSequenceClassification.from_pretrained(MODELS / "bert-tiny")
        teacher.classifier.bias.data[0] += change
        scope = {"teacher": teacher}
        exec("def method(model): return teacher", scope)
        return fingerprint(scope["method"])

    assert hashed(0) == hashed(0)
    assert hashed(1) != hashed(0)
