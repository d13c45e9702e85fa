"""Region features of whole collections of images, on disk."""

from roialign.errors import SampleError as SampleError
from roialign.extraction.extract import extract as extract
from roialign.extraction.stage import EmbedRegions as EmbedRegions
from roialign.extraction.store.reading import Regions as Regions
from roialign.extraction.store.reading import open as open  # noqa: A004  as of other libraries
from roialign.extraction.store.search import nearest as nearest
