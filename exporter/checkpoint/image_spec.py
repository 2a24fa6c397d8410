"""Image preprocessing of a checkpoint: transformers' files, or open_clip's and big_vision's equivalent."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from ...runtime.artifact.input_specs import ImageSpec
from ...runtime.errors import CheckpointError
from .config import Size, VisionConfig, decode_json, read_json

FILE: Final = "preprocessor_config.json"
# transformers 5 writes this file instead, with the image processor as one of its entries. Where both files have one, it
# takes this file's (`get_image_processor_dict` in image_processing_base.py).
COMBINED_FILE: Final = "processor_config.json"
_ENTRY: Final = "image_processor"


@dataclass(frozen=True)
class _Processor:
    """preprocessor_config.json. Defaults: transformers, `image_processing_pil_siglip.py`."""

    size: dict[str, int] = field(default_factory=lambda: {"height": 224, "width": 224})
    resample: Literal[0, 1, 2, 3, 4, 5] = 3
    rescale_factor: float = 1 / 255
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_processor_type: str = "SiglipImageProcessor"
    do_resize: Literal[True] = True
    do_rescale: Literal[True] = True
    do_normalize: Literal[True] = True


@dataclass(frozen=True)
class _NaflexProcessor(_Processor):
    """preprocessor_config.json of a NaFlex model. Defaults: transformers, `image_processing_pil_siglip2.py`."""

    size: Any = None
    resample: Literal[0, 1, 2, 3, 4, 5] = 2
    image_processor_type: str = "Siglip2ImageProcessor"
    patch_size: Size = 16
    max_num_patches: Size = 256


@dataclass(frozen=True)
class PreprocessConfig:
    """`preprocess_cfg` of open_clip_config.json. Defaults: open_clip, `PreprocessCfg` in transform.py, for SigLIP."""

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    interpolation: Literal["bicubic", "bilinear", "random"] = "bicubic"
    resize_mode: str = "squash"


# PIL.Image.Resampling
_FILTERS: Final = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")


def processor_file(folder: Path) -> Path | None:
    """The file that holds the configuration of the image processor; None if there is none.

    Raises:
        CheckpointError: processor_config.json is damaged.
    """
    path = folder / COMBINED_FILE if _combined_entry(folder) is not None else folder / FILE
    return path if path.exists() else None


def _combined_entry(folder: Path) -> bytes | None:
    """The image processor in processor_config.json; None if there is none."""
    path = folder / COMBINED_FILE
    entry = read_json(path, dict[str, msgspec.Raw]).get(_ENTRY) if path.exists() else None
    return None if entry is None else bytes(entry)


def _processor_json(folder: Path) -> tuple[Path, bytes]:
    """The configuration of the image processor, and the file that holds it; raises CheckpointError if there is none."""
    entry = _combined_entry(folder)
    if entry is not None:
        return folder / COMBINED_FILE, entry
    return folder / FILE, bytes(read_json(folder / FILE, msgspec.Raw))


def read_image_spec(folder: Path, vision: VisionConfig) -> ImageSpec:
    """Read processor_config.json or preprocessor_config.json, with the precedence of transformers.

    Raises:
        CheckpointError: Both files are missing, one is damaged, or it does not fit the vision tower.
    """
    path, content = _processor_json(folder)
    processor = decode_json(path, content, _NaflexProcessor if vision.naflex else _Processor)
    expected = "Siglip2ImageProcessor" if vision.naflex else "SiglipImageProcessor"
    if not processor.image_processor_type.startswith(expected):
        raise CheckpointError(
            f"{path}: image_processor_type is {processor.image_processor_type}, expected {expected}.",
            "Use the file that belongs to the SigLIP checkpoint.",
        )
    spec = ImageSpec(
        height=vision.image_size,
        width=vision.image_size,
        filter=_FILTERS[processor.resample],
        rescale=processor.rescale_factor,
        mean=processor.image_mean,
        std=processor.image_std,
    )
    if isinstance(processor, _NaflexProcessor):
        return _patches(path, processor, vision, spec)
    height, width = processor.size.get("height"), processor.size.get("width")
    if height != vision.image_size or width != vision.image_size:
        raise CheckpointError(
            f"{path} resizes images to {height} x {width} pixels, but the vision tower in config.json takes "
            f"{vision.image_size} x {vision.image_size}.",
            f"Use the {path.name} that belongs to this checkpoint.",
        )
    return spec


def _patches(path: Path, processor: _NaflexProcessor, vision: VisionConfig, spec: ImageSpec) -> ImageSpec:
    if processor.patch_size != vision.patch_size:
        raise CheckpointError(
            f"{path}: patch_size is {processor.patch_size}, but the vision tower in config.json takes "
            f"{vision.patch_size}.",
            f"Use the {path.name} that belongs to this checkpoint.",
        )
    square = math.isqrt(processor.max_num_patches) * vision.patch_size
    return replace(
        spec,
        height=square,
        width=square,
        resize="patches",
        patch_size=vision.patch_size,
        max_patches=processor.max_num_patches,
    )


def image_spec(vision: VisionConfig, preprocess: PreprocessConfig) -> ImageSpec:
    """Convert open_clip's configuration; big_vision's preprocessing is that of PreprocessConfig's defaults.

    Raises:
        CheckpointError: The configuration crops images, or picks a random filter.
    """
    if preprocess.resize_mode != "squash" or preprocess.interpolation == "random":
        raise CheckpointError(
            f"open_clip_config.json has resize_mode {preprocess.resize_mode!r} and interpolation "
            f"{preprocess.interpolation!r}, expected 'squash' and a bicubic or bilinear filter.",
            "Correct the file.",
        )
    size = vision.image_size
    return ImageSpec(size, size, preprocess.interpolation, 1 / 255, preprocess.mean, preprocess.std)


def processor_config(spec: ImageSpec) -> dict[str, Any]:
    """All entries of preprocessor_config.json, for consumers without defaults."""
    common = {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
        "resample": _FILTERS.index(spec.filter),
        "rescale_factor": spec.rescale,
    }
    if spec.resize == "patches":
        classes = {"image_processor_type": "Siglip2ImageProcessor", "processor_class": "Siglip2Processor"}
        return {**common, **classes, "patch_size": spec.patch_size, "max_num_patches": spec.max_patches}
    classes = {"image_processor_type": "SiglipImageProcessor", "processor_class": "SiglipProcessor"}
    return {**common, **classes, "size": {"height": spec.height, "width": spec.width}}
