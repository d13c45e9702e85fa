"""Other libraries' boxes, pipelines and models: a module for each, which imports its library when it is imported."""
