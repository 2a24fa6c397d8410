"""Faults in preprocessing: wrong token ids or pixels, from the artifact's files or the runtime's code."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image
from sentencepiece import sentencepiece_model_pb2 as spm

from siglip_onnx.runtime import ImageOptions, Siglip
from siglip_onnx.runtime.arrays import ByteArray
from siglip_onnx.runtime.artifact.input_specs import Orientation, Transparency
from siglip_onnx.runtime.preprocessing.image import ImageInput, ImageProcessor, load_image
from siglip_onnx.validate import CheckGroup

from ..conftest import rewrite
from .edits import Change, in_contract, in_file
from .fault import Fault, FaultArea

_PIECES: Final = ("▁face", "▁hand")  # from the bundled vocabulary; many captions contain one of them


def _in_tokenizer_json(edit: Callable[[dict[str, Any]], None]) -> Change:
    """Edit tokenizer.json, which the tokenizers library reads and our runtime does not."""

    def make(folder: Path) -> None:
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text("utf-8"))
        edit(content)
        path.write_text(json.dumps(content), "utf-8")
        rewrite(folder)

    return make


def _no_end_token(content: dict[str, Any]) -> None:
    content["post_processor"] = None


def _truncates_on_the_left(content: dict[str, Any]) -> None:
    content["truncation"]["direction"] = "Left"


def _no_padding(content: dict[str, Any]) -> None:
    content["padding"] = None


def _case_kept(content: dict[str, Any]) -> None:
    steps = content["normalizer"]["normalizers"]
    content["normalizer"]["normalizers"] = [step for step in steps if step["type"] != "Lowercase"]


def _no_model(content: dict[str, Any]) -> None:
    content["model"] = None


def _canonicalizing(canonical: Callable[[str], str]) -> Callable[[Siglip], None]:
    """Patch the tokenizer's canonicalization."""

    def patch(model: Siglip) -> None:
        vars(model.tokenizer)["canonical"] = canonical

    return patch


def _spaced(text: str) -> str:
    return " ".join("".join(" " if letter in string.punctuation else letter.lower() for letter in text).split())


def _pieces_swapped(folder: Path) -> None:
    """A vocabulary of the same size with two pieces swapped, as from another training run."""
    path = folder / "spiece.model"
    model = spm.ModelProto()
    model.ParseFromString(path.read_bytes())
    one, other = (next(piece for piece in model.pieces if piece.piece == name) for name in _PIECES)
    one.piece, other.piece = other.piece, one.piece
    path.write_bytes(model.SerializeToString())
    rewrite(folder)


def _with_options(options: ImageOptions) -> Callable[[Siglip], None]:
    """Options that a user may choose, but that differ from the reference."""

    def patch(model: Siglip) -> None:
        model.images = ImageProcessor(model.contract.image, options)

    return patch


class _ReplacedResize(ImageProcessor):
    """An image processor with another resize function, which receives the decoded image and the target size."""

    def __init__(self, model: Siglip, resize: Callable[[Image.Image, tuple[int, int]], Image.Image]) -> None:
        super().__init__(model.contract.image)
        self._resize = resize

    def bytes_of(self, image: ImageInput) -> ByteArray:
        """Decode as the base class does, and resize with the replaced function."""
        return np.asarray(self._resize(load_image(image, self.options), (self.spec.width, self.spec.height)))


def _resizing(resize: Callable[[Image.Image, tuple[int, int]], Image.Image]) -> Callable[[Siglip], None]:
    def patch(model: Siglip) -> None:
        model.images = _ReplacedResize(model, resize)

    return patch


