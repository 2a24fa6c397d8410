"""Every config.pbtxt conforms to Triton's protobuf schema, and the ensemble to Triton's rules.

The schema comes from tritonclient in the environment `triton`, whose protobuf is older than ours.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from siglip_onnx.exporter import export
from siglip_onnx.exporter.layouts import Layout, write_layout
from tests.conftest import CHECKPOINT

from . import environments

MODELS = ("siglip_image", "siglip_preprocess", "siglip_text", "siglip_vision")
READ = """
import json, sys
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
texts = json.load(sys.stdin)
parsed = {name: text_format.Parse(text, model_config_pb2.ModelConfig()) for name, text in texts.items()}
to_dict = lambda message: json_format.MessageToDict(message, preserving_proto_field_name=True)
json.dump({name: to_dict(message) for name, message in parsed.items()}, sys.stdout)
"""


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every configuration, parsed with Triton's protobuf schema."""
    python = environments.python("triton")
    folder = tmp_path_factory.mktemp("triton")
    export(CHECKPOINT, folder / "artifact", progress=lambda step: None)
    models = write_layout(folder / "artifact", folder / "models", Layout.TRITON, progress=lambda step: None)
    texts = {path.parent.name: path.read_text() for path in models.glob("*/config.pbtxt")}
    done = subprocess.run([python, "-c", READ], input=json.dumps(texts), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def full_shape(config: dict[str, Any], tensor: dict[str, Any]) -> list[int]:
    """Dimensions including the batch, if the model forms batches."""
    return [-1] * (int(config.get("max_batch_size", 0)) > 0) + [int(d) for d in tensor["dims"]]


def agree(one: list[int], other: list[int]) -> bool:
    """Triton's CompareDimsWithWildcard."""
    return len(one) == len(other) and all(-1 in (a, b) or a == b for a, b in zip(one, other, strict=True))


def test_every_configuration_conforms_to_tritons_schema(configs: dict[str, Any]) -> None:
    assert sorted(configs) == sorted(MODELS)
    for name, config in configs.items():
        assert config["name"] == name
        assert config["platform"] == ("ensemble" if name == "siglip_image" else "onnxruntime_onnx")
    assert configs["siglip_vision"]["dynamic_batching"]["preferred_batch_size"] == [8, 32]
    assert configs["siglip_preprocess"]["instance_group"] == [{"count": 1, "kind": "KIND_CPU"}]


def test_ensemble_conforms_to_tritons_rules(configs: dict[str, Any]) -> None:
    """ValidateEnsembleConfig in src/ensemble_scheduler/ensemble_utils.cc of triton-inference-server/core."""
    ensemble = configs["siglip_image"]
    known = {t["name"]: (full_shape(ensemble, t), t["data_type"]) for t in (*ensemble["input"], *ensemble["output"])}
    for step in ensemble["ensemble_scheduling"]["step"]:
        model = configs[step["model_name"]]
        for field, mapping in (("input", step["input_map"]), ("output", step["output_map"])):
            tensors = {tensor["name"]: tensor for tensor in model[field]}
            assert mapping.keys() <= tensors.keys()
            assert field == "output" or mapping.keys() == tensors.keys()
            for name, ensemble_name in mapping.items():
                shape, kind = full_shape(model, tensors[name]), tensors[name]["data_type"]
                found = known.setdefault(ensemble_name, (shape, kind))
                assert agree(found[0], shape)
                assert found[1] == kind
