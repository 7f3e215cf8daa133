//! What two or more daemons share: object source, probes, telemetry, status, shutdown.