def _not_antialiased(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize without antialiasing, as OpenCV and torch do by default: each output pixel reads 4 × 4 input pixels."""
    scale = image.width / size[0], image.height / size[1]
    return image.transform(size, Image.Transform.AFFINE, (scale[0], 0, 0, 0, scale[1], 0), Image.Resampling.BICUBIC)


def _cropped(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize the center crop, as CLIP does."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.resize(size, Image.Resampling.BICUBIC, (left, top, left + side, top + side))


def _gray(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image.convert("L").convert("RGB").resize(size, Image.Resampling.BICUBIC)


def _resized_twice(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize a thumbnail, as from a store without originals."""
    between = size[0] + 1, size[1] + 1
    return image.resize(between, Image.Resampling.BICUBIC).resize(size, Image.Resampling.BICUBIC)


def _as_floats(model: Siglip) -> None:
    """Rescale in float32 by multiplication, which differs from the reference in the last bit."""
    spec = model.contract.image
    images = ImageProcessor(spec)
    levels = np.arange(256, dtype=np.float32) * np.float32(2 / 255) - np.float32(1)
    images._table = np.stack([levels] * 3)
    model.images = images


def _transposed(model: Siglip) -> None:
    """Swap height and width, which no shape check finds in square images."""
    images = model.images

    class Transposed(ImageProcessor):
        def bytes_of(self, image: ImageInput) -> ByteArray:
            return super().bytes_of(image).transpose(1, 0, 2)

    model.images = Transposed(images.spec)


def _text(name: str, make: Change) -> Fault:
    return Fault(name, FaultArea.TOKENIZER, CheckGroup.TOKENS, make)


def _image(name: str, make: Change) -> Fault:
    return Fault(name, FaultArea.IMAGE, CheckGroup.PIXELS, make)


def _decoding(name: str, patch: Callable[[Siglip], None]) -> Fault:
    return Fault(name, FaultArea.IMAGE, CheckGroup.PIXELS, patch=patch)


FAULTS: Final = (
    _text("pad id 0", in_contract("tokenizer", pad_id=0)),
    _text("no lower-casing", in_contract("tokenizer", lower_case=False)),
    Fault("punctuation kept", FaultArea.TOKENIZER, CheckGroup.TOKENS, patch=_canonicalizing(str.lower)),
    Fault("punctuation turned into spaces", FaultArea.TOKENIZER, CheckGroup.TOKENS, patch=_canonicalizing(_spaced)),
    _text("end id of another vocabulary", in_contract("tokenizer", eos_id=2)),
    _text("text length halved", in_contract("tokenizer", length=32)),
    _text("unknown piece read as text", in_contract("tokenizer", special_pieces={"</s>": 1})),
    _text("two vocabulary pieces swapped", _pieces_swapped),
    _text("tokenizer.json without the end token", _in_tokenizer_json(_no_end_token)),
    _text("tokenizer.json truncates on the left", _in_tokenizer_json(_truncates_on_the_left)),
    _text("tokenizer.json without padding", _in_tokenizer_json(_no_padding)),
    _text("tokenizer.json without lower-casing", _in_tokenizer_json(_case_kept)),
    _text("tokenizer.json without a vocabulary", _in_tokenizer_json(_no_model)),
    _text("tokenizer_config.json of a cased model", in_file("tokenizer_config.json", do_lower_case=False)),
    _image("mean and std of ImageNet", in_contract("image", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))),
    _image("bilinear resize", in_contract("image", filter="bilinear")),
    _image("red and blue swapped", in_contract("image", channel_order="BGR")),
    _image("rescaled by 1/256", in_contract("image", rescale=1 / 256)),
    _image("preprocessor_config.json with another mean", in_file("preprocessor_config.json", image_mean=[0, 0, 0])),
    _image("images one pixel larger", in_contract("image", height=65, width=65)),
    _decoding("no antialiasing", _resizing(_not_antialiased)),
    _decoding("cropped, not stretched", _resizing(_cropped)),
    _decoding("gray", _resizing(_gray)),
    _decoding("resized twice", _resizing(_resized_twice)),
    _decoding("image rows and columns swapped", _transposed),
    _decoding("rescaled in float32", _as_floats),
    _decoding("EXIF orientation ignored", _with_options(ImageOptions(orientation=Orientation.NEVER))),
    _decoding("opened images turned, too", _with_options(ImageOptions(orientation=Orientation.ALWAYS))),
    _decoding("alpha channel dropped", _with_options(ImageOptions(transparency=Transparency.DROP))),
    _decoding("transparency painted black", _with_options(ImageOptions(transparency=Transparency.BLACK))),
    _decoding("JPEGs decoded at reduced size", _with_options(ImageOptions(reduced_jpeg=True))),
)
