"""Everything that speaks OCI: references, manifests, image layouts, registries."""
