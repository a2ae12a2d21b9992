//! A service in memory on the address given: `cargo run -p testground-sync --example serve -- 127.0.0.1:5050`.

use testground_sync::server::{Options, Service};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:5050".to_owned());
    let listener = TcpListener::bind(&address).await?;
    println!("listening on {}", listener.local_addr()?);
    let interrupted = async {
        // Without a handler for it the signal ends the process anyhow.
        let _ = tokio::signal::ctrl_c().await;
    };
    Service::in_memory(Options::default(), None).serve(listener, interrupted).await
}
