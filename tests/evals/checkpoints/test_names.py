"""All readers of a configuration use one table of names."""

import json

import pytest

from compression_gates.evals.checkpoints.checkpoint import open_checkpoint
from compression_gates.evals.checkpoints.names import POSITIONS
from compression_gates.evals.checkpoints.setting_kinds import CONTEXT, kind_of


@pytest.mark.parametrize("name", POSITIONS)
def test_longest_input_by_every_name(causal_checkpoint, name):
    folder = causal_checkpoint().path
    described = json.loads((folder / "config.json").read_text())
    del described["max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps(described | {name: 77}))
    assert open_checkpoint(folder).context == 77
    assert kind_of(name) == CONTEXT
