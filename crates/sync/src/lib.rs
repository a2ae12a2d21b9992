//! Signals, barriers and topics: the engine, its stores, the service and a client.
