"""Vision and text towers as PyTorch modules, their weights, and their tracing to ONNX."""
