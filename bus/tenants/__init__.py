"""How tenants share what is limited, and what a consumer has in hand of each."""
