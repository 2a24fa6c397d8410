"""Tests that other programs open the artifacts of siglip-onnx and give its answers."""
