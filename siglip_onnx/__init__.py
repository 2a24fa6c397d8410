"""siglip-onnx: SigLIP checkpoints to ONNX artifacts, run without PyTorch, proven equal to the reference.

`siglip_onnx.runtime` runs an artifact, `siglip_onnx.exporter` makes one from a checkpoint, and
`siglip_onnx.validate` judges one against the PyTorch reference.
"""

__version__ = "0.1.0"
