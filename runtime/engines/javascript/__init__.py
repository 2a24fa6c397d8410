"""ONNX Runtime in Node and in a browser, driven over standard input and output."""
