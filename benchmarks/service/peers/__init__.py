"""The baseline servers. Each runs in a virtual environment of its own and imports nothing of this project's packages."""
