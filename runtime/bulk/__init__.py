"""Collections: embed a million images or texts into a file, and search it."""

from .embeddings_file import VectorDtype
from .inputs import Inputs, Modality
from .job import Backend, Cluster, EmbedJob, embed
from .retrieval import Hit, search

__all__ = ["Backend", "Cluster", "EmbedJob", "Hit", "Inputs", "Modality", "VectorDtype", "embed", "search"]
