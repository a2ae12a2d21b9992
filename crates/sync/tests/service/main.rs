//! The service as its users meet it: over sockets, over a real Redis, and with parts of it killed.

mod explain;
mod faults;
mod fuzz;
mod garbage;
mod http;
mod input;
mod model;
mod port;
mod sdk;
mod support;
