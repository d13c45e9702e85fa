"""What is made out of order, given out in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from roialign.extraction.store.rows import ErrorRow, Made


@dataclass(eq=False)
class _Image:
    count: int
    made: deque[Made]
    ended: bool = False


class InOrder:
    """Rows and errors of images, each held back until all images that began before it have ended.

    Those of the first image that has not ended are held by nothing: they are given out as they come.

    Example:
        >>> held = InOrder()
        >>> for name in ("a.jpg", "b.jpg"):
        ...     held.begin(name, count=1)
        >>> held.add(ErrorRow("b.jpg", "0", "RA302", "not finite"))
        >>> list(held.ready()), held.count
        ([], 2)
        >>> for name in ("b.jpg", "a.jpg"):
        ...     held.end(name)
        >>> [error.image_id for error in held.ready()], held.count
        (['b.jpg'], 0)
    """

    def __init__(self) -> None:
        self._images = dict[str, _Image]()

    @property
    def count(self) -> int:
        """Rows and errors, at most, of the images from the first one on that has not ended."""
        return sum(image.count for image in self._images.values())

    def begin(self, image_id: str, count: int, errors: Sequence[ErrorRow] = ()) -> None:
        """The next image, of which `count` rows and errors will come in all, and these errors first."""
        self._images[image_id] = _Image(count, deque(errors))

    def add(self, made: Made) -> None:
        """Something that was made of an image that has begun."""
        self._images[made.image_id].made.append(made)

    def end(self, image_id: str) -> None:
        """No more of this image will come."""
        self._images[image_id].ended = True

    def ready(self) -> Iterator[Made]:
        """What no earlier image holds back, once."""
        while self._images:
            image_id, image = next(iter(self._images.items()))
            while image.made:
                yield image.made.popleft()
            if not image.ended:
                return
            del self._images[image_id]
