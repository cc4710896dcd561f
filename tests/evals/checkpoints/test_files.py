"""Exactly the files that are loaded are hashed, counted and checked."""

import ast
import json
import os
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from compression_gates.evals.checkpoints.checkpoint import open_checkpoint, resolve
from compression_gates.evals.checkpoints.files import read_files, weight_files
from compression_gates.evals.errors import EvalError
from compression_gates.evals.models.cache import Models


@pytest.fixture
def folder(causal_checkpoint):
    return causal_checkpoint().path


def index(folder, names, file="model.safetensors.index.json"):
    """An index that puts every tensor into one of ``names``."""
    keys = load_file(folder / "model.safetensors")
    weight_map = {key: names[place % len(names)] for place, key in enumerate(sorted(keys))}
    (folder / file).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return weight_map


def sharded(folder, names, keep=False):
    """Splits the weights of a folder into files."""
    weight_map = index(folder, names)
    tensors = load_file(folder / "model.safetensors")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        part = {key: tensors[key] for key in tensors if weight_map[key] == name}
        save_file(part, folder / name, {"format": "pt"})
    if not keep:
        (folder / "model.safetensors").unlink()


def set_in(folder, name, **values):
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def whole_beside_shards(folder):
    sharded(folder, SHARDS, keep=True)


def whole_beside_shards_without_index(folder):
    shutil.copy(folder / "model.safetensors", folder / SHARDS[0])


def shards_of_an_earlier_save(folder):
    sharded(folder, SHARDS)
    shutil.copy(folder / SHARDS[0], folder / "model-00001-of-00007.safetensors")


def configuration_that_names_another_file(folder):
    (folder / "weights").mkdir()
    shutil.copy(folder / "model.safetensors", folder / "weights" / "healthy.safetensors")
    set_in(folder, "config.json", transformers_weights="weights/healthy.safetensors")


def sharded_by_rank(folder):
    name = "shard-00000-model-00001-of-00001.safetensors"
    shutil.copy(folder / "model.safetensors", folder / name)


@pytest.mark.parametrize(
    "spoil",
    [
        whole_beside_shards,
        whole_beside_shards_without_index,
        shards_of_an_earlier_save,
        configuration_that_names_another_file,
        sharded_by_rank,
    ],
)
def test_two_sets_of_weights_are_refused(folder, spoil):
    spoil(folder)
    with pytest.raises(EvalError, match="holds two sets of weights; remove either") as caught:
        open_checkpoint(folder)
    assert "\n" not in str(caught.value)


def test_one_set_that_is_named_twice_is_one(folder):
    whole = (folder / "model.safetensors").stat().st_size
    index(folder, ["model.safetensors"])
    assert open_checkpoint(folder).weight_bytes == whole


@pytest.mark.parametrize("names", [SHARDS, ["parts/a.safetensors", "parts/b.safetensors"]])
def test_shards_are_hashed_and_counted_wherever_the_index_has_them(folder, names):
    sharded(folder, names)
    checkpoint = open_checkpoint(folder)
    assert weight_files(folder) == [folder / name for name in names]
    assert checkpoint.weight_bytes == sum((folder / name).stat().st_size for name in names)
    before, shard = checkpoint.digest, folder / names[1]
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x01")
    assert open_checkpoint(folder).digest != before


def test_weights_that_the_configuration_names_are_hashed_and_counted(folder):
    (folder / "weights").mkdir()
    named = folder / "weights" / "w.safetensors"
    (folder / "model.safetensors").rename(named)
    set_in(folder, "config.json", transformers_weights="weights/w.safetensors")
    checkpoint = open_checkpoint(folder)
    assert checkpoint.weight_bytes == named.stat().st_size
    Models("cpu", "auto", 1, False, ()).load(checkpoint)
    named.write_bytes(named.read_bytes()[:-1] + b"\x01")
    assert open_checkpoint(folder).digest != checkpoint.digest


def templates(folder):
    (folder / "additional_chat_templates").mkdir()
    return folder / "additional_chat_templates" / "tools.jinja"


def other_tokenizer(folder):
    set_in(folder, "tokenizer_config.json", fast_tokenizer_files=["old/tokenizer.4.0.0.json"])
    (folder / "old").mkdir()
    return folder / "old" / "tokenizer.4.0.0.json"


def other_configuration(folder):
    set_in(folder, "config.json", configuration_files=["config.4.0.0.json"])
    return folder / "config.4.0.0.json"


def code_in_a_folder(folder):
    set_in(folder, "config.json", auto_map={"AutoModelForCausalLM": "code/modeling.Model"})
    (folder / "code").mkdir()
    return folder / "code" / "modeling.py"


def generation_code(folder):
    (folder / "custom_generate").mkdir()
    return folder / "custom_generate" / "generate.py"


