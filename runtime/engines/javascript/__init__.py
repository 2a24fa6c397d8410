"""ONNX Runtime in Node and in a browser, in processes that are driven over standard input and output."""
