"""The baseline servers, each in a virtual environment of its own, without this project's packages."""
