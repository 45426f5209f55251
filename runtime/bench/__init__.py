"""All that measures: ``kiki bench``. No process of the runtime and no other verb imports it."""
