"""What production never runs: embedded servers, the demonstration, what the bundled recordings are made with."""
