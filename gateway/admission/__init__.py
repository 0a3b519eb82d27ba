"""Whether, when and where: admission without I/O."""
