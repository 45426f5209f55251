"""Advisors: sibling services (nerve-wml, kiki-flow) that answer ``advise`` requests, each in a process of its own."""
