"""The vision and text towers as PyTorch modules, and how they are traced to ONNX."""
