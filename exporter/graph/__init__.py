"""ONNX graphs: names, node builder, joint graph, and preprocessing in a graph."""
