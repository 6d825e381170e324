"""What makes an object a running process: owned tasks, settings, logging, metrics, notification of systemd."""
