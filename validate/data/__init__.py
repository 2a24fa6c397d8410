"""Evaluation data: images, captions, classes, labels and probes."""
