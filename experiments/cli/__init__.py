"""What every command line shares: arguments, configuration, messages."""
