"""The command line: the only place that prints and reads options. One module a command."""
