"""Where programs run: servers, engines, and other people's services."""
