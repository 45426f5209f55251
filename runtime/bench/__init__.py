"""``kiki bench``: the measurements. No process of the runtime and no other verb imports this package."""
