"""Calibration: running a tower block by block, and the data it runs on."""
