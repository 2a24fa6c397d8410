"""Checkpoints: a local folder or a hub model, read into config, image and tokenizer specs, and weights."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ...runtime import privacy
from ...runtime.artifact.input_specs import ImageSpec, TokenizerSpec
from ...runtime.errors import CheckpointError
from ..options import Dialect
from .config import SiglipConfig, read_config
from .dialects import detect
from .expected_shapes import expected_shapes
from .image_spec import image_spec, processor_file, read_image_spec
from .infer_config import infer_config, read_preprocess
from .other_computations import refuse_other_computations
from .tensor_files import TensorStore, open_store
from .tokenizer_spec import read_tokenizer_spec
from .weights import Weights

# Files to download from the hub: no pickles, no code.
_HUB_FILES: Final = ("*.json", "*.safetensors", "spiece.model")
_HUB_ID: Final = re.compile(r"\w[\w.-]*/\w[\w.-]*")
# Dialects whose checkpoints may lack transformers' JSON files.
_FILES_OPTIONAL: Final = frozenset({Dialect.OPEN_CLIP, Dialect.BIG_VISION})


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint; its tensors are read on demand.

    Attributes:
        name: Id on the hub, or name of the folder.
        folder: The local folder.
        config: Sizes of both towers.
        image: Preprocessing of images.
        tokenizer: Preprocessing of texts.
        weights: Tensors by transformers' names.
    """

    name: str
    folder: Path
    config: SiglipConfig
    image: ImageSpec
    tokenizer: TokenizerSpec
    weights: Weights

    @classmethod
    def open(cls, name: str | Path, dialect: Dialect | None = None, image_size: int | None = None) -> Checkpoint:
        """Read and check a checkpoint.

        Args:
            name: A folder, or the id of a model on the Hugging Face hub; huggingface_hub's cache and HF_HUB_OFFLINE
                apply.
            dialect: Dialect of the weights; None detects it.
            image_size: Height and width in pixels instead of the checkpoint's; see `resized`.

        Raises:
            CheckpointError: The checkpoint is missing, damaged, of another model, or does not fit its own config.
        """
        folder = locate(str(name))
        refuse_other_computations(folder)
        store = open_store(
            folder,
            npz=None if dialect is None else dialect is Dialect.BIG_VISION,
            open_clip=None if dialect is None else dialect is Dialect.OPEN_CLIP,
        )
        config, dialect = _config_and_dialect(folder, store, dialect)
        weights = Weights.open(store, dialect, expected_shapes(config))
        image = _image_spec(folder, config, dialect)
        tokenizer = read_tokenizer_spec(folder, config.text_config, open_clip=dialect in _FILES_OPTIONAL)
        checkpoint = cls(_name(str(name), folder), folder, config, image, tokenizer, weights)
        return checkpoint if image_size is None else checkpoint.resized(image_size)

    def resized(self, size: int) -> Checkpoint:
        """Copy with another image size in `config` and `image`; the stored position embeddings stay unchanged.

        Raises:
            CheckpointError: The model has no image size (NaFlex), or the size is smaller than a patch.
        """
        vision = self.config.vision_config
        if vision.naflex:
            raise CheckpointError(f"{self.folder} is a NaFlex model, which has no image size.", "Omit image_size.")
        if size < vision.patch_size:
            raise CheckpointError(
                f"image_size must be at least the patch size of {vision.patch_size}, got {size}.", "Use a larger size."
            )
        config = replace(self.config, vision_config=replace(vision, image_size=size))
        return replace(self, config=config, image=replace(self.image, height=size, width=size))

    @property
    def logit_scale(self) -> float:
        """Factor of the cosine, already exponentiated; raises CheckpointError if it is not finite."""
        value = math.exp(min(float(self.weights.load("logit_scale")), 80.0))  # exp(80) is still a float32
        return _finite(value, "logit_scale", self.folder)

    @property
    def logit_bias(self) -> float:
        """Summand of the scaled cosine; raises CheckpointError if it is not finite."""
        return _finite(float(self.weights.load("logit_bias")), "logit_bias", self.folder)


def _image_spec(folder: Path, config: SiglipConfig, dialect: Dialect) -> ImageSpec:
    if dialect not in _FILES_OPTIONAL or processor_file(folder) is not None:
        return read_image_spec(folder, config.vision_config)
    if dialect is Dialect.BIG_VISION:
        _require_known_resize(folder, config)
    return image_spec(config.vision_config, read_preprocess(folder))


def _require_known_resize(folder: Path, config: SiglipConfig) -> None:
    """Check that an .npz without preprocessor_config.json leaves no doubt how images are resized.

    Raises:
        CheckpointError: The model may use another resize than SigLIP's square bicubic one to whole patches.
    """
    vision = config.vision_config
    doubts = {
        "it is a NaFlex model": vision.naflex,
        "SigLIP 2 may use another filter than SigLIP": (folder / "tokenizer.json").exists(),
        f"patches of {vision.patch_size} pixels do not cover 384 pixels": 384 % vision.patch_size > 0,
    }
    for doubt, applies in doubts.items():
        if applies:
            raise CheckpointError(
                f"The weights in {folder} do not determine how images are resized: {doubt}.",
                "Put the preprocessor_config.json and config.json of the same hub model into the folder.",
            )


def _config_and_dialect(folder: Path, store: TensorStore, dialect: Dialect | None) -> tuple[SiglipConfig, Dialect]:
    """Read or infer the config, and detect the dialect unless it is given."""
    config = read_config(folder) if (folder / "config.json").exists() else None

    def required_config() -> SiglipConfig:
        return config or read_config(folder)  # raises the error about a missing file

    dialect = dialect or detect(store, lambda: expected_shapes(required_config()))
    if config is None and dialect in _FILES_OPTIONAL:
        return infer_config(folder, store, dialect), dialect
    return required_config(), dialect


def locate(name: str) -> Path:
    """Find the folder of a checkpoint; download it if `name` is the id of a hub model.

    Raises:
        CheckpointError: There is no such folder, and the model cannot be downloaded.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.exists() or not _HUB_ID.fullmatch(name):
        raise CheckpointError(
            f"There is no folder {name}, and the name is not the id of a hub model (owner/name) either.",
            "Name a folder with config.json and weights, or an id such as google/siglip-base-patch16-224.",
        )
    privacy.opt_out()
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(_HUB_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"There is no folder {name}, and the model {name} could not be downloaded from the hub "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}).",
            "Check the name, the network and HF_HUB_OFFLINE, or name a folder.",
        ) from error


def _name(name: str, folder: Path) -> str:
    return name if not Path(name).exists() else folder.resolve().name


def _finite(value: float, name: str, folder: Path) -> float:
    if not math.isfinite(value):
        raise CheckpointError(f"The {name} in {folder} must be finite, got {value}.", "Download the checkpoint again.")
    return value
