"""Entry point of worker processes: `python -m siglip_onnx.validate.matrix TASK FOLDER`."""

from __future__ import annotations

import sys

from .worker import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
