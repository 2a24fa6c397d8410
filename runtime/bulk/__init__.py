"""Collections: embed a million pictures or texts into a file, and search it."""

from .embeddings_file import VectorType
from .items import Inputs, Kind
from .job import Cluster, EmbedJob, Engine, embed
from .retrieval import Hit, search

__all__ = ["Cluster", "EmbedJob", "Engine", "Hit", "Inputs", "Kind", "VectorType", "embed", "search"]
