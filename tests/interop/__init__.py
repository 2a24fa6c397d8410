"""Tests that other programs open the artifacts of siglip-onnx and compute the same outputs."""
