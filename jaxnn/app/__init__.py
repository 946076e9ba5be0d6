"""The commands of `jaxnn`: settings, what is made of them, and the folders of runs."""
