"""Teachers: each looks at a scene and gives a Reconstruction."""
