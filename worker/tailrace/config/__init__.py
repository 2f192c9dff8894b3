"""What a process is told: its settings, the environments and keys it serves, where its servers are."""
