"""Region features of whole collections of images, on disk."""
