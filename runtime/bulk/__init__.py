"""Collections: embed a million pictures or texts into a file, and search it."""

from .embed import Cluster, EmbedJob, Engine, embed
from .items import Inputs, Kind
from .parquet import VectorType
from .retrieval import Hit, search

__all__ = ["Cluster", "EmbedJob", "Engine", "Hit", "Inputs", "Kind", "VectorType", "embed", "search"]
