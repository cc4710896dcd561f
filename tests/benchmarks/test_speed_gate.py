"""How often the speed gate fails, and how many pairs it takes, at known true speedups.

pytest tests/benchmarks/test_speed_gate.py -s

The first table is simulated. The second times a shipped model against itself with a planted
slowdown, on a quiet machine and beside a process that keeps one core busy; the third replays the
recorded times of such runs from random places, slowed down by each true ratio. The last table has
the speedups of compressed forms on their kernels, for a BERT of 6 layers of 384.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from tabulate import tabulate

from compression_gates.evals.gates.gate import FAILED, Gate, verdict_of
from compression_gates.evals.metrics.speedup import speedup
from compression_gates.evals.models.device import all_cores
from compression_gates.evals.scoring.protocols import SpeedProtocol
from compression_gates.evals.statistics.sequential import LOOKS, repeat_until_decided

LIMIT = 0.8
RATIOS = (0.6, 0.8, 0.82, 0.85, 0.95)
SIMULATED, REPLAYED, TIMED = 2000, 1000, 50
"""Runs of each kind at each ratio."""
PROTOCOL = SpeedProtocol(batch_tokens=256)
"""A quarter of the tokens that a gate times, which is faster and noisier."""
MOST_FALSE, LEAST_FOUND = 1e-3, 0.99
"""Share of runs that may fail at 0.95, and that must fail at 0.60."""

Noise = Callable[[np.random.Generator], Callable[[int], np.ndarray]]
"""Begins a run; what it returns draws more pairs ``(pairs, 2)`` of two equal sides, with noise."""


def quiet(rng: np.random.Generator) -> Callable[[int], np.ndarray]:
    """Each time is disturbed by 3 % by itself."""
    return lambda n: rng.lognormal(0.0, 0.03, (n, 2))


def heavy_tailed(rng: np.random.Generator) -> Callable[[int], np.ndarray]:
    """Student's t with two degrees of freedom on the logarithm, whose variance is infinite."""
    return lambda n: (
        rng.lognormal(0.0, 0.03, (n, 2)) * np.exp(0.05 * rng.standard_t(2, (n, 2)).clip(-100, 100))
    )


def bursts(rng: np.random.Generator) -> Callable[[int], np.ndarray]:
    """Another process takes a core half of the time, in bursts of about eight forward passes that
    slow each of them down 1.3 to 2.5 times."""
    busy = bool(rng.integers(2))

    def draw(n: int) -> np.ndarray:
        nonlocal busy
        times = rng.lognormal(0.0, 0.05, 2 * n)
        for index in range(2 * n):
            if rng.random() < 1 / 8:
                busy = not busy
            times[index] *= rng.uniform(1.3, 2.5) if busy else 1.0
        return in_turns(times)

    return draw


def drift(rng: np.random.Generator) -> Callable[[int], np.ndarray]:
    """The clock wanders by 1 % a forward pass, and slows down by half over 240 pairs."""
    place, level = count(), 0.0

    def draw(n: int) -> np.ndarray:
        nonlocal level
        times = rng.lognormal(0.0, 0.03, 2 * n)
        for index in range(2 * n):
            level += rng.normal(0.0, 0.01)
            times[index] *= np.exp(level) * (1 + 0.5 * next(place) / (2 * LOOKS[-1]))
        return in_turns(times)

    return draw


def in_turns(times: np.ndarray) -> np.ndarray:
    """Pairs from times in their order; the sides take turns in going first."""
    pairs = times.reshape(-1, 2).copy()
    pairs[::2] = pairs[::2, ::-1]
    return pairs


NOISES = {
    "quiet": quiet,
    "heavy-tailed (t2)": heavy_tailed,
    "busy in bursts": bursts,
    "drift": drift,
}


def run(draw: Callable[[int], np.ndarray], ratio: float) -> tuple[str, int]:
    """Outcome of a gate and the pairs that it took, of a candidate of a known speedup."""
    pairs = repeat_until_decided(lambda n: draw(n) / [1.0, ratio], [LIMIT], np.inf)
    return outcome_of(pairs), len(pairs)


