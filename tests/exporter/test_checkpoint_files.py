"""Files beside the weights: what transformers 5 writes is read, and what would change the computation is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoProcessor, SiglipConfig
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from siglip_onnx.exporter import Checkpoint
from siglip_onnx.exporter.checkpoint.image_spec import COMBINED_FILE, FILE
from siglip_onnx.runtime.errors import CheckpointError
from siglip_onnx.runtime.preprocessing.image import ImageProcessor

from ..conftest import DATA


def resaved(checkpoint: Path, **changes: object) -> Path:
    """The checkpoint with the processor files that the pinned transformers writes, after changes to the processor."""
    processor = AutoProcessor.from_pretrained(checkpoint, local_files_only=True)
    for name, value in changes.items():
        setattr(processor.image_processor, name, value)
    (checkpoint / FILE).unlink()
    processor.save_pretrained(checkpoint)
    return checkpoint


def test_the_file_that_transformers_5_writes_is_read(checkpoint: Path) -> None:
    expected = Checkpoint.open(checkpoint).image
    resaved(checkpoint)
    assert not (checkpoint / FILE).exists()
    assert Checkpoint.open(checkpoint).image == expected


def test_values_of_that_file_count(checkpoint: Path) -> None:
    resaved(checkpoint, image_mean=[0.4, 0.5, 0.6], resample=2)
    image = Checkpoint.open(checkpoint).image
    assert (image.mean, image.filter) == ((0.4, 0.5, 0.6), "bilinear")
    reference = SiglipImageProcessorPil.from_pretrained(checkpoint, local_files_only=True)
    photo = next((DATA / "images" / "odd").glob("cat_gr*"))
    expected = reference(str(photo), return_tensors="np")["pixel_values"]
    assert np.array_equal(ImageProcessor(image)([photo]), expected)


def test_where_both_files_are_there_the_precedence_is_that_of_transformers(checkpoint: Path) -> None:
    old = (checkpoint / FILE).read_bytes()
    resaved(checkpoint, image_mean=[0.4, 0.5, 0.6])
    (checkpoint / FILE).write_bytes(old)
    reference = SiglipImageProcessorPil.from_pretrained(checkpoint, local_files_only=True)
    assert Checkpoint.open(checkpoint).image.mean == tuple(reference.image_mean) == (0.4, 0.5, 0.6)


def test_an_older_combined_file_without_the_entry_leaves_the_other_file_in_force(checkpoint: Path) -> None:
    expected = Checkpoint.open(checkpoint).image
    (checkpoint / COMBINED_FILE).write_text('{"processor_class": "SiglipProcessor"}')
    assert Checkpoint.open(checkpoint).image == expected


@pytest.mark.parametrize("content", ["{", "[]", '{"image_processor": 3}', '{"image_processor": {"resample": 9}}'])
def test_a_damaged_file_is_named(checkpoint: Path, content: str) -> None:
    (checkpoint / COMBINED_FILE).write_text(content)
    with pytest.raises(CheckpointError, match=COMBINED_FILE):
        Checkpoint.open(checkpoint)


def test_an_adapter_is_refused_and_the_way_out_is_named(checkpoint: Path) -> None:
    (checkpoint / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(CheckpointError, match=r"adapter_config\.json") as error:
        Checkpoint.open(checkpoint)
    assert "merge_and_unload" in error.value.next_step


@pytest.mark.parametrize(
    ("entry", "value"),
    [("quantization_config", {"quant_method": "gptq"}), ("auto_map", {"AutoModel": "modeling.Mine"})],
)
def test_an_entry_that_changes_the_computation_is_refused(checkpoint: Path, entry: str, value: object) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, entry: value}))
    with pytest.raises(CheckpointError, match=entry):
        Checkpoint.open(checkpoint)


def test_a_config_as_the_pinned_transformers_writes_it_is_no_such_entry(checkpoint: Path) -> None:
    SiglipConfig.from_pretrained(checkpoint, local_files_only=True).save_pretrained(checkpoint)
    Checkpoint.open(checkpoint)
