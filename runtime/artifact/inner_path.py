"""The type of paths in the contract."""

from __future__ import annotations

from typing import Annotated

import msgspec

# A path inside the artifact: relative, with forward slashes, without `.` and `..`.
InnerPath = Annotated[str, msgspec.Meta(pattern=r"^(?!/)(?!.*(^|/)\.\.?(/|$))[A-Za-z0-9._/-]+$")]
