"""Calibration: run a tower block by block, and split the data that it runs on."""
