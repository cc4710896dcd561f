"""Where calibration keeps outputs of blocks and weights, and with how much memory."""

import copy
import gc
import itertools
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from compression_gates.compression.apply import compress
from compression_gates.compression.architectures.models import ARCHITECTURES
from compression_gates.compression.architectures.trial import calibration
from compression_gates.compression.calibration import offloading, resources
from compression_gates.compression.calibration.driver import block_names, collect, visit_groups
from compression_gates.compression.calibration.kept_outputs import KeptOutputs
from compression_gates.compression.calibration.offloading import offloaded
from compression_gates.compression.calibration.resources import Resources, memory_of, using
from compression_gates.compression.errors import CompressionError
from compression_gates.compression.model import pretrained
from compression_gates.compression.model.layers import backbone_layers
from compression_gates.compression.recipe import Recipe


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None), ("0", 0), ("1000", 1000), ("512MB", 512 * 10**6), ("8GB", 8 * 10**9),
        ("1.5GiB", 3 * 2**29), ("2 TiB", 2**41), ("64K", 64000),
    ],
)  # fmt: skip
def test_sizes(text, expected):
    assert memory_of("--memory", text) == expected


@pytest.mark.parametrize("text", ["", "8 gigabytes", "-1GB", "GB", "1e9", "8gb", "٣GB", "inf"])
def test_other_sizes_are_rejected(text):
    with pytest.raises(CompressionError, match=r"--memory .*: give a size such as 512MB"):
        memory_of("--memory", text)


def test_free_memory_respects_the_control_group(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "_CGROUP", tmp_path)
    free = resources.free_memory(torch.device("cpu"))
    assert free > 10**6
    (tmp_path / "memory.current").write_text("500\n")
    (tmp_path / "memory.max").write_text("2500\n")
    assert resources.free_memory(torch.device("cpu")) == 2000
    (tmp_path / "memory.max").write_text("max\n")
    assert resources.free_memory(torch.device("cpu")) > 10**6


@pytest.mark.parametrize("memory", [0, 100, 10**6])
def test_outputs_are_kept_bit_for_bit(memory):
    base = torch.randn(6, 8).bfloat16()
    output = (base.T, {"a": torch.arange(5), "b": None}, base[:, ::2])
    with KeptOutputs(memory) as kept:
        kept.put((0, "x"), base)
        kept.put((0, "x"), output)
        kept.put((1, "x"), base)
        first, second, third = kept.get((0, "x"))
        for tensor, expected in ((first, base.T), (second["a"], torch.arange(5)),
                                 (third, base[:, ::2])):  # fmt: skip
            assert torch.equal(tensor, expected)
            assert tensor.dtype == expected.dtype
        assert first.stride() == base.T.stride()
        assert second["b"] is None
        assert torch.equal(kept.get((1, "x")), base)


def test_only_outputs_beyond_the_memory_are_files_and_these_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    files = lambda: [file for file in tmp_path.rglob("*") if file.is_file()]  # noqa: E731
    with KeptOutputs(memory=100) as kept:
        for number in range(4):
            kept.put((number, "x"), torch.ones(10))
        assert len(files()) == 2
        kept.put((0, "x"), torch.zeros(10))
        kept.put((3, "x"), torch.zeros(10))
        assert len(files()) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("end", ["complete", "error", "close", "abandon"])
def test_no_file_is_left(tiny_llama, batches, tmp_path, monkeypatch, end):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with using(Resources(memory=0)):
        visits = visit_groups(tiny_llama, backbone_layers(tiny_llama), batches, False)
        for _ in range(6):
            next(visits)
        assert list(tmp_path.rglob("*"))
        if end == "complete":
            list(visits)
        if end == "error":
            with pytest.raises(ZeroDivisionError):
                visits.throw(ZeroDivisionError)
        if end == "close":
            visits.close()
        del visits
        gc.collect()
    assert not list(tmp_path.iterdir())


DEVICE = torch.device("cpu", 0)
"""Stands for a GPU: a device other than ``torch.device("cpu")``, on which tensors can be used."""


