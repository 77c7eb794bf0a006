"""What clustrix makes of the API of Kubernetes; no plug-in, but what the plug-ins for it share."""
