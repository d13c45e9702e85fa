"""What a watch gathers of what happens around RoI calls: images and what is done to them, tokens, detections."""