@pytest.fixture
def on_device(monkeypatch):
    """Return the ids of the tensors that were moved to the device, and their largest numbers."""
    there, largest = set(), []
    move = offloading.move

    def moved(tensors, device):
        tensors = list(tensors)
        move(tensors, device)
        (there.update if device == DEVICE else there.difference_update)(map(id, tensors))
        largest.append(frozenset(there))

    monkeypatch.setattr(offloading, "move", moved)
    return there, largest


OFFLOADED = ("llama", "gpt2", "mixtral", "albert", "t5", "bert", "llama4", "jetmoe", "xlm",
             "switch_transformers")  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [*itertools.product(OFFLOADED, ["wanda-50"]),
     *(pytest.param(name, "gptq-int4", marks=[] if name in OFFLOADED[:5] else pytest.mark.full)
       for name in OFFLOADED),
     *itertools.product(["llama", "gpt2", "mixtral", "albert"], ["awq-int4+rtn-int4"])],
)  # fmt: skip
def test_at_most_one_block_is_on_the_device(on_device, name, text):
    there, snapshots = on_device
    make = ARCHITECTURES[name].make
    expected, model = make(), make()
    batches = calibration(model)
    compress(expected, Recipe.parse(text), batches)
    parameters = dict(model.named_parameters())
    result = compress(model, Recipe.parse(text), batches, resources=Resources(device="cpu:0"))
    for key, tensor in expected.state_dict().items():
        assert torch.equal(tensor, result.model.state_dict()[key]), key
    assert parameters.items() == dict(model.named_parameters()).items()
    assert snapshots
    assert not there
    blocks = [
        {id(tensor) for tensor in model.get_submodule(block).parameters()}
        for block in block_names(model)
    ]
    for snapshot in snapshots:
        assert sum(bool(block & snapshot) for block in blocks) <= 1
    seen = frozenset().union(*snapshots)
    assert all(id(parameter) in seen for parameter in model.parameters())


def test_pairs_of_layers_in_several_blocks_cannot_be_offloaded():
    model = ARCHITECTURES["t5"].make()
    recipe, batches = Recipe.parse("awq-int4+rtn-int4"), calibration(model)
    with pytest.raises(CompressionError, match=r"awq-int4: .* are in several blocks.*device cpu"):
        compress(model, recipe, batches, resources=Resources(device="cpu:0"))


def test_statistics_of_a_group_are_yielded_while_its_block_is_on_the_device(
    tiny_llama, batches, on_device
):
    there, _ = on_device
    layers = backbone_layers(tiny_llama)
    with using(Resources(device="cpu:0")):
        for group in visit_groups(tiny_llama, layers, batches, with_products=False):
            assert all(id(layers[name].stored) in there for name in group)
        collect(tiny_llama, layers, batches, with_products=False)
    assert not there


def test_tied_weights_remain_on_the_device(on_device):
    there, _ = on_device
    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList([torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)])
    model.head = torch.nn.Linear(4, 4)
    model.head.weight = model.layers[1].weight
    before = copy.deepcopy(model.state_dict())
    with offloaded(model, block_names(model), DEVICE) as place:
        assert id(model.head.weight) in there
        place("layers.1")
        place("layers.0.weight")
        assert id(model.head.weight) in there
        assert id(model.layers[1].bias) not in there
    assert not there
    assert model.head.weight is model.layers[1].weight
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any("forward" in vars(module) for module in model.modules())


def test_an_interrupted_calibration_returns_everything(tiny_llama, batches, on_device):
    there, _ = on_device
    with using(Resources(device="cpu:0")):
        visits = visit_groups(tiny_llama, backbone_layers(tiny_llama), batches, False)
        next(visits)
        assert there
        with pytest.raises(KeyboardInterrupt):
            visits.throw(KeyboardInterrupt)
    assert not there


