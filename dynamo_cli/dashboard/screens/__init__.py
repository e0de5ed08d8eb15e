"""What lies over the tabs for a while."""
