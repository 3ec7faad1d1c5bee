"""The commands, one module each: a function `run`, whose parameters are the options and whose docstring is the help."""
