"""Texts and images that reach the towers as something else, by the files or by the runtime's code."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sentencepiece import sentencepiece_model_pb2 as spm

from siglip_onnx.runtime import ImageOptions, Siglip
from siglip_onnx.runtime.preprocessing.image import ImageInput, ImageProcessor, Transparency, load_image
from siglip_onnx.validate import CheckGroup

from ..conftest import rewrite
from .edits import Change, in_contract, in_file
from .fault import Fault, FaultArea

_PIECES: Final = ("▁face", "▁hand")  # of the bundled vocabulary; many captions have one of them


def _in_tokenizer_json(edit: Callable[[dict[str, Any]], None]) -> Change:
    """The file of the tokenizers library, which every consumer but our runtime reads."""

    def make(folder: Path) -> None:
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text("utf-8"))
        edit(content)
        path.write_text(json.dumps(content), "utf-8")
        rewrite(folder)

    return make


def _no_end(content: dict[str, Any]) -> None:
    content["post_processor"] = None


def _cut_from_the_left(content: dict[str, Any]) -> None:
    content["truncation"]["direction"] = "Left"


def _no_padding(content: dict[str, Any]) -> None:
    content["padding"] = None


def _case_kept(content: dict[str, Any]) -> None:
    steps = content["normalizer"]["normalizers"]
    content["normalizer"]["normalizers"] = [step for step in steps if step["type"] != "Lowercase"]


def _no_model(content: dict[str, Any]) -> None:
    content["model"] = None


def _reading(canonical: Callable[[str], str]) -> Callable[[Siglip], None]:
    """A tokenizer that cleans texts in another way."""

    def code(model: Siglip) -> None:
        vars(model.tokenizer)["canonical"] = canonical

    return code


def _spaced(text: str) -> str:
    return " ".join("".join(" " if letter in string.punctuation else letter.lower() for letter in text).split())


def _pieces_swapped(folder: Path) -> None:
    """A vocabulary of another training run: as large, and two pieces in each other's place."""
    path = folder / "spiece.model"
    model = spm.ModelProto()
    model.ParseFromString(path.read_bytes())
    one, other = (next(piece for piece in model.pieces if piece.piece == name) for name in _PIECES)
    one.piece, other.piece = other.piece, one.piece
    path.write_bytes(model.SerializeToString())
    rewrite(folder)


def _with_options(options: ImageOptions) -> Callable[[Siglip], None]:
    """The runtime as a user may ask for it, which is not what the reference does."""

    def code(model: Siglip) -> None:
        model.images = ImageProcessor(model.contract.image, options)

    return code


class _Careless(ImageProcessor):
    """A processor that decodes and resizes by a function of the decoded image and the size that is due."""

    def __init__(self, model: Siglip, resize: Callable[[Image.Image, tuple[int, int]], Image.Image]) -> None:
        super().__init__(model.contract.image)
        self._resize = resize

    def bytes_of(self, image: ImageInput) -> NDArray[np.uint8]:
        """As the base class does, but for the resizing."""
        return np.asarray(self._resize(load_image(image, self.options), (self.spec.width, self.spec.height)))


def _resizing(resize: Callable[[Image.Image, tuple[int, int]], Image.Image]) -> Callable[[Siglip], None]:
    def code(model: Siglip) -> None:
        model.images = _Careless(model, resize)

    return code