def test_temporary_files_are_not_in_the_working_directory(
    tiny_llama, batches, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    compress(tiny_llama, Recipe.parse("wanda-50"), batches, resources=Resources(memory=0))
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("gpu", "free", "expected"),
    [(False, 0, ("cpu", None)), (True, 2.1, ("cuda:0", None)), (True, 1.9, (None, "cuda:0"))],
)
def test_auto_leaves_a_model_in_host_memory_that_takes_more_than_half(
    tiny_llama, monkeypatch, gpu, free, expected
):
    size = sum(tensor.nbytes for tensor in (*tiny_llama.parameters(), *tiny_llama.buffers()))
    moves = [None]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(pretrained, "free_memory", lambda device: free * size)
    monkeypatch.setattr(type(tiny_llama), "to", lambda model, device: moves.append(device))
    calibrated_on = pretrained.place(tiny_llama, "auto")
    assert (moves[-1], calibrated_on) == expected


def test_codes_of_a_model_in_host_memory_do_not_remain_on_the_device(
    tiny_llama, batches, monkeypatch
):
    moved = []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: moved.append(tensor) or cpu(tensor))
    recipe = Recipe.parse("gptq-int4,symmetric=false")
    result = compress(tiny_llama, recipe, batches, resources=Resources(device="cpu:0"))
    kept = {id(tensor) for tensor in moved}
    for quantized in result.quantized.values():
        assert {id(quantized.codes), id(quantized.scales), id(quantized.zeros)} <= kept


class Devices(TorchDispatchMode):
    """Raises an error where a tensor in host memory meets one on the device in an operation.

    The results of an operation are where its arguments are. Tensors that are created without one,
    such as ranges, can be anywhere.
    """

    COPIES = ("_to_copy", "copy_")

    def __init__(self, model):
        super().__init__()
        self.on_device = WeakTensorKeyDictionary()
        self.place((*model.parameters(), *model.buffers()), False)

    def place(self, tensors, on_device):
        self.on_device.update(dict.fromkeys(tensors, on_device))

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        arguments = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        places = {self.on_device.get(x) for x in arguments if x.ndim or len(arguments) == 1}
        places -= {None}
        if function.__name__.split(".")[0] not in self.COPIES:
            assert len(places) <= 1, f"{function} of tensors on different devices"
            if places:
                results = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
                self.place(results, places.pop())
        elif kwargs.get("device") == DEVICE:
            self.place([result], True)
        elif not function.__name__.startswith("copy_") and places:
            self.place([result], places.pop())
        return result


RECIPES = ("wanda-50", "sparsegpt-50", "gptq-int4", "lsq-int4,iterations=2", "svdllm-50",
           "awq-int4+rtn-int4", "smoothquant+rtn-int8,activations=true", "wanda-50,allocation=owl",
           "gptq-int8,activations=true")  # fmt: skip
OF_SEVERAL_KINDS = ("wanda-50", "gptq-int4", "svdllm-50", "smoothquant+rtn-int8,activations=true")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("llama", text) for text in RECIPES),
        *(
            pytest.param(name, text, marks=[] if text in OF_SEVERAL_KINDS else pytest.mark.full)
            for name in ("bert", "gpt2")
            for text in RECIPES
        ),
    ],
)
def test_tensors_in_host_memory_do_not_meet_those_on_the_device(monkeypatch, name, text):
    model = ARCHITECTURES[name].make()
    batches = calibration(model)
    devices = Devices(model)
    move, cpu, to = offloading.move, torch.Tensor.cpu, torch.Tensor.to

    def moved(tensors, device):
        tensors = list(tensors)
        move(tensors, device)
        devices.place(tensors, device == DEVICE)

    def to_host(tensor):
        copy = cpu(tensor).clone()
        devices.place([copy], False)
        return copy

    def to_device_of_another(tensor, *args, **kwargs):
        copy = to(tensor, *args, **kwargs)
        if args and args[0] == torch.device("cpu"):
            copy = copy.clone()
            devices.place([copy], None)
        return copy

    monkeypatch.setattr(offloading, "move", moved)
    monkeypatch.setattr(torch.Tensor, "cpu", to_host)
    monkeypatch.setattr(torch.Tensor, "to", to_device_of_another)
    with devices:
        compress(model, Recipe.parse(text), batches, resources=Resources(0, device="cpu:0"))