def outcome_of(seconds: np.ndarray) -> str:
    return verdict_of("candidate", Gate("speedup", LIMIT), speedup(seconds)).outcome


class Tally:
    """Outcomes by kind of noise and true ratio, as a table."""

    def __init__(self):
        self.found: dict[tuple[str, float], list[tuple[str, int]]] = {}

    def add(self, name: str, ratio: float, outcome: str, pairs: int) -> None:
        self.found.setdefault((name, ratio), []).append((outcome, pairs))

    def failed(self, name: str, ratio: float) -> float:
        return float(np.mean([outcome == FAILED for outcome, _ in self.found[name, ratio]]))

    def __str__(self) -> str:
        rows = []
        for (name, ratio), runs in self.found.items():
            outcomes = [outcome for outcome, _ in runs]
            shares = [outcomes.count(x) / len(runs) for x in ("passed", "inconclusive", "failed")]
            pairs = f"{np.mean([n for _, n in runs]):.0f}"
            told = [f"{share:.2%}" for share in shares]
            rows.append([name, f"{ratio:.2f}", len(runs), *told, pairs])
        heads = ["noise", "true ratio", "runs", "passed", "inconclusive", "failed", "pairs (mean)"]
        return tabulate(rows, heads, "simple", disable_numparse=True)

    def check(self, names) -> None:
        for name in names:
            assert self.failed(name, 0.95) <= MOST_FALSE
            assert self.failed(name, 0.6) >= LEAST_FOUND


def show(capsys, title: str, tally: Tally) -> None:
    with capsys.disabled():
        print(f"\n\n{title}, limit {LIMIT:.2f}\n\n{tally}\n")


def test_simulated(benchmark, capsys):
    tally = Tally()

    def all_runs() -> None:
        for name, noise in NOISES.items():
            for ratio in RATIOS:
                for seed in range(SIMULATED):
                    tally.add(name, ratio, *run(noise(np.random.default_rng(seed)), ratio))

    benchmark.pedantic(all_runs, rounds=1)
    show(capsys, "simulated", tally)
    tally.check(NOISES)


@pytest.fixture(scope="module")
def sides():
    """A shipped model twice, with the data that it is timed on."""
    from compression_gates.evals.checkpoints.checkpoint import open_checkpoint
    from compression_gates.evals.models.loading import load
    from compression_gates.fixtures.suite.datasets import data_set
    from compression_gates.fixtures.suite.sources import DataSource
    from compression_gates.fixtures.world.shipped import MODELS

    checkpoint = open_checkpoint(MODELS / "bert-tiny")
    data = data_set("reviews", DataSource("reviews", count=64), "classifier")
    return load(checkpoint), load(checkpoint), data


