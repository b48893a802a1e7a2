"""Read, check and publish model folders."""
