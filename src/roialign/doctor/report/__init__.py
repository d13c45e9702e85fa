"""Reports of what the doctor found: for the terminal and as a page."""