def _not_antialiased(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """As OpenCV and torch resize by default; a transformation reads no more than four by four pixels."""
    scale = image.width / size[0], image.height / size[1]
    return image.transform(size, Image.Transform.AFFINE, (scale[0], 0, 0, 0, scale[1], 0), Image.Resampling.BICUBIC)


def _cropped(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of the image, as CLIP has it."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.resize(size, Image.Resampling.BICUBIC, (left, top, left + side, top + side))


def _gray(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image.convert("L").convert("RGB").resize(size, Image.Resampling.BICUBIC)


def _twice(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A thumbnail first, as from a store that keeps no originals."""
    between = size[0] + 1, size[1] + 1
    return image.resize(between, Image.Resampling.BICUBIC).resize(size, Image.Resampling.BICUBIC)


def _as_floats(model: Siglip) -> None:
    """Rescaled in float32 and by a product, which differs from the reference in the last bit."""
    spec = model.contract.image
    images = ImageProcessor(spec)
    levels = np.arange(256, dtype=np.float32) * np.float32(2 / 255) - np.float32(1)
    images._table = np.stack([levels] * 3)
    model.images = images


def _turned(model: Siglip) -> None:
    """Height and width exchanged, which no shape shows where images are square."""
    images = model.images

    class Turned(ImageProcessor):
        def bytes_of(self, image: ImageInput) -> NDArray[np.uint8]:
            return super().bytes_of(image).transpose(1, 0, 2)

    model.images = Turned(images.spec)


def _text(name: str, make: Change) -> Fault:
    return Fault(name, FaultArea.TOKENIZER, CheckGroup.TOKENS, make)


def _image(name: str, make: Change) -> Fault:
    return Fault(name, FaultArea.IMAGE, CheckGroup.PIXELS, make)


def _decoding(name: str, code: Callable[[Siglip], None]) -> Fault:
    return Fault(name, FaultArea.IMAGE, CheckGroup.PIXELS, code=code)


FAULTS: Final = (
    _text("pad id 0", in_contract("tokenizer", pad_id=0)),
    _text("no lower-casing", in_contract("tokenizer", lower_case=False)),
    Fault("punctuation kept", FaultArea.TOKENIZER, CheckGroup.TOKENS, code=_reading(str.lower)),
    Fault("punctuation turned into spaces", FaultArea.TOKENIZER, CheckGroup.TOKENS, code=_reading(_spaced)),
    _text("end id of another vocabulary", in_contract("tokenizer", eos_id=2)),
    _text("texts half as long", in_contract("tokenizer", length=32)),
    _text("unknown piece read as text", in_contract("tokenizer", special_pieces={"</s>": 1})),
    _text("two pieces of the vocabulary exchanged", _pieces_swapped),
    _text("tokenizer.json without the end", _in_tokenizer_json(_no_end)),
    _text("tokenizer.json cuts from the left", _in_tokenizer_json(_cut_from_the_left)),
    _text("tokenizer.json without padding", _in_tokenizer_json(_no_padding)),
    _text("tokenizer.json keeps the case", _in_tokenizer_json(_case_kept)),
    _text("tokenizer.json without a vocabulary", _in_tokenizer_json(_no_model)),
    _text("tokenizer_config.json of a cased model", in_file("tokenizer_config.json", do_lower_case=False)),
    _image("mean and std of ImageNet", in_contract("image", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))),
    _image("bilinear resize", in_contract("image", filter="bilinear")),
    _image("red and blue swapped", in_contract("image", channel_order="BGR")),
    _image("rescaled by 1/256", in_contract("image", rescale=1 / 256)),
    _image("preprocessor_config.json with another mean", in_file("preprocessor_config.json", image_mean=[0, 0, 0])),
    _image("images of one pixel more", in_contract("image", height=65, width=65)),
    _decoding("no antialiasing", _resizing(_not_antialiased)),
    _decoding("cropped, not stretched", _resizing(_cropped)),
    _decoding("gray", _resizing(_gray)),
    _decoding("resized twice", _resizing(_twice)),
    _decoding("rows and columns exchanged", _turned),
    _decoding("rescaled in float32", _as_floats),
    _decoding("EXIF orientation applied", _with_options(ImageOptions(exif_orientation=True))),
    _decoding("transparency painted white", _with_options(ImageOptions(transparency=Transparency.WHITE))),
    _decoding("JPEGs decoded at a fraction", _with_options(ImageOptions(reduced_jpeg=True))),
)
