"""A whole internet on one machine: namespaces at the ends, router models, one asyncio process between."""