@pytest.mark.parametrize(
    "made", [templates, other_tokenizer, other_configuration, code_in_a_folder, generation_code]
)
def test_every_file_that_loading_may_read_is_in_the_digest(folder, made):
    file = made(folder)
    digests = set()
    for text in ("a", "b"):
        file.write_text(text)
        assert file in read_files(folder)
        digests.add(open_checkpoint(folder).digest)
    assert len(digests) == 2
    outside = folder.parent / "outside"
    outside.write_text("a")
    file.unlink()
    file.symlink_to(outside)
    with pytest.raises(EvalError, match="lies outside of the folder"):
        open_checkpoint(folder)


def test_a_file_that_the_index_puts_outside_is_refused(folder):
    for name in ("../w.safetensors", str(folder.parent / "w.safetensors")):
        shutil.copy(folder / "model.safetensors", folder.parent / "w.safetensors")
        index(folder, [name], "named.safetensors.index.json")
        moved = folder.parent / f"by-{len(name)}"
        shutil.copytree(folder, moved)
        (moved / "model.safetensors").unlink()
        (moved / "named.safetensors.index.json").rename(moved / "model.safetensors.index.json")
        with pytest.raises(EvalError, match="lies outside of the folder"):
            open_checkpoint(moved)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "parts/w.pt", "w.SAFETENSORS"])
