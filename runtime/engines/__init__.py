"""Engines load and run graphs: ONNX Runtime, OpenVINO, and ONNX Runtime for JavaScript."""
