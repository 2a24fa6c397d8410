"""`python -m siglip_onnx` is `siglip-onnx`."""

from .cli import main

main()
