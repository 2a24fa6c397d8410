"""Collections: embed a million images or texts into a file, and search the file."""

from .embeddings_file import VectorDtype
from .inputs import Inputs, Modality
from .job import Backend, Cluster, EmbedJob
from .retrieval import Hit, search
from .run import embed

__all__ = ["Backend", "Cluster", "EmbedJob", "Hit", "Inputs", "Modality", "VectorDtype", "embed", "search"]