@contextmanager
def slowed_down(loaded, ratio: float) -> Iterator[None]:
    """Every forward pass keeps its core for as long again as makes its speed ``ratio``."""
    start = [0.0]

    def before(module, inputs) -> None:
        start[0] = time.perf_counter()

    def after(module, inputs, output) -> None:
        end = start[0] + (time.perf_counter() - start[0]) / ratio
        while time.perf_counter() < end:
            pass

    hooks = [
        loaded.model.register_forward_pre_hook(before),
        loaded.model.register_forward_hook(after),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _spin() -> None:
    while True:
        pass


@contextmanager
def busy_core(busy: bool) -> Iterator[None]:
    """Another process that never waits."""
    other = multiprocessing.get_context("spawn").Process(target=_spin, daemon=True)
    if busy:
        other.start()
    try:
        yield
    finally:
        if busy:
            other.kill()
            other.join()


MACHINES = {"this machine": False, "one core busy": True}


def test_timed(benchmark, capsys, sides):
    from compression_gates.evals.scoring.speed import time_pairs

    baseline, candidate, data = sides
    tally = Tally()

    def all_runs() -> None:
        for name, busy in MACHINES.items():
            with busy_core(busy), all_cores():
                for ratio in (0.6, 0.95):
                    for _ in range(TIMED):
                        with slowed_down(candidate, ratio):
                            found = time_pairs(baseline, candidate, data, PROTOCOL, [LIMIT])
                        seconds = found["seconds"]
                        tally.add(name, ratio, outcome_of(seconds), len(seconds))

    benchmark.pedantic(all_runs, rounds=1)
    show(capsys, "timed", tally)
    tally.check(MACHINES)


def test_replayed(benchmark, capsys, sides):
    from compression_gates.evals.scoring.speed import time_pairs

    baseline, candidate, data = sides
    tally = Tally()
    long = replace(PROTOCOL, looks=(8 * LOOKS[-1],))

    def all_runs() -> None:
        for name, busy in MACHINES.items():
            with busy_core(busy), all_cores():
                recorded = time_pairs(baseline, candidate, data, long)["seconds"]
            for ratio in RATIOS:
                for seed in range(REPLAYED):
                    tally.add(name, ratio, *run(replayed(recorded, seed), ratio))

    benchmark.pedantic(all_runs, rounds=1)
    show(capsys, "replayed", tally)
    tally.check(MACHINES)


def replayed(recorded: np.ndarray, seed: int) -> Callable[[int], np.ndarray]:
    """Draws consecutive recorded pairs from a random place on, either side as the baseline."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(2)
    place = int(rng.integers(len(recorded)))

    def draw(n: int) -> np.ndarray:
        nonlocal place
        rows = np.arange(place, place + n) % len(recorded)
        place += n
        return recorded[rows][:, order]

    return draw


KERNEL_RECIPES = (
    "rtn-int8,activations=true", "rtn-int8", "rtn-int4,group=32", "fp8", "magnitude-50",
    "magnitude-2:4", "svd-50",
)  # fmt: skip
LEAST_INT8_SPEEDUP = 1.5
"""Of int8 weights and inputs on a CPU, over float32."""
SHAPE = dict(
    hidden_size=384, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=12
)  # fmt: skip


@pytest.mark.parametrize("engine", ["eager", pytest.param("compiled", marks=pytest.mark.full)])
def test_kernels(benchmark, capsys, tmp_path, engine):
    """Speedups of recipes, as saved and loaded again, over the float32 model they were made of."""
    import torch

    from compression_gates.compression.apply import compress
    from compression_gates.compression.checkpoint.saving import save
    from compression_gates.compression.recipe import Recipe
    from compression_gates.evals.bench import Bench
    from compression_gates.evals.checkpoints.checkpoint import open_checkpoint
    from compression_gates.evals.models.loading import load
    from compression_gates.evals.store.store import Store
    from compression_gates.fixtures.suite.datasets import data_set
    from compression_gates.fixtures.suite.own_formats import OWN_FORMATS
    from compression_gates.fixtures.suite.sources import DataSource
    from compression_gates.fixtures.world import tokenizers, train_encoder

    torch.manual_seed(0)
    tokenizer = tokenizers.wordpiece(2000)
    model = train_encoder.build("bert", tokenizer, **SHAPE)
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    base = open_checkpoint(tmp_path / "base")
    data = data_set("reviews", DataSource("reviews", count=64), "classifier")
    bench = Bench(Store(tmp_path / "store"), formats=OWN_FORMATS)
    rows, speedups = [], {}

    def all_recipes() -> None:
        for number, recipe in enumerate(KERNEL_RECIPES):
            made = tmp_path / str(number)
            save(compress(load(base).model, Recipe.parse(recipe)), tokenizer, made)
            candidate = open_checkpoint(made)
            kernel = bench.kernel(candidate, base, data, engine)
            if reason := str(kernel["reason"]):
                rows.append([recipe, "", "", f"not judged: {reason}"])
                continue
            timed = bench.time_pair(base, candidate, data, engine=engine)
            results = [speedup(timed[name]) for name in ("seconds", "single")]
            speedups[recipe] = results[0].estimate
            shown = [f"{result.estimate.value:.2f}x" for result in results]
            rows.append([recipe, *shown, str(kernel["kernel"])])

    benchmark.pedantic(all_recipes, rounds=1)
    heads = ["recipe", "1,024 tokens", "one row", "kernel"]
    with capsys.disabled():
        print(f"\n\n{engine}\n\n{tabulate(rows, heads, 'simple', disable_numparse=True)}\n")
    assert speedups["rtn-int8,activations=true"].value >= LEAST_INT8_SPEEDUP
