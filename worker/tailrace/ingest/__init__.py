"""Put what the wire brought in order, and say what a connection, its end and the run's end mean for a stream."""
