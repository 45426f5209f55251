"""The gate for tenants' services: ``<prefix>.ask.<tenant>.<verb>`` -> turns and records of that tenant alone."""
