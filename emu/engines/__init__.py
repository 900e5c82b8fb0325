"""Engines make the guest progress until something needs the monitor."""
