"""The inner loops, each with a plain torch reference and a fast version; each package's face picks by device."""
