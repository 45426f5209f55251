"""The runtime around the agents: settings, their registry, processes, supervisor, HTTP facade, command line, logs."""