def test_a_pickled_file_that_the_index_names_is_refused(folder, name):
    index(folder, ["model-00001-of-00002.safetensors", name])
    (folder / "parts").mkdir()
    shutil.copy(folder / "model.safetensors", folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(EvalError, match="a pickled file can run code"):
        open_checkpoint(folder)


@pytest.mark.parametrize("named", [3, "w.bin", "pytorch_model.bin.index.json"])
def test_a_configuration_that_names_pickled_weights_is_refused(folder, named):
    set_in(folder, "config.json", transformers_weights=named)
    with pytest.raises(EvalError, match="transformers_weights"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_a_setting_outside_is_refused_before_it_is_read(folder, name):
    outside = folder.parent / "outside.json"
    outside.write_text("no JSON")
    (folder / name).unlink()
    (folder / name).symlink_to(outside)
    with pytest.raises(EvalError, match="lies outside of the folder"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "chat_template.jinja", "vocab.txt"])
@pytest.mark.parametrize("how", ["pipe", "device", "nowhere", "circle"])
def test_what_is_no_regular_file_is_refused_before_it_is_read(folder, name, how):
    file = folder / name
    file.unlink(missing_ok=True)
    if how == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to({"device": "/dev/zero", "nowhere": "gone", "circle": name}[how])
    with pytest.raises(
        EvalError, match=r"not a regular file|outside of the folder|is a broken link"
    ):
        open_checkpoint(folder)


@pytest.mark.parametrize("shared", [False, True])
def test_a_snapshot_in_a_hub_cache_is_as_good_as_a_folder(folder, tmp_path, shared):
    """Links lead to the repository's blobs, or on to blobs that all repositories share."""
    snapshot = tmp_path / "hub" / "models--a--b" / "snapshots" / "0a1b"
    blobs = tmp_path / "hub" / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (tmp_path / "hub" / "blobs").mkdir()
    plain = open_checkpoint(folder)
    for place, file in enumerate(folder.iterdir()):
        blob = (tmp_path / "hub" / "blobs" if shared else blobs) / f"f{place}"
        shutil.copy(file, blob)
        if shared:
            (blobs / f"e{place}").symlink_to(blob)
            blob = blobs / f"e{place}"
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    checkpoint = open_checkpoint(snapshot)
    assert (checkpoint.digest, checkpoint.weight_bytes) == (plain.digest, plain.weight_bytes)


def test_a_link_to_the_folder_itself_is_followed(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert open_checkpoint(tmp_path / "link").digest == open_checkpoint(folder).digest


def test_files_that_are_beside_the_weights_in_healthy_folders_are_no_second_set(folder):
    for name in ("consolidated.safetensors", "pytorch_model.bin", "model.fp16.safetensors"):
        shutil.copy(folder / "model.safetensors", folder / name)
    (folder / "onnx").mkdir()
    shutil.copy(folder / "model.safetensors", folder / "onnx" / "model.safetensors")
    whole = (folder / "model.safetensors").stat().st_size
    assert open_checkpoint(folder).weight_bytes == whole


def test_weights_under_a_name_that_no_loader_knows(folder):
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    with pytest.raises(EvalError, match=r"not weights\.safetensors; rename it"):
        open_checkpoint(folder)


@settings(max_examples=30, suppress_health_check=list(HealthCheck), deadline=None)
@given(names=st.lists(st.text(min_size=1, max_size=12) | st.sampled_from(
    ["..", "../w.safetensors", "a/../../w.safetensors", "/dev/zero.safetensors", "\0.safetensors",
     "a" * 300 + ".safetensors", ".safetensors", "./model.safetensors/.safetensors", "\ud800"]
), min_size=1))  # fmt: skip
def test_whatever_an_index_names_is_read_inside_or_refused_in_a_line(tmp_path_factory, names):
    place = tmp_path_factory.mktemp("index")
    (place / "config.json").write_text("{}")
    weight_map = {str(number): name for number, name in enumerate(names)}
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises((EvalError, OSError, ValueError)) as caught:
        weight_files(place)
    assert "\n" not in str(caught.value)


class TestChanges:
    """Of files between hashing and storing."""

    @staticmethod
    def swap(file, change):
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file.with_suffix(".new"), {"format": "pt"})
        file.with_suffix(".new").replace(file)

    @staticmethod
    def destroy(tensors):
        for tensor in tensors.values():
            tensor.zero_()

    @pytest.mark.parametrize("when", ["before", "during", "only during", "after"])
    def test_nothing_is_kept_of_weights_that_change(self, folder, tmp_path, monkeypatch, when):
        from compression_gates.evals.bench import Bench
        from compression_gates.evals.models import loading
        from compression_gates.evals.store.store import Store

        checkpoint = open_checkpoint(folder)
        assert checkpoint.digest
        file, healthy = folder / "model.safetensors", (folder / "model.safetensors").read_bytes()
        plain = loading.load

        def load(*args):
            if when in ("during", "only during"):
                self.swap(file, self.destroy)
            loaded = plain(*args)
            if when == "only during":
                file.write_bytes(healthy)
            return loaded

        monkeypatch.setattr(loading, "load", load)
        if when == "before":
            self.swap(file, self.destroy)
        if when == "after":
            monkeypatch.setattr(
                "compression_gates.evals.bench._footprint",
                lambda loaded: self.swap(file, self.destroy) or {},
            )
        store = Store(tmp_path / "store")
        with pytest.raises(EvalError, match=r"model\.safetensors was changed while it was read"):
            Bench(store).scores(checkpoint, {})
        assert not list((store.root / "measurements").iterdir())

    def test_a_file_that_is_only_touched_is_fine(self, folder):
        checkpoint = open_checkpoint(folder)
        assert checkpoint.digest
        os.utime(folder / "model.safetensors")
        checkpoint.check_unchanged()
        checkpoint.check_unchanged(by_content=False)

    def test_a_file_that_is_added_is_a_change(self, folder):
        checkpoint = open_checkpoint(folder)
        assert checkpoint.digest
        (folder / "chat_template.jinja").write_text("{{ messages }}")
        with pytest.raises(EvalError, match=r"chat_template\.jinja was changed"):
            checkpoint.check_unchanged()

    def test_what_an_adapter_adapts_may_not_change_either(self, folder, tmp_path):
        pytest.importorskip("peft")
        adapter = tmp_path / "adapter"
        adapter.mkdir()
        config = {"base_model_name_or_path": str(folder), "peft_type": "LORA"}
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        shutil.copy(folder / "model.safetensors", adapter / "adapter_model.safetensors")
        checkpoint = open_checkpoint(adapter)
        assert checkpoint.digest
        self.swap(folder / "model.safetensors", self.destroy)
        with pytest.raises(EvalError, match="was changed while it was read"):
            checkpoint.check_unchanged()


def vocabulary_files():
    """Names of the files of all tokenizers of transformers, from its source: some classes cannot
    be imported without packages that are not installed."""
    import transformers

    files = Path(transformers.__file__).parent.rglob("tokenization_*.py")
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_bytes())))
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            names = [getattr(target, "id", "").lower() for target in node.targets]
            values = node.value.values if "vocab_files_names" in names else []
            yield from (name.value for name in values if isinstance(name, ast.Constant))


def test_every_file_of_a_tokenizer_is_read(folder, tmp_path, monkeypatch):
    names = {*vocabulary_files()}
    assert names >= {"bpe.codes", "prophetnet.tokenizer", "source.spm", "vocab.txt"}
    for name in names:
        if not (folder / name).exists():
            (folder / name).write_text("x")
    assert {file.name for file in read_files(folder, weights=False)} >= names
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda name, revision, allow_patterns: asked.extend(allow_patterns) or tmp_path,
    )
    assert resolve("maker/model") == tmp_path
    for name in names:
        assert any(fnmatch(name, pattern) for pattern in asked), name


@pytest.mark.parametrize("name", ["bpe.codes", "prophetnet.tokenizer", "source.spm"])
def test_a_tokenizer_in_a_file_of_its_own_is_in_the_digest(folder, name):
    (folder / name).write_text("one")
    before = open_checkpoint(folder).digest
    (folder / name).write_text("two")
    assert open_checkpoint(folder).digest != before
