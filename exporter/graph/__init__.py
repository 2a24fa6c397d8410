"""ONNX graphs: names, node building, the joint graph, and preprocessing inside a graph."""
