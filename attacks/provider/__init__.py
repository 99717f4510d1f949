"""Providers who only pretend to forget, one file each."""
