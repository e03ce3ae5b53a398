"""Callbacks for training frameworks, one file each; a framework is imported in its own file alone."""
