"""A checkpoint: a folder, or a hub id that becomes one, read into config, specs and weights."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ...runtime import privacy
from ...runtime.artifact.contract import ImageSpec, TokenizerSpec
from ...runtime.errors import CheckpointError
from ..options import Dialect
from .config import SiglipConfig, read_config
from .dialects import detect
from .expected_shapes import expected_shapes
from .image_spec import FILE as PROCESSOR_FILE
from .image_spec import image_spec, read_image_spec
from .infer_config import infer_config, read_preprocess
from .tensor_files import Store, open_store
from .tokenizer_spec import read_tokenizer_spec
from .weights import Weights

# What is fetched from a hub: never pickles, never code.
_HUB_FILES: Final = ("*.json", "*.safetensors", "spiece.model")
_HUB_ID: Final = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True)
class Checkpoint:
    """Everything about a checkpoint but its tensors, which `weights` reads when they are asked for."""

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
            name: A folder, or, where there is no such folder, the id of a model on the Hugging Face hub; then
                huggingface_hub's cache and HF_HUB_OFFLINE are honored.
            dialect: Whose names and orientation the weights have; None finds out.
            image_size: Pixels each way in the place of the checkpoint's own; `config` and `image` then say so, and the
                position embeddings are those that are stored.

        Raises:
            CheckpointError: It is missing, damaged, of another model, or does not fit its own config.
        """
        folder = locate(str(name))
        known = read_config(folder) if (folder / "config.json").exists() else None
        store = open_store(
            folder,
            npz=None if dialect is None else dialect is Dialect.BIG_VISION,
            open_clip=None if dialect is None else dialect is Dialect.OPEN_CLIP,
        )
        config, dialect = _recognized(folder, store, known, dialect)
        weights = Weights.open(store, dialect, expected_shapes(config))
        foreign = dialect in (Dialect.OPEN_CLIP, Dialect.BIG_VISION)
        if foreign and not (folder / PROCESSOR_FILE).exists():
            if dialect is Dialect.BIG_VISION:
                _check_known(folder, config)
            image = image_spec(config.vision_config, read_preprocess(folder))
        else:
            image = read_image_spec(folder, config.vision_config)
        tokenizer = read_tokenizer_spec(folder, config.text_config, open_clip=foreign)
        opened = cls(_name(str(name), folder), folder, config, image, tokenizer, weights)
        return opened if image_size is None else opened.resized(image_size)

    def resized(self, size: int) -> Checkpoint:
        """The same for images of another size; its position embeddings stay those that are stored.

        Raises:
            CheckpointError: The model has no image size, or a patch is larger.
        """
        vision = self.config.vision_config
        if vision.naflex:
            raise CheckpointError(f"{self.folder} is a NaFlex model, which has no image size.", "Leave it out.")
        if size < vision.patch_size:
            raise CheckpointError(f"{size} pixels are less than a patch of {vision.patch_size}.", "Use a larger size.")
        config = replace(self.config, vision_config=replace(vision, image_size=size))
        return replace(self, config=config, image=replace(self.image, height=size, width=size))

    @property
    def logit_scale(self) -> float:
        """Factor on the cosine, already exponentiated."""
        value = math.exp(min(float(self.weights.load("logit_scale")), 80.0))  # exp(80) is still a float32
        return _finite(value, "logit_scale", self.folder)

    @property
    def logit_bias(self) -> float:
        """Added to the scaled cosine."""
        return _finite(float(self.weights.load("logit_bias")), "logit_bias", self.folder)


def _check_known(folder: Path, config: SiglipConfig) -> None:
    """Refuse to guess how images are resized, where an .npz alone does not tell and models of the family differ.

    Raises:
        CheckpointError: It is not SigLIP's own square bicubic resize to whole patches.
    """
    vision = config.vision_config
    doubts = {
        "it is a NaFlex model": vision.naflex,
        "SigLIP 2 may resize by another filter than SigLIP": (folder / "tokenizer.json").exists(),
        f"patches of {vision.patch_size} leave a rest of 384 pixels": 384 % vision.patch_size > 0,
    }
    for doubt, is_so in doubts.items():
        if is_so:
            raise CheckpointError(
                f"The weights in {folder} do not say how images are resized: {doubt}.",
                "Put the preprocessor_config.json and config.json of the same model on the hub into the folder.",
            )


def _recognized(
    folder: Path, store: Store, known: SiglipConfig | None, dialect: Dialect | None
) -> tuple[SiglipConfig, Dialect]:
    """The config, read off the weights where there is no config.json, and the dialect, unless it is named."""

    def needed() -> SiglipConfig:
        return known or read_config(folder)  # which tells that it is missing

    dialect = dialect or detect(store, lambda: expected_shapes(needed()))
    bare = known is None and dialect in (Dialect.OPEN_CLIP, Dialect.BIG_VISION)
    return infer_config(folder, store, dialect) if bare else needed(), dialect


def locate(name: str) -> Path:
    """The folder of a checkpoint, fetched from the hub where `name` is the id of a model there.

    Raises:
        CheckpointError: There is no such folder, and no such model can be had.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.exists() or not _HUB_ID.fullmatch(name):
        raise CheckpointError(
            f"There is no folder {name}, and it does not look like the id of a model on a hub (owner/name) either.",
            "Name a folder with config.json and weights, or an id such as google/siglip-base-patch16-224.",
        )
    privacy.opt_out()
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(_HUB_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"There is no folder {name}, and the model {name} could not be had from the hub "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}).",
            "Check the name, the network and HF_HUB_OFFLINE, or name a folder.",
        ) from error


def _name(name: str, folder: Path) -> str:
    return name if not Path(name).exists() else folder.resolve().name


def _finite(value: float, name: str, folder: Path) -> float:
    if not math.isfinite(value):
        raise CheckpointError(f"The {name} in {folder} is {value}.", "The checkpoint is damaged; get it again.")
    return value
